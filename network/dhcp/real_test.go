//go:build linux

package dhcp

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// storm has each client make one exchange, all at once as far as the window goes.
func (g *generator) storm(t *testing.T) {
	t.Helper()
	g.patience = 200 * time.Millisecond
	done, _ := g.run(0, 30*time.Second, true)
	require.Equal(t, len(g.clients), done)
	require.Zero(t, g.naks)
	seen := map[[4]byte]bool{}
	for i, c := range g.clients {
		require.Equal(t, testAddr(i), c.addr)
		require.False(t, seen[c.addr])
		seen[c.addr] = true
	}
}

func TestABootStormGivesEachItsOwn(t *testing.T) {
	n := newNode(t)
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(1000)))
	g := newGenerator(t, n.guest, 1000)
	g.window = 1000
	g.storm(t)
	require.Len(t, s.Leases(), 1000)
	c := s.Counters()
	require.Zero(t, c.Naks)
	require.Zero(t, c.Failed+c.Panicked+c.Malformed+c.Unknown)
}

func TestStarvationStarvesNobody(t *testing.T) {
	testneed.Slow(t)
	n := newNode(t)
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(50)))
	attack := newGenerator(t, n.guest, 100_000)
	known := newGenerator(t, n.guest, 50)
	// 100,000 that nobody knows, with the known ones among them.
	for i := 50; i < len(attack.clients); i++ {
		attack.clients[i].xid = uint32(i) << 8
		attack.send(i, discover)
		if i == 10_000 || i == 60_000 {
			attack.flush()
			known.storm(t)
		}
	}
	attack.flush()
	known.storm(t)
	require.Eventually(t, func() bool { return s.Counters().Unknown > 50_000 }, time.Minute, 10*time.Millisecond)
	require.Zero(t, s.Counters().Naks)
	require.Len(t, s.Leases(), 50)
}

// TestADeclineFloodKeepsTheAddress: whatever a client says of its address, it is offered it again.
func TestADeclineFloodKeepsTheAddress(t *testing.T) {
	n := newNode(t)
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(2)))
	g := newGenerator(t, n.guest, 2)
	g.storm(t)
	require.Len(t, s.Leases(), 2)
	for range 2000 {
		g.send(1, decline)
	}
	g.flush()
	require.Eventually(t, func() bool {
		c := s.Counters()
		return c.Declines+c.Dropped >= 2000 && len(s.Leases()) == 1
	}, time.Minute, 10*time.Millisecond)
	g.storm(t) // asks again until the second of the flood is over
	require.Len(t, s.Leases(), 2)
}

// TestOneThatSendsWithoutEndTakesNothingFromTheOthers: a client of our own, this time.
func TestOneThatSendsWithoutEndTakesNothingFromTheOthers(t *testing.T) {
	testneed.Slow(t)
	n := newNode(t)
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(51)))
	attack, others := newGenerator(t, n.guest, 51), newGenerator(t, n.guest, 50)
	start := time.Now()
	var rounds int
	for ; rounds < 50_000 && time.Since(start) < 10*time.Second; rounds++ {
		attack.send(50, discover)
		attack.send(50, ask)
		if rounds == 10_000 {
			attack.flush()
			others.storm(t)
		}
	}
	attack.flush()
	others.storm(t)
	c := s.Counters()
	seconds := uint64(time.Since(start)/time.Second) + 2
	require.Less(t, c.Offers, seconds*perSecond+200)
	require.NotZero(t, c.Dropped)
}

// inGuest runs a client of the library on the guest's card, with port i's hardware address.
func inGuest(t *testing.T, n *node, i int, f func(c *nclient4.Client)) {
	t.Helper()
	runIn(t, n.guest, "ip", "link", "set", "g0", "address", testMAC(i).String())
	var c *nclient4.Client
	require.NoError(t, n.guest.Do(func() (err error) {
		c, err = nclient4.New("g0", nclient4.WithTimeout(time.Second), nclient4.WithRetry(5))
		return err
	}))
	defer c.Close()
	f(c)
}

