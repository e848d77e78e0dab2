package linux

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
)

// fragment makes a fragment of an IPv4 packet: at is its place in units of 8 bytes.
func fragment(packet []byte, at uint16, more bool) []byte {
	if more {
		at |= 0x2000
	}
	binary.BigEndian.PutUint16(packet[6:], at)
	packet[10], packet[11] = 0, 0
	binary.BigEndian.PutUint16(packet[10:], sum(packet[:20], 0))
	return packet
}

// sniff returns a function that tells whether a frame that ends in mark came to a link of the namespace since.
func sniff(t *testing.T, ns *netnstest.NS, link string) func(mark string) bool {
	t.Helper()
	fd := packetSocket(t, ns, link)
	var seen []string
	return func(mark string) bool {
		buf := make([]byte, 4096)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				break
			}
			seen = append(seen, string(buf[:n]))
		}
		for _, frame := range seen {
			if strings.HasSuffix(frame, mark) {
				return true
			}
		}
		return false
	}
}

// packetSocket is a socket for all frames of a link.
func packetSocket(t *testing.T, ns *netnstest.NS, link string) (fd int) {
	t.Helper()
	require.NoError(t, ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq(link)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8, Ifindex: int(req.Uint32())})
	}))
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// What guests send in an ordinary life reaches the host and other guests, also before it has an address; what is for DHCP servers
// alone, no other guest.
func TestWhatGuestsNeedPasses(t *testing.T) {
	ns, m := live(t)
	_, err := m.Apply(t.Context(), desired(1, 2))
	require.NoError(t, err)
	a, b := openGuest(t, ns, tap(1)), openGuest(t, ns, tap(2))
	host := sniff(t, ns, "br100")
	ll, none, nobody := madeOf(a.MAC), netip.IPv6Unspecified(), netip.IPv4Unspecified()
	everyone := netip.MustParseAddr("255.255.255.255")
	solicited := []byte{0x33, 0x33, 0xff, a.MAC[3], a.MAC[4], a.MAC[5]}
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, a.MAC[3], a.MAC[4], a.MAC[5]})
	routers := netip.MustParseAddr("ff02::2")
	listeners := netip.MustParseAddr("ff02::16")
	report := func(from netip.Addr, options []byte) []byte {
		return ipv6(from, listeners, 0, append(options, icmpv6(from, listeners, 143, append([]byte{0, 0, 0, 1, 4, 0, 0, 0}, group.AsSlice()...))...))
	}
	otherLL := madeOf(b.MAC)
	b.send(t, ethernet(broadcast, b.MAC, 0x0806, arp(1, b.MAC, b.IPs[0], a.IPs[0], []byte("here"))))
	require.Eventually(t, func() bool { return host("here") }, time.Minute, time.Millisecond)
	for _, c := range []struct {
		name  string
		alone bool // for the host alone
		frame []byte
	}{
		{"DHCP discover", true, ethernet(broadcast, a.MAC, 0x0800, ipv4(nobody, everyone, 17, udp(68, 67, []byte("discover"))))},
		{"DHCP renewal", true, ethernet(broadcast, a.MAC, 0x0800, ipv4(a.IPs[0], everyone, 17, udp(68, 67, []byte("renewal!"))))},
		{"ARP probe", false, ethernet(broadcast, a.MAC, 0x0806, arp(1, a.MAC, nobody, a.IPs[0], []byte("probe")))},
		{"duplicate address detection", false, ethernet(solicited, a.MAC, 0x86dd, ipv6(none, group, 58, icmpv6(none, group, 135, append(make([]byte, 4), ll.AsSlice()...))))},
		{"the same with a nonce", false, ethernet(solicited, a.MAC, 0x86dd, ipv6(none, group, 58,
			icmpv6(none, group, 135, append(append(make([]byte, 4), ll.AsSlice()...), 14, 1, 1, 2, 3, 4, 5, 6))))},
		{"router solicitation", false, ethernet([]byte{0x33, 0x33, 0, 0, 0, 2}, a.MAC, 0x86dd, ipv6(ll, routers, 58,
			icmpv6(ll, routers, 133, append(make([]byte, 4), append([]byte{1, 1}, a.MAC...)...))))},
		{"MLD report", false, ethernet([]byte{0x33, 0x33, 0, 0, 0, 0x16}, a.MAC, 0x86dd, report(none, []byte{58, 0, 5, 2, 0, 0, 1, 0}))},
		{"DHCPv6 solicit", true, ethernet([]byte{0x33, 0x33, 0, 1, 0, 2}, a.MAC, 0x86dd, ipv6(ll, netip.MustParseAddr("ff02::1:2"), 17, udp(546, 547, []byte("solicit!"))))},
		{"a later fragment", false, ethernet(broadcast, a.MAC, 0x0800, fragment(ipv4(a.IPs[0], b.IPs[0], 17, []byte("of a large datagram")), 100, false))},
		{"a later fragment that begins with the port of DHCP", false, ethernet(broadcast, a.MAC, 0x0800,
			fragment(ipv4(a.IPs[0], b.IPs[0], 17, []byte{0, 67, 0, 67, 'd', 'a', 't', 'a'}), 100, true))},
		{"a first fragment", false, ethernet(broadcast, a.MAC, 0x0800, fragment(ipv4(a.IPs[0], b.IPs[0], 17, udp(1, 2, []byte("of a large datagram....."))), 0, true))},
		{"ICMP", false, ethernet(b.MAC, a.MAC, 0x0800, ipv4(a.IPs[0], b.IPs[0], 1, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}))},
		{"IPv6 with TCP", false, ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 6, append(make([]byte, 20), "tcp"...)))},
		{"echo", false, ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 128, []byte("ping"))))},
		{"echo reply", false, ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 129, []byte("pong"))))},
		{"packet too big", false, ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 2, make([]byte, 48))))},
		{"neighbour solicitation", false, ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58,
			icmpv6(ll, otherLL, 135, append(append(make([]byte, 4), otherLL.AsSlice()...), append([]byte{1, 1}, a.MAC...)...))))},
		{"neighbour solicitation to one host", false, ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 135, append(make([]byte, 4), otherLL.AsSlice()...))))},
		{"neighbour advertisement to one host", false, ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 136, append([]byte{0x60, 0, 0, 0}, ll.AsSlice()...))))},
		{"router solicitation without an option", false, ethernet([]byte{0x33, 0x33, 0, 0, 0, 2}, a.MAC, 0x86dd, ipv6(ll, routers, 58, icmpv6(ll, routers, 133, make([]byte, 4))))},
		{"router solicitation without an address", false, ethernet([]byte{0x33, 0x33, 0, 0, 0, 2}, a.MAC, 0x86dd, ipv6(none, routers, 58, icmpv6(none, routers, 133, make([]byte, 4))))},
		{"MLD report, options in the other order", false, ethernet([]byte{0x33, 0x33, 0, 0, 0, 0x16}, a.MAC, 0x86dd, report(ll, []byte{58, 0, 1, 0, 5, 2, 0, 0}))},
		{"MLDv1 report", false, ethernet(solicited, a.MAC, 0x86dd, ipv6(ll, group, 0, append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, icmpv6(ll, group, 131, append(make([]byte, 4), group.AsSlice()...))...)))},
		{"MLDv1 done", false, ethernet([]byte{0x33, 0x33, 0, 0, 0, 2}, a.MAC, 0x86dd, ipv6(ll, routers, 0, append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, icmpv6(ll, routers, 132, append(make([]byte, 4), group.AsSlice()...))...)))},
		{"IPv4 multicast", false, ethernet([]byte{1, 0, 0x5e, 0, 0, 0xfb}, a.MAC, 0x0800, ipv4(a.IPs[0], netip.MustParseAddr("224.0.0.251"), 17, udp(5353, 5353, []byte("mdns"))))},
	} {
		a.send(t, c.frame)
		if c.frame[0]&1 != 0 {
			require.Eventually(t, func() bool { return host(string(c.frame)) }, time.Minute, time.Millisecond, "%s did not reach the host", c.name)
		}
		if c.alone { // what comes behind it is there, so it would be
			mark := []byte("behind " + c.name)
			a.send(t, ethernet(b.MAC, a.MAC, 0x0800, ipv4(a.IPs[0], b.IPs[0], 17, udp(1, 2, mark))))
			seen, came := b.until(t, mark, a.MAC, time.Minute)
			require.True(t, came, c.name)
			require.Empty(t, seen, "%s reached another guest", c.name)
			continue
		}
		_, came := b.until(t, c.frame, nil, time.Minute)
		require.True(t, came, "%s did not reach another guest", c.name)
	}
}

