package linux

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// routed is desired with a bridge that IPv6 is routed for, and an address of its prefix for each tap.
func routed(taps ...int) network.Desired {
	d := desired(taps...)
	d.Bridges[0] = routed6(d.Bridges[0], 1)
	for i, n := range taps {
		d.Taps[i].IPs = append(d.Taps[i].IPs, netip.AddrFrom16([16]byte{0xfd, 3: 1, 14: byte(n >> 8), 15: byte(n)}))
	}
	return d
}

// routed6 is a bridge with the n-th prefix.
func routed6(b network.Bridge, n byte) network.Bridge {
	b.Gateway6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 3: n, 14: 0xff, 15: 1}), 64)
	b.Prefix6 = b.Gateway6.Masked()
	return b
}

// applied is d as it is read back.
func applied(d network.Desired) network.Desired {
	d = d.Clone()
	for i, b := range d.Bridges {
		d.Bridges[i] = network.Bridge{Name: b.Name, MTU: b.MTU, Uplink: b.Uplink, VLAN: b.VLAN, Gateway: b.Gateway, Gateway6: b.Gateway6, NAT: b.NAT}
	}
	return d
}

func conf6(t *testing.T, ns *netnstest.NS, name string) string {
	t.Helper()
	return strings.TrimSpace(sh(t, ns, "cat /proc/sys/net/ipv6/conf/"+name))
}

// datagram6 is a frame with UDP in IPv6, without a checksum, which no router looks at.
func datagram6(dst, src net.HardwareAddr, from, to netip.Addr, sport, dport uint16, text string) []byte {
	return ethernet(dst, src, 0x86dd, ipv6(from, to, 17, udp(sport, dport, []byte(text))))
}

// knows makes a node know the guests' addresses, which these don't answer for.
func knows(t *testing.T, ns *netnstest.NS, guests ...guest) {
	t.Helper()
	for _, g := range guests {
		for _, a := range g.IPs {
			ipIn(t, ns, fmt.Sprintf("neigh replace %v lladdr %v dev %s nud permanent", a, g.MAC, g.Bridge))
		}
	}
}

// far6 is a host that the node reaches by its router, near6 that router.
var far6, near6 = netip.MustParseAddr("2001:db8:f::9"), netip.MustParseAddr("2001:db8::1")

// withOutside6 is withOutside on a node that does not forward IPv4, and knows its router.
func withOutside6(t *testing.T) (*netnstest.NS, *Manager, *outside) {
	t.Helper()
	ns, m, o := withOutside(t)
	ipIn(t, ns, "neigh replace 2001:db8::1 lladdr "+o.far.String()+" dev card nud permanent")
	return ns, m, o
}

// leaves tells whether a frame of a guest leaves the node for the outside, by one that follows it and does.
func leaves(t *testing.T, o *outside, g guest, gateway net.HardwareAddr, frame []byte, text string) (left bool) {
	t.Helper()
	g.send(t, frame)
	behind := fmt.Sprint("behind ", text)
	g.send(t, datagram6(gateway, g.MAC, g.IPs[1], far6, 9, 9, behind))
	o.await(behind, func(frame []byte) bool {
		left = left || frame[12] == 0x86 && ending(text)(frame) && !ending(behind)(frame)
		return ending(behind)(frame)
	})
	return left
}

