package linux

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// outside is what a node's card leads to: a namespace with the other end of the cable, which knows nothing by itself.
type outside struct {
	t        *testing.T
	fd       int
	mac, far net.HardwareAddr // of the card, and of the far end
}

var router = netip.MustParseAddr("192.0.2.1")

func linkMAC(t *testing.T, ns *netnstest.NS, link string) net.HardwareAddr {
	t.Helper()
	found := regexp.MustCompile(`link/ether ([0-9a-f:]{17})`).FindStringSubmatch(ipIn(t, ns, "-o link show dev "+link))
	require.NotNil(t, found)
	mac, err := net.ParseMAC(found[1])
	require.NoError(t, err)
	return mac
}

func withOutside(t *testing.T) (*netnstest.NS, *Manager, *outside) {
	t.Helper()
	ns, m := withCard(t)
	there := netnstest.New(t)
	ipIn(t, ns, "link set far netns "+there.Path())
	ipIn(t, there, "link set far up")
	o := &outside{t: t, mac: linkMAC(t, ns, "card"), far: linkMAC(t, there, "far"), fd: packetSocket(t, there, "far")}
	sh(t, ns, "echo 1 > /proc/sys/net/ipv4/ip_forward")
	ipIn(t, ns, "neigh replace 192.0.2.1 lladdr "+o.far.String()+" dev card")
	return ns, m, o
}

func (o *outside) send(frame []byte) {
	o.t.Helper()
	_, err := unix.Write(o.fd, frame)
	require.NoError(o.t, err)
}

// await returns the first frame that the node sends and that is wanted.
func (o *outside) await(what string, wanted func(frame []byte) bool) []byte {
	o.t.Helper()
	var found []byte
	buf := make([]byte, 4096)
	require.Eventually(o.t, func() bool {
		for {
			n, _, err := unix.Recvfrom(o.fd, buf, 0)
			if err != nil {
				return false
			}
			if wanted(buf[:n]) {
				found = bytes.Clone(buf[:n])
				return true
			}
		}
	}, time.Minute, time.Millisecond, what)
	return found
}

// await is the same for what a guest gets.
func (g guest) await(t *testing.T, what string, wanted func(frame []byte) bool) []byte {
	t.Helper()
	require.NoError(t, g.file.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, 4096)
	for {
		n, err := g.file.Read(buf)
		require.NoError(t, err, what)
		if frame := buf[vnetHdr:n]; wanted(frame) {
			return bytes.Clone(frame)
		}
	}
}

// datagram is a frame with UDP from one address and port to another.
func datagram(dst, src net.HardwareAddr, from, to netip.AddrPort, text string) []byte {
	return ethernet(dst, src, 0x0800, ipv4(from.Addr(), to.Addr(), 17, udp(from.Port(), to.Port(), []byte(text))))
}

// ending is for datagrams that end in text.
func ending(text string) func([]byte) bool {
	return func(frame []byte) bool { return len(frame) > 42 && bytes.Contains(frame[42:], []byte(text)) }
}

// ends returns where a datagram comes from and goes to.
func ends(frame []byte) (from, to string) {
	src, _ := netip.AddrFromSlice(frame[26:30])
	dst, _ := netip.AddrFromSlice(frame[30:34])
	return netip.AddrPortFrom(src, binary.BigEndian.Uint16(frame[34:])).String(), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(frame[36:])).String()
}

func says(op byte, sender netip.Addr) func([]byte) bool {
	return func(frame []byte) bool {
		return len(frame) >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == op && bytes.Equal(frame[28:32], sender.AsSlice())
	}
}

