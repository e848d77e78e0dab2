package ra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
)

func run(ns *netnstest.NS, args ...string) (out string, err error) {
	err = ns.Do(func() error {
		b, err := exec.Command("ip", args...).CombinedOutput()
		out = string(b)
		return err
	})
	return out, err
}

func ip(t testing.TB, ns *netnstest.NS, args ...string) string {
	t.Helper()
	out, err := run(ns, args...)
	require.NoError(t, err, "ip %s: %s", strings.Join(args, " "), out)
	return out
}

// start runs a server until the test ends, or the function that it returns is called.
func start(t testing.TB, node *netnstest.NS) (s *Server, stop func()) {
	t.Helper()
	s, err := New(Config{NetNS: node.Path(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return s, stop
}

func tap(n byte) network.Tap {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, n}
	return network.Tap{Name: "tap" + string('0'+n), Bridge: "br0", Port: "p", MAC: mac,
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, n}), netip.MustParseAddr("fd00:1::5054:ff:fe00:" + string('0'+n))}}
}

// guest is a machine behind a tap of the manager: it takes what it hears, as Linux does by itself.
func guest(t testing.TB, node *netnstest.NS, d network.Tap) *netnstest.NS {
	t.Helper()
	g := netnstest.New(t)
	netnstest.Cable(t, node, d.Name, g, "eth0")
	ip(t, g, "link", "set", "eth0", "address", d.MAC.String())
	ip(t, g, "link", "set", "eth0", "up")
	return g
}

// has waits until a guest has an address that duplicate address detection has passed.
func has(t testing.TB, g *netnstest.NS, addr string) {
	t.Helper()
	require.Eventually(t, func() bool {
		out, err := run(g, "-6", "addr", "show", "dev", "eth0", "-tentative")
		return err == nil && strings.Contains(out, addr+"/64")
	}, time.Minute, 50*time.Millisecond, "%s", addr)
}