// A guest reaches the outside through its node by IPv6 with its own address, and is answered; what its groups don't let in stays out, also from there; and
// what it sends under other addresses, or as a router, gets nowhere.
func TestIPv6IsRouted(t *testing.T) {
	ns, m, o := withOutside6(t)
	d := routed(1, 2)
	d.Taps[0].Guarded, d.Taps[0].Groups = true, []string{"g"}
	d.Groups = []network.Group{{ID: "g", Rules: rules(t, "egress any any any", "ingress udp 22-22 2001:db8:f::/48"), Members: d.Taps[0].IPs}}
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, "1", conf6(t, ns, "all/forwarding"))
	require.Contains(t, ipIn(t, ns, "-6 addr show dev br100"), "fd00:1::ff01/64")
	gateway := linkMAC(t, ns, "br100")
	a, b := openGuest(t, ns, d.Taps[0]), openGuest(t, ns, d.Taps[1])
	ready(t, a, b)
	ready(t, b, a)
	knows(t, ns, a, b)

	a.send(t, datagram6(gateway, a.MAC, a.IPs[1], far6, 6000, 53, "to outside"))
	frame := o.await("to outside", ending("to outside"))
	require.Equal(t, a.IPs[1].AsSlice(), frame[22:38], "with its own address")
	require.Equal(t, byte(254), frame[21], "a router's hop")
	o.send(datagram6(o.mac, o.far, far6, a.IPs[1], 53, 6000, "and back"))
	frame = a.await(t, "and back", ending("and back"))
	require.Equal(t, far6.AsSlice(), frame[22:38])
	require.Equal(t, []byte(gateway), frame[6:12])

	o.send(datagram6(o.mac, o.far, far6, a.IPs[1], 53, 6001, "unasked"))
	o.send(datagram6(o.mac, o.far, far6, a.IPs[1], 99, 22, "by a rule"))
	a.await(t, "by a rule", func(frame []byte) bool {
		require.False(t, ending("unasked")(frame), "no group lets it in")
		return ending("by a rule")(frame)
	})
	o.send(datagram6(o.mac, o.far, far6, b.IPs[1], 53, 6001, "without groups"))
	b.await(t, "without groups", ending("without groups"))

	routes, neighbors := ipIn(t, ns, "-6 route show"), ipIn(t, ns, "-6 neigh show nud permanent")
	ll := madeOf(a.MAC)
	everyone := netip.MustParseAddr("ff02::1")
	for name, from := range map[string]netip.Addr{"another guest": b.IPs[1], "the gateway": d.Bridges[0].Gateway6.Addr(), "the outside": near6, "nobody": netip.MustParseAddr("fd00:1::77"),
		"its link-local": ll, "another prefix": netip.MustParseAddr("fd00:2::1")} {
		require.False(t, leaves(t, o, a, gateway, datagram6(gateway, a.MAC, from, far6, 7, 7, "as "+name), "as "+name), name)
	}
	advertised := append([]byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xfd, 0, 0, 9}, make([]byte, 12)...)
	na := append(append([]byte{0x60, 0, 0, 0}, b.IPs[1].AsSlice()...), append([]byte{2, 1}, a.MAC...)...)
	redirect := append(append(make([]byte, 4), ll.AsSlice()...), far6.AsSlice()...)
	for name, frame := range map[string][]byte{
		"a router":                 ethernet([]byte{0x33, 0x33, 0, 0, 0, 1}, a.MAC, 0x86dd, ipv6(ll, everyone, 58, icmpv6(ll, everyone, 134, advertised))),
		"another guest's neighbor": ethernet(gateway, a.MAC, 0x86dd, ipv6(a.IPs[1], d.Bridges[0].Gateway6.Addr(), 58, icmpv6(a.IPs[1], d.Bridges[0].Gateway6.Addr(), 136, na))),
		"a redirect":               ethernet(gateway, a.MAC, 0x86dd, ipv6(ll, near6, 58, icmpv6(ll, near6, 137, redirect))),
	} {
		require.False(t, leaves(t, o, a, gateway, frame, name), name)
		require.Equal(t, routes, ipIn(t, ns, "-6 route show"), name)
		require.Equal(t, neighbors, ipIn(t, ns, "-6 neigh show nud permanent"), name)
	}
	require.NotContains(t, ipIn(t, ns, "-6 addr show dev br100"), "fd00:9::")
}