// FW-05 FW-06: packets from outside to a guest and back, from a guest to the outside with its floating IP or the node's address, and from
// guest to guest by a floating IP; told to the outside; moved, and gone.
func TestFloatingIPs(t *testing.T) {
	ns, m, o := withOutside(t)
	d := desired(1, 2)
	d.Bridges[0].NAT = true
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	gateway := linkMAC(t, ns, "br100")
	a, b := openGuest(t, ns, d.Taps[0]), openGuest(t, ns, d.Taps[1])
	ready(t, a, b)
	ready(t, b, a)
	for _, g := range []guest{a, b} {
		ipIn(t, ns, fmt.Sprintf("neigh replace %v lladdr %v dev br100", g.IPs[0], g.MAC))
	}
	fip := netip.MustParseAddr("203.0.113.7")
	at := netip.AddrPortFrom
	require.NoError(t, m.SetFloating(t.Context(), []network.Floating{{Addr: fip, Fixed: a.IPs[0], Link: "card"}}))
	told := o.await("announcement", says(1, fip))
	require.Equal(t, fip.AsSlice(), told[38:42], "an announcement asks for the address itself")
	require.Equal(t, []byte(o.mac), told[22:28])

	o.send(ethernet(broadcast, o.far, 0x0806, arp(1, o.far, router, fip, nil)))
	require.Equal(t, []byte(o.mac), o.await("ARP", says(2, fip))[22:28])

	o.send(datagram(o.mac, o.far, at(router, 5000), at(fip, 6000), "from outside"))
	from, to := ends(a.await(t, "from outside", ending("from outside")))
	require.Equal(t, []string{"192.0.2.1:5000", a.IPs[0].String() + ":6000"}, []string{from, to})
	a.send(t, datagram(gateway, a.MAC, at(a.IPs[0], 6000), at(router, 5000), "and back"))
	from, _ = ends(o.await("and back", ending("and back")))
	require.Equal(t, "203.0.113.7:6000", from)
	a.send(t, datagram(gateway, a.MAC, at(a.IPs[0], 7000), at(router, 7001), "to outside"))
	from, _ = ends(o.await("to outside", ending("to outside")))
	require.Equal(t, "203.0.113.7:7000", from)
	b.send(t, datagram(gateway, b.MAC, at(b.IPs[0], 7002), at(router, 7003), "without one"))
	from, _ = ends(o.await("without one", ending("without one")))
	require.Regexp(t, `^192\.0\.2\.2:`, from)

	b.send(t, datagram(gateway, b.MAC, at(b.IPs[0], 8000), at(fip, 8001), "from guest to guest"))
	from, to = ends(a.await(t, "hairpin", ending("from guest to guest")))
	require.Equal(t, a.IPs[0].String()+":8001", to)
	a.send(t, datagram(gateway, a.MAC, netip.MustParseAddrPort(to), netip.MustParseAddrPort(from), "hairpin back"))
	from, to = ends(b.await(t, "hairpin back", ending("hairpin back")))
	require.Equal(t, []string{"203.0.113.7:8001", b.IPs[0].String() + ":8000"}, []string{from, to})

	require.NoError(t, m.SetFloating(t.Context(), []network.Floating{{Addr: fip, Fixed: b.IPs[0], Link: "card"}}))
	o.send(datagram(o.mac, o.far, at(router, 5001), at(fip, 6000), "moved"))
	_, to = ends(b.await(t, "moved", ending("moved")))
	require.Equal(t, b.IPs[0].String()+":6000", to)

	require.NoError(t, m.SetFloating(t.Context(), nil))
	o.send(ethernet(broadcast, o.far, 0x0806, arp(1, o.far, router, fip, nil)))
	o.send(ethernet(broadcast, o.far, 0x0806, arp(1, o.far, router, netip.MustParseAddr("192.0.2.3"), nil)))
	o.await("ARP for another", func(frame []byte) bool {
		require.False(t, says(2, fip)(frame), "an address that is gone was answered for")
		return says(2, netip.MustParseAddr("192.0.2.3"))(frame)
	})
	require.NotContains(t, ipIn(t, ns, "-o addr show dev card"), "203.0.113.7")
}