func TestALibrarysClientRenewsAndReleases(t *testing.T) {
	n := newNode(t)
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(3)))
	inGuest(t, n, 2, func(c *nclient4.Client) {
		l, err := c.Request(t.Context())
		require.NoError(t, err)
		require.Equal(t, "10.0.0.18", l.ACK.YourIPAddr.String())
		require.Equal(t, "10.0.0.1", l.ACK.Router()[0].String())
		require.Len(t, s.Leases(), 1)
		again, err := c.Renew(t.Context(), l)
		require.NoError(t, err)
		require.Equal(t, "10.0.0.18", again.ACK.YourIPAddr.String())
		require.Equal(t, "10.0.0.18", again.ACK.ClientIPAddr.String())
		require.NoError(t, c.Release(l))
		require.Eventually(t, func() bool { return len(s.Leases()) == 0 }, time.Minute, time.Millisecond)
	})
	// A renewal as a machine sends it: by unicast, from its address, with a socket. The node must not say that nobody listens.
	runIn(t, n.guest, "ip", "addr", "add", "10.0.0.18/16", "dev", "g0")
	var conn net.Conn
	require.NoError(t, n.guest.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(10, 0, 0, 18), Port: clientPort}}
		conn, err = d.Dial("udp4", "10.0.0.1:67")
		return err
	}))
	defer conn.Close()
	for range 3 {
		m, err := dhcpv4.New(dhcpv4.WithHwAddr(testMAC(2)), dhcpv4.WithClientIP(net.IPv4(10, 0, 0, 18)), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest))
		require.NoError(t, err)
		_, err = conn.Write(m.ToBytes())
		require.NoError(t, err)
		var buf [1500]byte
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		size, err := conn.Read(buf[:])
		require.NoError(t, err)
		reply, err := dhcpv4.FromBytes(buf[:size])
		require.NoError(t, err)
		require.Equal(t, dhcpv4.MessageTypeAck, reply.MessageType())
	}
}

// TestAnOfferIsForItsClientAlone: the other machines on the bridge don't see it.
func TestAnOfferIsForItsClientAlone(t *testing.T) {
	n := newNode(t)
	n.card("br0", "g1")
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(3)))
	var neighbour *packet.Conn
	require.NoError(t, n.guest.Do(func() error {
		card, err := net.InterfaceByName("g1")
		if err != nil {
			return err
		}
		neighbour, err = packet.Listen(card, packet.Datagram, unix.ETH_P_IP, nil)
		return err
	}))
	defer neighbour.Close()
	require.NoError(t, neighbour.SetPromiscuous(true))
	inGuest(t, n, 1, func(c *nclient4.Client) {
		_, err := c.Request(t.Context(), dhcpv4.WithBroadcast(false))
		require.NoError(t, err)
	})
	var seen []byte
	for patience := time.Now().Add(time.Minute); ; {
		var b [2048]byte
		require.NoError(t, neighbour.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		size, _, err := neighbour.ReadFrom(b[:])
		if err != nil && (slices.Contains(seen, 1) || time.Now().After(patience)) {
			break
		}
		if size > ipHeader+udpHeader {
			seen = append(seen, b[ipHeader+udpHeader])
		}
	}
	require.Contains(t, seen, byte(1), "the client's broadcast")
	require.NotContains(t, seen, byte(2), "the server's answers")
}

// TestKilledBetweenDiskAndAnswer: the lease that was on disk when the process died is known to the next, which answers the
// client the same.
func TestKilledBetweenDiskAndAnswer(t *testing.T) {
	testneed.Slow(t)
	n := newNode(t)
	dir := t.TempDir()
	cmd := startChild(t, n.ns, dir, 10, "DHCP_CHILD_DIES=1")
	g := newGenerator(t, n.guest, 10)
	done, _ := g.run(0, 1500*time.Millisecond, true)
	require.Zero(t, done, "it died before it told anybody")
	_ = cmd.Wait()
	require.Equal(t, "signal: killed", cmd.ProcessState.String())
	data, err := os.ReadFile(filepath.Join(dir, leasesFile))
	require.NoError(t, err)
	before, damage := replay(data)
	require.Empty(t, damage)
	require.NotEmpty(t, before)

	s := n.start(dir)
	require.NoError(t, s.Apply(t.Context(), testDesired(10)))
	require.Eventually(t, func() bool { return len(s.Leases()) == len(before) }, time.Minute, time.Millisecond)
	g.storm(t)
	require.Len(t, s.Leases(), 10)
	for _, l := range s.Leases() {
		if was, ok := before[l.Tap]; ok {
			require.Equal(t, was.addr, l.Addr.As4())
			require.Equal(t, was.since, l.Since.UnixMilli(), "it is still the same lease")
		}
	}
}