// MOD-07, by IPv6: two projects whose bridges are routed reach the outside and not each other; one whose bridge is not routed reaches nothing beyond it, and
// nothing reaches it, also where the node has an address of its prefix.
func TestRoutedBridgesAreApart(t *testing.T) {
	ns, m, o := withOutside6(t)
	d := routed(1, 2, 3)
	for i, name := range []string{"br101", "br102"} {
		b := bridge()
		b.Name, b.Gateway = name, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i + 1), 0, 1}), 16)
		if i == 0 {
			b = routed6(b, 2)
		}
		d.Bridges = append(d.Bridges, b)
		d.Taps[i+1].Bridge = name
		d.Taps[i+1].IPs[1] = netip.AddrFrom16([16]byte{0xfd, 3: byte(i + 2), 15: 2})
	}
	_, err := m.Apply(t.Context(), network.Desired{Bridges: d.Bridges[:1], Taps: d.Taps[:1]})
	require.NoError(t, err)
	for i := range d.Taps[1:] {
		require.NoError(t, m.Plug(t.Context(), d.Bridges[i+1], d.Taps[i+1]))
	}
	report, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Empty(t, report.Changes)
	ipIn(t, ns, "route add fd00:3::/64 dev br102")
	a, b, c := openGuest(t, ns, d.Taps[0]), openGuest(t, ns, d.Taps[1]), openGuest(t, ns, d.Taps[2])
	knows(t, ns, a, b, c)
	gateways := map[string]net.HardwareAddr{}
	outs := map[string]func(string) bool{}
	for _, g := range []guest{a, b, c} {
		gateways[g.Name], outs[g.Name] = linkMAC(t, ns, g.Bridge), sniff(t, ns, g.Bridge)
	}
	outs["outside"] = sniff(t, ns, "card")
	// What a guest that was just opened sends, a bridge carries after some time.
	for _, g := range []guest{a, b} {
		require.Eventually(t, func() bool {
			g.send(t, datagram6(gateways[g.Name], g.MAC, g.IPs[1], far6, 1, 1, "up "+g.Name))
			return outs["outside"]("up " + g.Name)
		}, time.Minute, time.Millisecond)
	}
	require.Eventually(t, func() bool {
		c.send(t, ethernet(broadcast, c.MAC, 0x0806, arp(1, c.MAC, c.IPs[0], c.IPs[0], []byte("up too"))))
		return outs[c.Name]("up too")
	}, time.Minute, time.Millisecond)
	refused := []struct {
		from guest
		to   netip.Addr
		out  string
		mark string
	}{
		{a, b.IPs[1], b.Name, "a to b"}, {b, a.IPs[1], a.Name, "b to a"}, {a, c.IPs[1], c.Name, "a to c"}, {c, a.IPs[1], a.Name, "c to a"},
		{a, d.Bridges[1].Gateway6.Addr().Next(), b.Name, "a to nobody"}, {c, far6, "outside", "c to outside"},
	}
	send := func(more string) {
		for _, r := range refused {
			r.from.send(t, datagram6(gateways[r.from.Name], r.from.MAC, r.from.IPs[1], r.to, 5, 5, r.mark+more))
		}
		o.send(datagram6(o.mac, o.far, far6, c.IPs[1], 5, 5, "outside to c"+more))
	}
	send("")
	for _, g := range []guest{a, b} { // what is behind it is through
		require.False(t, leaves(t, o, g, gateways[g.Name], datagram6(gateways[g.Name], g.MAC, netip.MustParseAddr("fd00:9::1"), far6, 1, 1, "forged"), "forged"))
	}
	// All of it was looked at when the same passes, without the table.
	sh(t, ns, "nft delete table inet "+forwardTable)
	sh(t, ns, "ip neigh replace "+d.Bridges[1].Gateway6.Addr().Next().String()+" lladdr "+b.MAC.String()+" dev br101")
	send(", open")
	for _, r := range refused {
		require.Eventually(t, func() bool { return outs[r.out](r.mark + ", open") }, time.Minute, time.Millisecond, r.mark)
		require.False(t, outs[r.out](r.mark), r.mark)
	}
	require.Eventually(t, func() bool { return outs[c.Name]("outside to c, open") }, time.Minute, time.Millisecond)
	require.False(t, outs[c.Name]("outside to c"))
	report, err = m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, []string{"table of forwarded packets made"}, report.Changes)
}

// advertise is a router advertisement for all, of a router with a lifetime and a prefix.
func (o *outside) advertise(prefix netip.Addr) {
	ll, everyone := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1")
	body := append([]byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, prefix.AsSlice()...)
	o.send(ethernet([]byte{0x33, 0x33, 0, 0, 0, 1}, o.far, 0x86dd, ipv6(ll, everyone, 58, icmpv6(ll, everyone, 134, body))))
}

// A node whose card has its address and its default route from router advertisements keeps both while it routes IPv6, hears of new ones, also where the
// card is a port of the bridge, routes nothing for others, and is as before when no bridge is left.
func TestANodeThatHearsRoutersRoutes(t *testing.T) {
	for name, d := range map[string]network.Desired{"a card": routed(1), "an uplink": func() network.Desired { d := routed(1); d.Bridges[0].Uplink = "card"; return d }()} {
		t.Run(name, func(t *testing.T) {
			ns, m, o := withOutside6(t)
			on := "card"
			if d.Bridges[0].Uplink != "" {
				on = "br100"
			}
			has := func(dev, prefix string) {
				t.Helper()
				require.Eventually(t, func() bool {
					return strings.Contains(ipIn(t, ns, "-6 addr show dev "+dev+" scope global"), "inet6 "+prefix)
				}, time.Minute, 10*time.Millisecond, prefix)
				require.Contains(t, ipIn(t, ns, "-6 route show default"), "default via fe80::1 dev "+dev+" proto ra")
			}
			ipIn(t, ns, "-6 route del default via 2001:db8::1")
			o.advertise(netip.MustParseAddr("2001:db8:1::"))
			has("card", "2001:db8:1:")
			report, err := m.Apply(t.Context(), d)
			require.NoError(t, err)
			require.Contains(t, report.Changes, "IPv6 is forwarded")
			report, err = m.Apply(t.Context(), d)
			require.NoError(t, err)
			require.Empty(t, report.Changes)
			require.Equal(t, "2", conf6(t, ns, "card/accept_ra"))
			has(on, "2001:db8:1:")
			o.advertise(netip.MustParseAddr("2001:db8:2::"))
			has(on, "2001:db8:2:")

			// A card that comes later goes on hearing, too, and is not routed for.
			ipIn(t, ns, "link add late type veth peer name latefar")
			ipIn(t, ns, "link set late up")
			ipIn(t, ns, "link set latefar up")
			ipIn(t, ns, "addr add 2001:db8:77::1/64 dev late nodad")
			ipIn(t, ns, "neigh replace 2001:db8:77::2 lladdr 02:00:00:00:00:77 dev late")
			_, err = m.Apply(t.Context(), d)
			require.NoError(t, err)
			require.Equal(t, "2", conf6(t, ns, "late/accept_ra"))
			late := sniff(t, ns, "latefar")
			there := netip.MustParseAddr("2001:db8:77::2")
			if on == "card" {
				o.send(datagram6(o.mac, o.far, far6, there, 5, 5, "to others"))
				require.False(t, late("to others"))
				sh(t, ns, "nft flush chain inet "+forwardTable+" forward")
				require.Eventually(t, func() bool {
					o.send(datagram6(o.mac, o.far, far6, there, 5, 5, "to others, open"))
					return late("to others, open")
				}, time.Minute, time.Millisecond)
				require.False(t, late("to others"))
			}

			// What is not routed any more.
			_, err = m.Apply(t.Context(), d)
			require.NoError(t, err)
			plain := d.Clone()
			plain.Bridges[0].Gateway6 = netip.Prefix{}
			_, err = m.Apply(t.Context(), plain)
			require.NoError(t, err)
			report, err = m.Apply(t.Context(), plain)
			require.NoError(t, err)
			require.Empty(t, report.Changes)
			require.Equal(t, []string{"0", "1", "1"}, []string{conf6(t, ns, "all/forwarding"), conf6(t, ns, "card/accept_ra"), conf6(t, ns, "late/accept_ra")})
			has(on, "2001:db8:2:")
			_, err = m.Apply(t.Context(), network.Desired{})
			require.NoError(t, err)
			o.advertise(netip.MustParseAddr("2001:db8:3::"))
			has("card", "2001:db8:3:")
			require.Equal(t, "0", conf6(t, ns, "card/forwarding"))
		})
	}
}