// Fragments that hide or overwrite ports reach no one, and no frame that bridges keep to themselves teaches the bridge anything.
func TestSlyFramesReachNoOne(t *testing.T) {
	ns, m := live(t)
	_, err := m.Apply(t.Context(), desired(1, 2))
	require.NoError(t, err)
	a, b := openGuest(t, ns, tap(1)), openGuest(t, ns, tap(2))
	host := sniff(t, ns, "br100")
	own, other := a.IPs[0], b.IPs[0]
	ll, otherLL := madeOf(a.MAC), madeOf(b.MAC)
	offer := udp(67, 68, []byte("offer!!!"))
	na := append(append([]byte{0x20, 0, 0, 0}, otherLL.AsSlice()...), append([]byte{2, 1}, a.MAC...)...)
	frames := map[string][]byte{
		"first fragment of an offer":     ethernet(b.MAC, a.MAC, 0x0800, fragment(ipv4(own, other, 17, offer), 0, true)),
		"fragment that is too short":     ethernet(b.MAC, a.MAC, 0x0800, fragment(ipv4(own, other, 17, offer[:1]), 0, true)),
		"fragment over the ports":        ethernet(b.MAC, a.MAC, 0x0800, fragment(ipv4(own, other, 17, offer), 1, false)),
		"fragment without an address":    ethernet(broadcast, a.MAC, 0x0800, fragment(ipv4(netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"), 17, offer), 64, false)),
		"offer with IPv4 options":        ethernet(b.MAC, a.MAC, 0x0800, withOptions(ipv4(own, other, 17, offer))),
		"IPv6 fragment":                  ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 44, append([]byte{58, 0, 0, 1, 0, 0, 0, 1}, icmpv6(ll, otherLL, 136, na)...))),
		"another IP version":             ethernet(b.MAC, a.MAC, 0x0800, ipv6(ll, otherLL, 17, udp(1, 2, nil))),
		"IPv4 as IPv6":                   ethernet(b.MAC, a.MAC, 0x86dd, ipv4(own, other, 17, udp(1, 2, []byte("twenty bytes and more")))),
		"advertisement from far":         ethernet(b.MAC, a.MAC, 0x86dd, hops(ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 136, append(append([]byte{0x60, 0, 0, 0}, ll.AsSlice()...), append([]byte{2, 1}, a.MAC...)...))), 64)),
		"advertisement for another":      ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 136, na))),
		"advertisement with a code":      ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, code(icmpv6(ll, otherLL, 136, append([]byte{0x60, 0, 0, 0}, ll.AsSlice()...)), 1))),
		"echo with another type":         ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 151, ll.AsSlice()))),
		"ICMPv6 in a UDP address":        ethernet(b.MAC, a.MAC, 0x86dd, ipv6(netip.IPv6Unspecified(), otherLL, 17, udp(133, 0, []byte("........")))),
		"detection from far":             ethernet(broadcast, a.MAC, 0x86dd, hops(ipv6(netip.IPv6Unspecified(), otherLL, 58, icmpv6(netip.IPv6Unspecified(), otherLL, 135, append(make([]byte, 4), ll.AsSlice()...))), 64)),
		"solicitation with a code":       ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, code(icmpv6(ll, otherLL, 133, make([]byte, 4)), 9))),
		"ARP in another's frame":         ethernet(broadcast, b.MAC, 0x0806, arp(2, a.MAC, own, other, forged)),
		"advertisement of a router":      ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 136, append(append([]byte{0xe0, 0, 0, 0}, ll.AsSlice()...), append([]byte{2, 1}, a.MAC...)...)))),
		"two options":                    ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 136, append(append(append([]byte{0x60, 0, 0, 0}, ll.AsSlice()...), append([]byte{2, 1}, a.MAC...)...), append([]byte{2, 1}, b.MAC...)...)))),
		"solicitation with a false MAC":  ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 135, append(append([]byte{0, 0, 0, 0}, otherLL.AsSlice()...), append([]byte{1, 1}, b.MAC...)...)))),
		"detection of another's address": ethernet(b.MAC, a.MAC, 0x86dd, ipv6(netip.IPv6Unspecified(), otherLL, 58, icmpv6(netip.IPv6Unspecified(), otherLL, 135, append(make([]byte, 4), otherLL.AsSlice()...)))),
		"MLD query": ethernet([]byte{0x33, 0x33, 0, 0, 0, 1}, a.MAC, 0x86dd, ipv6(ll, netip.MustParseAddr("ff02::1"), 0,
			append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, icmpv6(ll, netip.MustParseAddr("ff02::1"), 130, make([]byte, 20))...))),
		"MLD query without options": ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 130, make([]byte, 20)))),
		"ARP for another protocol":  ethernet(broadcast, a.MAC, 0x0806, append([]byte{0, 1, 0x86, 0xdd, 6, 4}, arp(1, a.MAC, own, other, nil)[6:]...)),
		"ARP probe for another":     ethernet(broadcast, a.MAC, 0x0806, arp(1, a.MAC, netip.IPv4Unspecified(), other, nil)),
		"reverse ARP operation":     ethernet(broadcast, a.MAC, 0x0806, arp(3, a.MAC, own, other, nil)),
		"a length, not a protocol":  ethernet(broadcast, a.MAC, 46, make([]byte, 46)),
	}
	for last := range byte(16) { // what bridges keep to themselves: with the other guest's address as the source, too
		for name, source := range map[string][]byte{"": a.MAC, ", forged": b.MAC} {
			frames["reserved "+string('a'+rune(last))+name] = ethernet([]byte{1, 0x80, 0xc2, 0, 0, last}, source, 0x88cc, append(make([]byte, 46), forged...))
			frames["reserved IP "+string('a'+rune(last))+name] = ethernet([]byte{1, 0x80, 0xc2, 0, 0, last}, source, 0x0800, ipv4(own, other, 17, udp(1, 2, forged)))
		}
	}
	// The bridge knows where b is.
	b.send(t, ethernet(broadcast, b.MAC, 0x0806, arp(1, b.MAC, other, own, []byte("here"))))
	require.Eventually(t, func() bool { return host("here") }, time.Minute, time.Millisecond)
	for name, frame := range frames {
		a.send(t, frame)
		mark := []byte("behind " + name)
		a.send(t, ethernet(b.MAC, a.MAC, 0x0800, ipv4(own, other, 17, udp(1, 2, mark))))
		seen, came := b.until(t, mark, a.MAC, time.Minute)
		require.True(t, came, "%s: what followed did not come", name)
		require.Empty(t, seen, "%s reached another guest", name)
		require.False(t, host(string(frame[12:])), "%s reached the host", name)
	}
	fdb := sh(t, ns, "bridge fdb show br br100")
	require.Contains(t, fdb, b.MAC.String()+" dev "+b.Name, "the bridge does not know where the other guest is")
	require.NotContains(t, fdb, b.MAC.String()+" dev "+a.Name, "the bridge believed a forgery")
}