func TestTwoServersInOneProcess(t *testing.T) {
	var servers [2]*Server
	var gens [2]*generator
	for i := range servers {
		n := newNode(t)
		servers[i] = n.start(t.TempDir())
		require.NoError(t, servers[i].Apply(t.Context(), testDesired(100*(i+1))))
		gens[i] = newGenerator(t, n.guest, 100*(i+1))
	}
	for i := range servers {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			gens[i].storm(t)
			require.Len(t, servers[i].Leases(), 100*(i+1))
		})
	}
}

func TestABridgeMayComeGoAndComeAgain(t *testing.T) {
	testneed.Slow(t)
	testneed.Root(t)
	testneed.Tools(t, "ip")
	n := &node{t, netnstest.New(t), netnstest.New(t)}
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(20)))
	for range 3 {
		n.bridge("br0", "10.0.0.1/16")
		n.card("br0", "g0")
		newGenerator(t, n.guest, 20).storm(t)
		n.ip("link", "set", "br0", "down")
		n.ip("link", "set", "br0", "up")
		newGenerator(t, n.guest, 20).storm(t)
		n.ip("link", "del", "tg0")
		n.ip("link", "del", "br0")
	}
	// Two bridges, of which one leaves the records while the other stays.
	n.bridge("br0", "10.0.0.1/16")
	n.card("br0", "g0")
	n.bridge("br1", "10.1.0.1/16")
	d := testDesired(20)
	second := testBridge()
	second.Name = "br1"
	d.Bridges = append(d.Bridges, second)
	require.NoError(t, s.Apply(t.Context(), d))
	require.NoError(t, s.Apply(t.Context(), testDesired(20)))
	newGenerator(t, n.guest, 20).storm(t)
}

func TestAMachineThatSpeaksForAnotherHearsNothing(t *testing.T) {
	n := newNode(t)
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(3)))
	inGuest(t, n, 2, func(*nclient4.Client) {})
	var c *nclient4.Client
	require.NoError(t, n.guest.Do(func() (err error) {
		c, err = nclient4.New("g0", nclient4.WithTimeout(100*time.Millisecond), nclient4.WithRetry(2), nclient4.WithHWAddr(testMAC(1)))
		return err
	}))
	defer c.Close()
	_, err := c.DiscoverOffer(t.Context())
	require.Error(t, err)
	require.Eventually(t, func() bool { return s.Counters().Spoofed > 0 }, time.Minute, time.Millisecond)
}

func TestRunEndsAndBeginsAgain(t *testing.T) {
	testneed.Slow(t)
	n := newNode(t)
	dir := t.TempDir()
	s, err := New(Config{Dir: dir, NetNS: n.ns.Path()})
	require.NoError(t, err)
	require.NoError(t, s.Apply(t.Context(), testDesired(20)))
	for range 3 {
		stop := n.run(s)
		newGenerator(t, n.guest, 20).storm(t)
		require.ErrorIs(t, s.Run(context.Background()), errdefs.ErrFailedPrecondition)
		stop()
		require.Len(t, s.Leases(), 20)
	}
	// Another server with the same directory waits until this one is gone, and grants nothing meanwhile.
	stop := n.run(s)
	newGenerator(t, n.guest, 20).storm(t)
	other := newNode(t)
	late := other.start(dir)
	require.NoError(t, late.Apply(t.Context(), testDesired(20)))
	g := newGenerator(t, other.guest, 20)
	done, _ := g.run(0, 300*time.Millisecond, true)
	require.Zero(t, done)
	require.Empty(t, late.Leases())
	stop()
	require.Eventually(t, func() bool { return len(late.Leases()) == 20 }, time.Minute, 10*time.Millisecond)
	g.storm(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, s.Run(ctx))
}

func TestABridgeThatIsDownOrNotOneIsTriedAgain(t *testing.T) {
	testneed.Root(t)
	n := &node{t, netnstest.New(t), nil}
	s, err := New(Config{Dir: t.TempDir(), NetNS: n.ns.Path()})
	require.NoError(t, err)
	_, err = s.open("br0")
	require.ErrorContains(t, err, "no such device")
	n.ip("link", "add", "br0", "type", "bridge")
	_, err = s.open("br0")
	require.ErrorContains(t, err, "down")
	_, err = s.open("a-name-too-long-for-one")
	require.Error(t, err)
	s.cfg.NetNS = filepath.Join(t.TempDir(), "none")
	_, err = s.open("br0")
	require.ErrorIs(t, err, os.ErrNotExist)
}