// A bridge hears no router, as what is advertised there is for guests, and one with an uplink hears as much as that.
func TestBridgesHearAsTheirUplinks(t *testing.T) {
	ns, m := withCard(t)
	_, err := m.Apply(t.Context(), desired(1))
	require.NoError(t, err)
	require.Equal(t, "0", conf6(t, ns, "br100/accept_ra"))
	for _, accept := range []string{"0", "1", "2"} {
		sh(t, ns, "echo "+accept+" > /proc/sys/net/ipv6/conf/card/accept_ra")
		_, err = m.Apply(t.Context(), withUplink(1))
		require.NoError(t, err)
		require.Equal(t, accept, conf6(t, ns, "br100/accept_ra"))
	}
	_, err = m.Apply(t.Context(), desired(1))
	require.NoError(t, err)
	require.Equal(t, []string{"0", "2"}, []string{conf6(t, ns, "br100/accept_ra"), conf6(t, ns, "card/accept_ra")})
}

// Where somebody else's tools had the node forward IPv6, it forwards for others as before, and goes on to.
func TestANodeThatRoutedBefore(t *testing.T) {
	ns, m := withCard(t)
	sh(t, ns, "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	_, err := m.Apply(t.Context(), routed(1))
	require.NoError(t, err)
	require.Equal(t, "1", conf6(t, ns, "card/accept_ra"))
	require.NotContains(t, sh(t, ns, "nft list table inet "+forwardTable), "for our bridges alone")
	_, err = m.Apply(t.Context(), network.Desired{})
	require.NoError(t, err)
	require.Equal(t, "1", conf6(t, ns, "all/forwarding"))
}

// A manager that dies at any of its calls while IPv6 comes to be routed, or not any more, leaves what the next one mends; and the node is in the end as it
// was before there were bridges.
func TestRoutingOutlivesItsManager(t *testing.T) {
	testneed.Slow(t)
	apply := func(d network.Desired) func(context.Context, *Manager) error {
		return func(ctx context.Context, m *Manager) error { _, err := m.Apply(ctx, d); return err }
	}
	uplink := withUplink(1)
	routedUplink := uplink.Clone()
	routedUplink.Bridges[0] = routed6(routedUplink.Bridges[0], 1)
	for _, c := range []life{
		{"IPv6 routed", network.Desired{}, apply(routed(1)), routed(1)},
		{"IPv6 plugged", network.Desired{}, func(ctx context.Context, m *Manager) error {
			d := routed(1)
			return m.Plug(ctx, d.Bridges[0], d.Taps[0])
		}, routed(1)},
		{"IPv6 routed on an uplink", uplink, apply(routedUplink), routedUplink},
		{"IPv6 not routed any more", routedUplink, apply(uplink), uplink},
		{"IPv6 gone", routed(1), apply(network.Desired{}), network.Desired{}},
	} {
		c.survives(t)
	}
}
