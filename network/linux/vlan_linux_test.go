package linux

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/nodevm"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// What needs VLANs runs in a virtual machine, whatever the kernel of the host has.
func TestInNodeVM(t *testing.T) {
	if !nodevm.Inside() {
		testneed.Slow(t)
		nodevm.Run(t, nodevm.Config{Tests: "^TestInNodeVM$"})
		return
	}
	t.Run("the kernel has VLANs", func(t *testing.T) { require.True(t, vlans(netnstest.New(t))) })
	t.Run("all modes at once on two nodes", testModesOnTwoNodes)
	t.Run("a larger MTU than the uplink's", testVLANLargerThanUplink)
	t.Run("a foreign link", testVLANForeign)
	t.Run("drift", testVLANDrift)
	t.Run("a network node routes IPv6", testVLANsAreRouted)
}

func onVLAN(id int, taps ...int) network.Desired {
	d := desired(taps...)
	d.Bridges[0].Uplink, d.Bridges[0].VLAN = "card", id
	return d
}

// segment is a network with a port on each of two nodes.
type segment struct {
	name   string
	bridge network.Bridge
	ports  [2]guest
}

// MOD-01, MOD-07, MOD-10: Flat, FlatDHCP and VLAN networks live on two nodes at once, three of them over one card, which carries VLANs
// and is itself a port of a bridge. Two projects have the same subnet and the same addresses in it. Each reaches its own on the other
// node, and no frame comes from one to another.
func testModesOnTwoNodes(t *testing.T) {
	var nodes [2]*netnstest.NS
	var managers [2]*Manager
	for i := range nodes {
		nodes[i], managers[i] = live(t)
	}
	for _, card := range []string{"card", "admin"} {
		sh(t, nodes[0], "ip link add "+card+" type veth peer name "+card+" netns "+nodes[1].Path())
	}
	for _, ns := range nodes {
		sh(t, ns, "ip link set card up; ip link add adminbr type bridge; ip link set adminbr up; ip link set admin up master adminbr")
	}
	segments := []*segment{
		{name: "project a", bridge: network.Bridge{Name: "br-vlan100", MTU: 1500, Uplink: "card", VLAN: 100}},
		{name: "project b", bridge: network.Bridge{Name: "br-vlan4094", MTU: 1500, Uplink: "card", VLAN: 4094}},
		{name: "flat-dhcp", bridge: network.Bridge{Name: "br100", MTU: 1500, Uplink: "card"}},
		{name: "flat", bridge: network.Bridge{Name: "adminbr", External: true}},
	}
	for i := range nodes {
		var d network.Desired
		for n, s := range segments {
			d.Bridges = append(d.Bridges, s.bridge)
			d.Taps = append(d.Taps, network.Tap{
				Name: fmt.Sprintf("dp-%d", n), Bridge: s.bridge.Name, Port: fmt.Sprintf("port-%d-%d", i, n),
				MAC: []byte{0x52, 0x54, 0, 0, byte(i), byte(n)}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i)})},
			})
		}
		_, err := managers[i].Apply(t.Context(), d)
		require.NoError(t, err)
		report, err := managers[i].Apply(t.Context(), d)
		require.NoError(t, err)
		require.Empty(t, report.Changes)
		for n, s := range segments {
			s.ports[i] = openGuest(t, nodes[i], d.Taps[n])
		}
	}
	heard := func(g guest, mark string) (from []net.HardwareAddr) {
		require.NoError(t, g.file.SetReadDeadline(time.Now().Add(30*time.Second)))
		buf := make([]byte, 4096)
		for {
			n, err := g.file.Read(buf)
			require.NoError(t, err, "%s: the frame %q did not come", g.Name, mark)
			frame := buf[vnetHdr:n]
			from = append(from, net.HardwareAddr(bytes.Clone(frame[6:12])))
			if bytes.HasSuffix(frame, []byte(mark)) {
				return from
			}
		}
	}
	from := map[*segment][]net.HardwareAddr{}
	for _, round := range []string{"first", "second", "last"} {
		for _, s := range segments {
			for i, g := range s.ports {
				other := s.ports[1-i]
				for _, victim := range segments { // as if it knew the others' addresses
					for _, v := range victim.ports {
						if victim != s {
							g.send(t, ethernet(v.MAC, g.MAC, 0x0800, ipv4(g.IPs[0], v.IPs[0], 17, udp(1, 2, []byte("to another project")))))
						}
					}
				}
				g.send(t, ethernet(broadcast, g.MAC, 0x0806, arp(1, g.MAC, g.IPs[0], other.IPs[0], []byte(round+" broadcast"))))
				g.send(t, ethernet(other.MAC, g.MAC, 0x0800, ipv4(g.IPs[0], other.IPs[0], 17, udp(1, 2, []byte(round)))))
			}
		}
		for _, s := range segments {
			for _, g := range s.ports {
				from[s] = append(from[s], heard(g, round)...)
			}
		}
	}
	for _, s := range segments {
		own := []string{s.ports[0].MAC.String(), s.ports[1].MAC.String()}
		for _, mac := range from[s] {
			if bytes.HasPrefix(mac, []byte{0x52, 0x54, 0, 0}) { // the bridges and cards of the nodes speak too
				require.Contains(t, own, mac.String(), "%s heard another network", s.name)
			}
		}
	}
	// On the card, the VLANs are tagged: the other end sees their ids.
	require.Contains(t, sh(t, nodes[0], "ip -d link show dev vlan100"), "vlan protocol 802.1Q id 100")
	require.Contains(t, sh(t, nodes[0], "ip -d link show dev vlan4094"), "master br-vlan4094")

	// With the last port goes the VLAN.
	for i := range nodes {
		_, err := managers[i].Apply(t.Context(), network.Desired{})
		require.NoError(t, err)
		links := sh(t, nodes[i], "ip -o link")
		require.NotContains(t, links, "vlan")
		require.Contains(t, links, "adminbr")
		require.NotContains(t, links, "master br")
	}
}