// talk tells whether a connects to b, and b has its bytes.
func talk(a, b *netnstest.NS, local, remote string) error {
	var l net.Listener
	if err := b.Do(func() (err error) { l, err = net.Listen("tcp6", net.JoinHostPort(remote, "7")); return err }); err != nil {
		return err
	}
	defer l.Close()
	return a.Do(func() error {
		d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		c, err := d.Dial("tcp6", l.Addr().String())
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// Two guests behind filtered taps get the addresses that their records have, and reach each other by them; what they send with
// others goes nowhere.
func TestGuestsMakeTheirAddresses(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "ip")
	node := netnstest.New(t)
	manager, err := linux.New(linux.Config{NetNS: node.Path()})
	require.NoError(t, err)
	defer func() { require.NoError(t, manager.Close()) }()
	s, _ := start(t, node)
	b := bridge()
	b.Gateway = netip.MustParsePrefix("10.0.0.254/24")
	d := network.Desired{Bridges: []network.Bridge{b}, Taps: []network.Tap{tap(1), tap(2)}}
	require.NoError(t, s.Apply(t.Context(), d), "before the bridge is there")
	_, err = manager.Apply(t.Context(), d)
	require.NoError(t, err)
	require.NoError(t, s.Plug(t.Context(), b, d.Taps[0]))
	one, two := guest(t, node, d.Taps[0]), guest(t, node, d.Taps[1])
	first, second := "fd00:1::5054:ff:fe00:1", "fd00:1::5054:ff:fe00:2"
	has(t, one, first)
	has(t, two, second)
	require.Empty(t, ip(t, one, "-6", "route", "show", "default"), "the node is no router")
	require.Eventually(t, func() bool { return talk(one, two, first, second) == nil }, time.Minute, 50*time.Millisecond)

	ip(t, one, "addr", "add", "fd00:1::bad/64", "dev", "eth0", "nodad")
	require.Error(t, talk(one, two, "fd00:1::bad", second), "an address that is not the port's")
	require.NoError(t, talk(one, two, first, second))

	// Another prefix is told at once.
	b.Prefix6 = netip.MustParsePrefix("fd00:2::/64")
	d.Bridges[0] = b
	require.NoError(t, s.Apply(t.Context(), d))
	has(t, one, "fd00:2::5054:ff:fe00:1")

	reply, err := inform(one)
	require.NoError(t, err)
	require.Equal(t, "fd00:1::53", reply.Options.DNS()[0].String())
}

// Behind a bridge with a Gateway6 a guest routes through the node: while the server runs and the node forwards IPv6. When it ends well, the guest knows at
// once; another DNS server meanwhile is no reason to lose the router.
func TestGuestsRouteThroughTheNode(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "ip")
	node, outside := netnstest.New(t), netnstest.New(t)
	manager, err := linux.New(linux.Config{NetNS: node.Path()})
	require.NoError(t, err)
	defer func() { require.NoError(t, manager.Close()) }()
	s, stop := start(t, node)
	d := network.Desired{Bridges: []network.Bridge{bridge()}, Taps: []network.Tap{tap(1)}}
	d.Bridges[0].Gateway6 = netip.MustParsePrefix("fd00:1::1/64")
	apply := func() {
		t.Helper()
		_, err = manager.Apply(t.Context(), d)
		require.NoError(t, err)
		require.NoError(t, s.Apply(t.Context(), d))
	}
	apply()
	ip(t, node, "link", "add", "card", "type", "veth", "peer", "name", "eth0", "netns", outside.Path())
	ip(t, node, "link", "set", "card", "up")
	ip(t, node, "addr", "add", "2001:db8::1/64", "dev", "card", "nodad")
	ip(t, outside, "link", "set", "eth0", "up")
	ip(t, outside, "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	ip(t, outside, "route", "add", "fd00:1::/64", "via", "2001:db8::1")
	g := guest(t, node, d.Taps[0])
	has(t, g, "fd00:1::5054:ff:fe00:1")
	router := func() string { return ip(t, g, "-6", "route", "show", "default") }
	routes := func(want bool) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(router(), "proto ra") == want }, time.Minute, 20*time.Millisecond)
	}
	routes(true)
	require.Regexp(t, `expires (1800|17\d\d)sec`, router())
	require.Eventually(t, func() bool { return talk(g, outside, "fd00:1::5054:ff:fe00:1", "2001:db8::2") == nil }, time.Minute, 50*time.Millisecond)
	require.NoError(t, talk(outside, g, "2001:db8::2", "fd00:1::5054:ff:fe00:1"), "routed, and not translated")

	lost := watch(t, g)
	d.Bridges[0].DNS = []netip.Addr{netip.MustParseAddr("fd00:1::54")}
	apply()
	require.Eventually(t, func() bool {
		reply, err := inform(g)
		return err == nil && len(reply.Options.DNS()) == 1 && reply.Options.DNS()[0].String() == "fd00:1::54"
	}, time.Minute, 50*time.Millisecond)
	d.Bridges[0].Gateway6 = netip.Prefix{}
	require.Empty(t, lost(), "it had a router all the time")
	apply()
	routes(false)
	d.Bridges[0].Gateway6 = netip.MustParsePrefix("fd00:1::1/64")
	apply()
	routes(true)
	stop()
	routes(false)
	require.Equal(t, []string{"fd00:1::5054:ff:fe00:1/64"}, global(t, g), "it keeps its address")
	require.Equal(t, []string{"fd00:1::1/64"}, addresses(t, node, "br0"), "the node makes no address of what it says")

	// A node that does not forward says that it is no router, with all else.
	s, _ = start(t, node)
	require.NoError(t, node.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("0"), 0) }))
	d.Bridges[0].Prefix6, d.Bridges[0].Gateway6 = netip.MustParsePrefix("fd00:2::/64"), netip.MustParsePrefix("fd00:2::1/64")
	require.NoError(t, s.Apply(t.Context(), d))
	has(t, g, "fd00:2::5054:ff:fe00:1")
	require.Empty(t, router())
}

// watch returns a function that tells which default routes a guest has lost since.
func watch(t testing.TB, g *netnstest.NS) func() string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "routes"))
	require.NoError(t, err)
	cmd := exec.Command("ip", "-6", "monitor", "route")
	cmd.Stdout = file
	require.NoError(t, g.Do(cmd.Start))
	end := sync.OnceFunc(func() { _, _, _ = cmd.Process.Kill(), cmd.Wait(), file.Close() })
	t.Cleanup(end)
	return func() (lost string) {
		end()
		text, err := os.ReadFile(file.Name())
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "Deleted default") {
				lost += line
			}
		}
		return lost
	}
}