// FW-05: a guest reaches the floating IP of one behind another bridge of the node, with its own floating IP if it has one, and has answers;
// without, bridges are apart.
func TestFloatingIPsBetweenBridges(t *testing.T) {
	ns, m, _ := withOutside(t)
	d := twoSegments()
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	gateway, otherGateway := routing(t, ns, d), linkMAC(t, ns, "br101")
	a, b := openGuest(t, ns, d.Taps[0]), openGuest(t, ns, d.Taps[1])
	ipIn(t, ns, fmt.Sprintf("neigh replace %v lladdr %v dev br100", a.IPs[0], a.MAC))
	fipA, fipB := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
	at := netip.AddrPortFrom
	toB := network.Floating{Addr: fipB, Fixed: b.IPs[0], Link: "card"}
	port := uint16(9000)
	// exchange is a datagram and its answer; it returns where b saw the datagram come from.
	exchange := func(text string) string {
		port++
		var from, to string
		require.Eventually(t, func() bool { // what a machine just opened, a bridge knows after some time
			a.send(t, datagram(gateway, a.MAC, at(a.IPs[0], port), at(fipB, 80), text))
			require.NoError(t, b.file.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
			buf := make([]byte, 4096)
			for {
				n, err := b.file.Read(buf)
				if err != nil {
					return false
				}
				if frame := buf[vnetHdr:n]; ending(text)(frame) {
					from, to = ends(frame)
					return true
				}
			}
		}, time.Minute, time.Millisecond, text)
		require.Equal(t, b.IPs[0].String()+":80", to)
		b.send(t, datagram(otherGateway, b.MAC, netip.MustParseAddrPort(to), netip.MustParseAddrPort(from), "answer to "+text))
		src, dst := ends(a.await(t, "answer to "+text, ending("answer to "+text)))
		require.Equal(t, []string{fipB.String() + ":80", at(a.IPs[0], port).String()}, []string{src, dst})
		return from
	}
	require.NoError(t, m.SetFloating(t.Context(), []network.Floating{toB}))
	require.Equal(t, at(d.Bridges[1].Gateway.Addr(), port+1).String(), exchange("without one"))
	require.NoError(t, m.SetFloating(t.Context(), []network.Floating{{Addr: fipA, Fixed: a.IPs[0], Link: "card"}, toB}))
	require.Equal(t, at(fipA, port+1).String(), exchange("with its own"))

	// To its fixed IP it gets nowhere still, and what is sent behind on the way that is open says when.
	out := sniff(t, ns, "br101")
	a.send(t, datagram(gateway, a.MAC, at(a.IPs[0], 7000), at(b.IPs[0], 80), "apart"))
	exchange("behind it")
	require.False(t, out("apart"))
	d.Floating = []network.Floating{{Addr: fipA, Fixed: a.IPs[0], Link: "card"}, toB}
	report, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Empty(t, report.Changes)

	require.NoError(t, m.SetFloating(t.Context(), nil))
	require.NotContains(t, sh(t, ns, "nft list table inet "+forwardTable), "ct status")
	d.Floating = nil
	report, err = m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Empty(t, report.Changes)
}

// A manager that dies at any of its calls while a floating IP moves leaves what the next one mends, and no address is on a link without the
// table knowing where it leads.
func TestAFloatingIPsMoveIsMended(t *testing.T) {
	testneed.Slow(t)
	fip, more := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
	one := []network.Floating{{Addr: fip, Fixed: tap(1).IPs[0], Link: "card"}}
	for name, c := range map[string]struct{ before, want []network.Floating }{
		"first":  {nil, one},
		"move":   {one, []network.Floating{{Addr: fip, Fixed: tap(2).IPs[0], Link: "card"}}},
		"change": {one, []network.Floating{{Addr: more, Fixed: tap(1).IPs[0], Link: "card"}}},
		"last":   {one, nil},
	} {
		for _, after := range []bool{false, true} {
			for place, died := 0, true; died; place++ {
				what := fmt.Sprintf("%s, call %d, after its effect: %v", name, place, after)
				ns, healthy := withCard(t)
				d := desired(1, 2)
				d.Floating = c.before
				_, err := healthy.Apply(t.Context(), d)
				require.NoError(t, err, what)
				died = die(t, ns, place, after, func(ctx context.Context, m *Manager) error { return m.SetFloating(ctx, c.want) })
				n, err := healthy.wire.nat()
				require.NoError(t, err)
				on, err := (&call{wire: healthy.wire}).floatingAddresses(t.Context())
				require.NoError(t, err)
				for a := range on {
					require.Contains(t, n.fixed, a.addr, what)
				}
				d.Floating = c.want
				_, err = healthy.Apply(t.Context(), d)
				require.NoError(t, err, what)
				got, err := healthy.Inspect(t.Context())
				require.NoError(t, err, what)
				require.Equal(t, d, got, what)
				report, err := healthy.Apply(t.Context(), d)
				require.NoError(t, err, what)
				require.Empty(t, report.Changes, what)
				require.Less(t, place, 100, "%s: does not end", name)
			}
		}
	}
}

// What others do to the table and to the address is mended and reported.
func TestFloatingIPsDriftIsMended(t *testing.T) {
	ns, m := withCard(t)
	d := desired(1)
	d.Bridges[0].NAT = true
	d.Floating = []network.Floating{{Addr: netip.MustParseAddr("203.0.113.7"), Fixed: tap(1).IPs[0], Link: "card"}}
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	before := ipIn(t, ns, "-o addr show dev card")
	for _, drift := range []string{"nft delete table ip dewpoint_nat", "nft flush map ip dewpoint_nat to_fixed", "nft flush map ip dewpoint_nat to_floating",
		"nft flush set ip dewpoint_nat masked", "nft flush chain ip dewpoint_nat postrouting", "nft add rule ip dewpoint_nat output drop",
		"nft add element ip dewpoint_nat to_fixed '{ 203.0.113.9 : 10.0.1.9 }'", "ip addr del 203.0.113.7/32 dev card"} {
		sh(t, ns, drift)
		report, err := m.Apply(t.Context(), d)
		require.NoError(t, err, drift)
		require.NotEmpty(t, report.Changes, drift)
		report, err = m.Apply(t.Context(), d)
		require.NoError(t, err, drift)
		require.Empty(t, report.Changes, drift)
		got, err := m.Inspect(t.Context())
		require.NoError(t, err, drift)
		require.Equal(t, d, got, drift)
	}
	// An address that somebody else gave the card is not ours, whatever pool it is of.
	sh(t, ns, "ip addr add 203.0.113.8/32 dev card")
	report, err := m.Apply(t.Context(), desired(1))
	require.NoError(t, err)
	require.NotEmpty(t, report.Changes)
	after := ipIn(t, ns, "-o addr show dev card")
	require.Contains(t, after, "203.0.113.8/32")
	require.NotContains(t, after, "203.0.113.7/32")
	require.Contains(t, before, "203.0.113.7/32")
}