// A frame for one guest reaches no other, although the bridge does not know where that one is and sends it everywhere; nor do VLANs of
// the uplink.
func TestFloodedFramesReachOneGuest(t *testing.T) {
	ns, m := withCard(t)
	_, err := m.Apply(t.Context(), withUplink(1, 2))
	require.NoError(t, err)
	a, b := openGuest(t, ns, tap(1)), openGuest(t, ns, tap(2))
	far := packetSocket(t, ns, "far")
	router := []byte{2, 0, 0, 0, 0, 9}
	for _, frame := range [][]byte{
		ethernet(a.MAC, router, 0x0800, ipv4(netip.MustParseAddr("192.0.2.1"), a.IPs[0], 17, udp(1, 2, []byte("for a only")))),
		ethernet(broadcast, router, 0x8100, append([]byte{0, 7, 8, 0}, ipv4(netip.MustParseAddr("192.0.2.1"), b.IPs[0], 17, udp(1, 2, []byte("of a VLAN")))...)),
		ethernet(broadcast, router, 0x88a8, append([]byte{0, 7, 8, 0}, ipv4(netip.MustParseAddr("192.0.2.1"), b.IPs[0], 17, udp(1, 2, []byte("of a VLAN")))...)),
		ethernet(broadcast, router, 0x0800, ipv4(netip.MustParseAddr("192.0.2.1"), b.IPs[0], 17, udp(68, 67, []byte("for servers")))),
		ethernet(b.MAC, router, 0x0800, ipv4(netip.MustParseAddr("192.0.2.1"), b.IPs[0], 17, udp(1, 2, []byte("for b")))),
	} {
		_, err := unix.Write(far, frame)
		require.NoError(t, err)
	}
	seen, came := b.until(t, []byte("for b"), router, time.Minute)
	require.True(t, came)
	require.Empty(t, seen)
	_, came = a.until(t, []byte("for a only"), nil, time.Minute)
	require.True(t, came)
}

// withOptions gives an IPv4 packet 4 bytes of options.
func withOptions(packet []byte) []byte {
	p := append(append(append([]byte{}, packet[:20]...), 1, 1, 1, 0), packet[20:]...)
	p[0] = 0x46
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], sum(p[:24], 0))
	return p
}

// code sets the code of an ICMPv6 message, whose checksum is left wrong: no bridge looks at it.
func code(message []byte, n byte) []byte {
	message[1] = n
	return message
}

// hops sets the hop limit of an IPv6 packet.
func hops(packet []byte, n byte) []byte {
	packet[7] = n
	return packet
}