// As a distribution ships it, a client that does not leave it to the kernel makes the address that the record has, and has its DNS server and its
// domain. It runs with a directory tree of its own over /etc, /run, /sys and /var/lib, so that it changes nothing of the machine.
func TestNetworkdMakesItsAddress(t *testing.T) {
	const networkd = "/lib/systemd/systemd-networkd"
	testneed.Root(t)
	testneed.Slow(t)
	testneed.Tools(t, "ip", networkd, "unshare", "mount")
	node, g := netnstest.New(t), netnstest.New(t)
	ip(t, node, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0")
	ip(t, node, "link", "set", "br0", "up")
	ip(t, node, "link", "add", "t0", "type", "veth", "peer", "name", "eth0", "netns", g.Path())
	ip(t, node, "link", "set", "t0", "master", "br0", "up")
	ip(t, g, "link", "set", "eth0", "address", tap(1).MAC.String())
	s, _ := start(t, node)
	require.NoError(t, s.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{bridge()}, Taps: []network.Tap{tap(1)}}))

	etc := filepath.Join(t.TempDir(), "etc")
	require.NoError(t, os.MkdirAll(filepath.Join(etc, "systemd/network"), 0o755))
	for name := range strings.FieldsSeq("passwd group nsswitch.conf ld.so.cache") {
		text, err := os.ReadFile("/etc/" + name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(etc, name), text, 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(etc, "machine-id"), []byte("0123456789abcdef0123456789abcdef\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(etc, "systemd/network/eth0.network"), []byte("[Match]\nName=eth0\n"+
		"[Network]\nIPv6AcceptRA=yes\n[IPv6AcceptRA]\nUseDomains=yes\n"), 0o644))
	client := exec.Command("unshare", "--mount", "--uts", "--propagation", "private", "--", "sh", "-c", "mount --bind "+etc+" /etc && "+
		"mount -t tmpfs -o mode=755 tmpfs /run && mount -t tmpfs -o mode=755 tmpfs /var/lib && mkdir -p /run/systemd/netif/links && chown -R systemd-network:systemd-network /run/systemd && "+
		"mount -t sysfs -o ro sysfs /sys && exec "+networkd)
	said, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer said.Close()
	client.Stdout, client.Stderr, client.SysProcAttr = said, said, &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, g.Do(client.Start))
	t.Cleanup(func() {
		_ = syscall.Kill(-client.Process.Pid, syscall.SIGKILL)
		_ = client.Wait()
		if text, _ := os.ReadFile(said.Name()); t.Failed() {
			t.Logf("networkd said:\n%s", text)
		}
	})
	has(t, g, "fd00:1::5054:ff:fe00:1")
	require.Equal(t, []string{"fd00:1::5054:ff:fe00:1/64"}, global(t, g), "one, and no other")
	require.Eventually(t, func() bool {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/root/run/systemd/netif/links/*", client.Process.Pid))
		for _, link := range links {
			text, _ := os.ReadFile(link)
			if strings.Contains(string(text), "\nDNS=fd00:1::53\n") && strings.Contains(string(text), "\nDOMAINS=novalocal\n") {
				return true
			}
		}
		return false
	}, time.Minute, 50*time.Millisecond, "its DNS server and its domain")
}

// global lists the addresses of a guest that are not link-local.
func global(t testing.TB, g *netnstest.NS) []string { return addresses(t, g, "eth0") }

func addresses(t testing.TB, ns *netnstest.NS, link string) (all []string) {
	t.Helper()
	for line := range strings.Lines(ip(t, ns, "-6", "-o", "addr", "show", "dev", link, "scope", "global")) {
		all = append(all, strings.Fields(line)[3])
	}
	return all
}

// inform asks as a client of stateless DHCPv6.
func inform(g *netnstest.NS) (reply *dhcpv6.Message, err error) {
	err = g.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6unspecified, Port: clientPort, Zone: zone(link)})
		if err != nil {
			return err
		}
		defer c.Close()
		m, err := dhcpv6.NewMessage()
		if err != nil {
			return err
		}
		m.MessageType = dhcpv6.MessageTypeInformationRequest
		m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: link.HardwareAddr}))
		packet := make([]byte, 2000)
		for range 10 {
			if _, err := c.WriteTo(m.ToBytes(), &net.UDPAddr{IP: allAgents.AsSlice(), Port: serverPort, Zone: zone(link)}); err != nil {
				return err
			}
			if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
				return err
			}
			n, _, err := c.ReadFrom(packet)
			if err != nil {
				continue
			}
			reply, err = dhcpv6.MessageFromBytes(packet[:n])
			return err
		}
		return errors.New("no answer")
	})
	return reply, err
}

func TestABridgeMayComeLateAndAgain(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "ip")
	node := netnstest.New(t)
	s, stop := start(t, node)
	require.NoError(t, s.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{bridge()}}))
	for range 2 {
		ip(t, node, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0")
		ip(t, node, "link", "set", "br0", "up")
		g := netnstest.New(t)
		ip(t, node, "link", "add", "t0", "type", "veth", "peer", "name", "eth0", "netns", g.Path())
		ip(t, node, "link", "set", "t0", "master", "br0", "up")
		require.NoError(t, s.Plug(t.Context(), bridge(), network.Tap{Name: "t0", Bridge: "br0"})) // as the agent does
		ip(t, g, "link", "set", "eth0", "address", "52:54:00:00:00:01", "up")
		has(t, g, "fd00:1::5054:ff:fe00:1")
		ip(t, node, "link", "del", "t0")
		ip(t, node, "link", "del", "br0")
	}
	require.ErrorIs(t, s.Run(t.Context()), errdefs.ErrFailedPrecondition)
	require.NoError(t, s.Apply(t.Context(), network.Desired{}))
	stop()
}