// A network node without guests routes IPv6 for the VLANs of two projects, whose guests are on another node: to the outside, and not to each other.
func testVLANsAreRouted(t *testing.T) {
	node, router := live(t)
	compute, m := live(t)
	sh(t, node, "ip link add card type veth peer name card netns "+compute.Path()+"; ip link set card up; ip link add out type veth peer name outfar; ip link set out up; "+
		"ip link set outfar up; ip addr add 2001:db8::2/64 dev out nodad; ip route add default via 2001:db8::1; "+
		"ip neigh replace 2001:db8::1 lladdr 02:00:00:00:00:01 dev out nud permanent")
	sh(t, compute, "ip link set card up")
	var gateways, d network.Desired
	for i := range 2 {
		b := network.Bridge{Name: fmt.Sprint("br-vlan", 100+i), MTU: 1500, Uplink: "card", VLAN: 100 + i}
		one := tap(i + 1)
		one.Bridge, one.IPs = b.Name, append(one.IPs, netip.AddrFrom16([16]byte{0xfd, 3: byte(i + 1), 15: 2}))
		d.Bridges, d.Taps = append(d.Bridges, b), append(d.Taps, one)
		gateways.Bridges = append(gateways.Bridges, routed6(b, byte(i+1)))
	}
	_, err := router.Apply(t.Context(), gateways)
	require.NoError(t, err)
	got, err := router.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, applied(gateways), got)
	_, err = m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, "0", conf6(t, compute, "all/forwarding"), "a node that is no gateway routes nothing")
	out, other := sniff(t, node, "outfar"), sniff(t, node, "br-vlan101")
	a, b := openGuest(t, compute, d.Taps[0]), openGuest(t, compute, d.Taps[1])
	knows(t, node, a, b)
	gateway := linkMAC(t, node, a.Bridge)
	send := func(to netip.Addr, text string) { a.send(t, datagram6(gateway, a.MAC, a.IPs[1], to, 5, 5, text)) }
	reached := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool { send(far6, text); return out(text) }, time.Minute, time.Millisecond, text)
	}
	reached("to the outside")
	send(b.IPs[1], "to a project")
	send(gateways.Bridges[1].Gateway6.Addr().Next(), "to a project's prefix")
	reached("behind both")
	require.False(t, other("to a project"))
	require.False(t, other("to a project's prefix"))
}

// What somebody else breaks of a VLAN is mended, and reported.
func testVLANDrift(t *testing.T) {
	ns, m := withCard(t)
	d := onVLAN(100, 1)
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	for _, breaks := range []string{
		"ip link del vlan100",
		"ip link set vlan100 down",
		"ip link set card down; ip link set card up; ip link set vlan100 down",
		"ip link set vlan100 nomaster",
		"ip link set vlan100 mtu 1400",
		"ip link set vlan100 group default",
		"ip link set vlan100 alias ''",
		"ip link del vlan100; ip link add link card name vlan100 group 0x64700003 type vlan id 7",
		"ip link add link card name vlan9 group 0x64700003 type vlan id 9",
	} {
		for _, repair := range []func() error{
			func() error { return m.Plug(t.Context(), d.Bridges[0], d.Taps[0]) },
			func() error { return nil },
		} {
			sh(t, ns, breaks)
			require.NoError(t, repair(), breaks)
			_, err := m.Apply(t.Context(), d)
			require.NoError(t, err, breaks)
			got, err := m.Inspect(t.Context())
			require.NoError(t, err)
			require.Equal(t, d, got, breaks)
			links := sh(t, ns, "ip -d -o link show type vlan")
			require.Equal(t, 1, len(slices.DeleteFunc(bytes.Split([]byte(links), []byte("\n")), func(b []byte) bool { return len(b) == 0 })), "%s: %s", breaks, links)
			require.Contains(t, links, "id 100")
			report, err := m.Apply(t.Context(), d)
			require.NoError(t, err)
			require.Empty(t, report.Changes, breaks)
		}
		sh(t, ns, breaks)
		report, err := m.Apply(t.Context(), d)
		require.NoError(t, err)
		require.NotEmpty(t, report.Changes, breaks)
	}
}

func testVLANLargerThanUplink(t *testing.T) {
	_, m := withCard(t)
	d := onVLAN(100, 1)
	d.Bridges[0].MTU = 9000
	_, err := m.Apply(t.Context(), d)
	require.ErrorContains(t, err, "MTU 9000 is more than the 1500 of its uplink card")
}

func testVLANForeign(t *testing.T) {
	ns, m := withCard(t)
	sh(t, ns, "ip link add link card name vlan100 type vlan id 100")
	before := sh(t, ns, "ip -o -d link show dev vlan100")
	_, err := m.Apply(t.Context(), onVLAN(100, 1))
	require.ErrorContains(t, err, "vlan100")
	_, err = m.Apply(t.Context(), network.Desired{})
	require.NoError(t, err)
	require.Equal(t, before, sh(t, ns, "ip -o -d link show dev vlan100"))
}
