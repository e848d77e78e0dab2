package linux

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// tableName is the name of our table in the bridge family of the packet filter.
const tableName = "dewpoint"

// The groups of links (ip link … group) that ours are in. The rules are for the first.
const (
	tapGroup    = 0x64700001
	bridgeGroup = 0x64700002
	vlanGroup   = 0x64700003
)

// The sets. Each element begins with the name of a tap.
const (
	macs = "macs" // its MAC address
	ip4s = "ip4s" // its MAC address and an IPv4 address of it
	ip6s = "ip6s" // its MAC address and an IPv6 address of it
)

// How many there may be on a node. The kernel fills a set whose size it knows in two thirds of the time.
const (
	maxTaps      = 1 << 15
	maxAddresses = 1 << 16 // of each family
)

func sets() []set {
	return []set{
		{name: macs, types: []string{"ifname", "ether_addr"}, size: maxTaps},
		{name: ip4s, types: []string{"ifname", "ether_addr", "ipv4_addr"}, size: maxAddresses},
		{name: ip6s, types: []string{"ifname", "ether_addr", "ipv6_addr"}, size: maxAddresses},
		{name: open, types: []string{"ifname"}, size: maxTaps},
		{name: choosers, types: []string{"mark"}, to: "verdict"},
		{name: groupsOf, types: []string{"ifname"}, size: maxTaps, to: "mark"},
		{name: limitsIn, types: []string{"ifname"}, to: "verdict"},
		{name: limitsOut, types: []string{"ifname"}, to: "verdict"},
	}
}

// learning returns the sets that the packet filter fills by itself.
func learning() []set {
	var all []set
	for _, begun := range []string{begunByOthers4, begunByGuest4, begunByOthers6, begunByGuest6} {
		addr := "ipv4_addr"
		if strings.HasSuffix(begun, "6") {
			addr = "ipv6_addr"
		}
		ports := []string{"iface_index", addr, addr, "inet_service", "inet_service"}
		all = append(all, set{name: begun + tcpFlows, types: ports, size: maxFlows, learns: true}, set{name: begun + udpFlows, types: ports, size: maxFlows, learns: true},
			set{name: begun + otherFlows, types: []string{"iface_index", "inet_proto", addr, addr, "inet_service"}, size: maxFlows, learns: true})
	}
	return append(all, []set{
		{name: fragments, types: []string{"iface_index", "ipv4_addr", "ipv4_addr", "inet_service", "inet_proto"}, size: maxRates, learns: true},
		{name: rateIn, types: []string{"iface_index"}, size: maxRates, learns: true},
		{name: rateOut, types: []string{"iface_index"}, size: maxRates, learns: true},
	}...)
}

func link(text string, offset, len uint32) field {
	return field{text: text, place: ofLink, offset: offset, len: len}
}

// header is a field of the network layer, which nft writes by its place if it has no name for it.
func header(text string, offset, len uint32) field {
	if text == "" {
		text = fmt.Sprintf("@nh,%d,%d", 8*offset, 8*len)
	}
	return field{text: text, place: ofNetwork, offset: offset, len: len}
}

func transport(text string, offset, len uint32) field {
	if text == "" {
		text = fmt.Sprintf("@th,%d,%d", 8*offset, 8*len)
	}
	return field{text: text, place: ofTransport, offset: offset, len: len}
}

// l4 is the protocol in IP.
var l4 = field{text: "meta l4proto", place: ofMeta, meta: l4proto, len: 1}

func is(f field, text string, value ...byte) match {
	return match{fields: []field{f}, op: equal, value: value, text: text}
}

func isNot(f field, text string, value ...byte) match {
	return match{fields: []field{f}, op: unequal, value: value, text: text}
}

func number(f field, op op, n uint64) match {
	value := binary.BigEndian.AppendUint64(nil, n)
	return match{fields: []field{f}, op: op, value: value[8-f.len:], text: fmt.Sprint(n)}
}

func masked(f field, op op, mask []byte, text string, value ...byte) match {
	return match{fields: []field{f}, mask: mask, op: op, value: value, text: text}
}

// remember puts fields into a set for some time, or has them stay there so long again.
func remember(set string, seconds int, fields ...field) match {
	return match{fields: fields, op: learnt, set: set, seconds: seconds}
}

func known(set string, fields ...field) match   { return match{fields: fields, op: in, set: set} }
func unknown(set string, fields ...field) match { return match{fields: fields, op: notIn, set: set} }

// group is the condition that a link is a tap of ours.
func group(m meta, text string) match {
	f := field{text: text, place: ofMeta, meta: m, len: 4}
	return match{fields: []field{f}, op: equal, value: binary.NativeEndian.AppendUint32(nil, tapGroup), text: fmt.Sprintf("0x%x", tapGroup)}
}

func ip(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// chains is the table but for the security groups there are: a constant, whatever ports there are.
func chains() []chain {
	all := spoofChains()
	for _, w := range ways() {
		all = append(all, groupTable(w)...)
	}
	return append(all, limitTable()...)
}

// spoofChains keep guests from forging.
func spoofChains() []chain {
	var (
		tap       = field{text: "iifname", place: ofMeta, meta: inName, len: 16}
		outTap    = field{text: "oifname", place: ofMeta, meta: outName, len: 16}
		proto     = field{text: "meta l4proto", place: ofMeta, meta: l4proto, len: 1}
		daddr     = link("ether daddr", 0, 6)
		saddr     = link("ether saddr", 6, 6)
		etherType = link("ether type", 12, 2)
		sport     = field{text: "th sport", place: ofTransport, offset: 0, len: 2}
		dport     = field{text: "th dport", place: ofTransport, offset: 2, len: 2}
		arp       = is(etherType, "arp", 0x08, 0x06)
		ip4       = is(etherType, "ip", 0x08, 0x00)
		ip6       = is(etherType, "ip6", 0x86, 0xdd)
		udp       = is(proto, "udp", 17)
		// reserved are the group addresses that bridges keep to themselves (IEEE 802.1D-2004 table 7-10).
		reserved = masked(daddr, equal, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, "01:80:c2:00:00:00", 0x01, 0x80, 0xc2, 0, 0, 0)
	)
	return []chain{
		{name: "prerouting", hook: "prerouting", priority: -300, rules: []rule{
			{"all that guests send", []match{group(inGroup, "meta iifgroup")}, "goto from_guest"},
		}},
		{name: "input", hook: "input", priority: -300, rules: []rule{
			{"a bridge would learn addresses from these, before prerouting", []match{group(inGroup, "meta iifgroup"), reserved}, "drop"},
		}},
		{name: "postrouting", hook: "postrouting", priority: 300, rules: []rule{
			{"all that guests get", []match{group(outGroup, "meta oifgroup")}, "goto to_guest"},
		}},
		{name: "to_guest", rules: []rule{
			{"VLANs of the uplink", []match{is(etherType, "8021q", 0x81, 0x00)}, "drop"},
			{"VLANs of the uplink", []match{is(etherType, "8021ad", 0x88, 0xa8)}, "drop"},
			{"frames for others, flooded", []match{masked(daddr, equal, []byte{1, 0, 0, 0, 0, 0}, "00:00:00:00:00:00", 0, 0, 0, 0, 0, 0),
				unknown(macs, outTap, daddr)}, "drop"},
			// Some kernels take what later fragments begin with for ports.
			{"guests are no DHCP servers", []match{ip4, masked(ip4Fragment, equal, []byte{0x1f, 0xff}, "0", 0, 0), udp, number(dport, equal, 67)}, "drop"},
			{"guests are no DHCPv6 servers", []match{ip6, is(ip6Next, "udp", 17), number(header("", 42, 2), equal, 547)}, "drop"},
		}},
		{name: "from_guest", rules: []rule{
			{"addresses of bridges", []match{reserved}, "drop"},
			{"only the port's MAC address", []match{unknown(macs, tap, saddr)}, "drop"},
			{"", []match{arp}, "goto arp_from_guest"},
			{"", []match{ip4}, "goto ip4_from_guest"},
			{"", []match{ip6}, "goto ip6_from_guest"},
			{"VLAN tags and other protocols", nil, "drop"},
		}},
		arpChain(tap),
		ip4Chain(tap, saddr, sport, proto, udp),
		ip6Chain(tap, saddr),
		unspecifiedChain(tap, saddr),
		icmp6Chain(tap, saddr),
		mldChain(),
	}
}

// arpChain is for ARP over Ethernet for IPv4 (RFC 826, and RFC 5227 for probes).
func arpChain(tap field) chain {
	var (
		operation = header("arp operation", 6, 2)
		senderMAC = header("arp saddr ether", 8, 6)
		senderIP  = header("arp saddr ip", 14, 4)
		targetIP  = header("arp daddr ip", 24, 4)
		sender    = known(ip4s, tap, senderMAC, senderIP)
	)
	return chain{name: "arp_from_guest", rules: []rule{
		{"Ethernet, IPv4 and their lengths", []match{isNot(header("", 0, 6), "0x000108000604", 0, 1, 8, 0, 6, 4)}, "drop"},
		{"sender is the port", []match{number(operation, equal, 1), sender}, "accept"},
		{"sender is the port", []match{number(operation, equal, 2), sender}, "accept"},
		{"a probe for the port's own address", []match{number(operation, equal, 1), is(senderIP, "0.0.0.0", 0, 0, 0, 0),
			known(ip4s, tap, senderMAC, targetIP)}, "accept"},
		{"", nil, "drop"},
	}}
}

// ip4Fragment is the flags of a fragment and its place in units of 8 bytes.
var ip4Fragment = header("ip frag-off", 6, 2)

// ip4Chain is for IPv4. RFC 3128 is why the fragment at 8 bytes is dropped: it could overwrite what the first showed.
func ip4Chain(tap, mac, sport, proto field, udp match) chain {
	var (
		version = header("ip version", 0, 1)
		source  = header("ip saddr", 12, 4)
		target  = header("ip daddr", 16, 4)
		ports   = field{text: "@th,0,32", place: ofTransport, offset: 0, len: 4}
	)
	return chain{name: "ip4_from_guest", rules: []rule{
		{"", []match{masked(version, unequal, []byte{0xf0}, "0x40", 0x40)}, "drop"},
		{"a DHCP client without an address", []match{is(source, "0.0.0.0", 0, 0, 0, 0), is(target, "255.255.255.255", 255, 255, 255, 255),
			masked(ip4Fragment, equal, []byte{0x3f, 0xff}, "0", 0, 0), udp, is(ports, "0x00440043", 0, 68, 0, 67)}, "accept"},
		{"only the port's addresses", []match{unknown(ip4s, tap, mac, source)}, "drop"},
		{"a fragment that overwrites ports", []match{masked(ip4Fragment, equal, []byte{0x1f, 0xff}, "1", 0, 1)}, "drop"},
		{"later fragments", []match{masked(ip4Fragment, unequal, []byte{0x1f, 0xff}, "0", 0, 0)}, "accept"},
		{"", []match{isNot(proto, "udp", 17)}, "accept"},
		{"no DHCP server; a port that can't be read is none", []match{number(sport, unequal, 67)}, "accept"},
		{"", nil, "drop"},
	}}
}

// What the chains for IPv6 look at. Extension headers don't pass, so that all that follows the header is in its place.
var (
	ip6Version  = header("ip6 version", 0, 1)
	ip6Length   = header("ip6 length", 4, 2)
	ip6Next     = header("ip6 nexthdr", 6, 1)
	ip6Hops     = header("ip6 hoplimit", 7, 1)
	ip6Source   = header("ip6 saddr", 8, 16)
	icmp6Type   = header("icmpv6 type", 40, 1)
	icmp6Code   = header("icmpv6 code", 41, 1)
	icmp6Target = header("icmpv6 taddr", 48, 16)
)

func ip6Chain(tap, mac field) chain {
	return chain{name: "ip6_from_guest", rules: []rule{
		{"", []match{masked(ip6Version, unequal, []byte{0xf0}, "0x60", 0x60)}, "drop"},
		{"", []match{is(ip6Source, "::", ip("::")...)}, "goto ip6_without_address"},
		{"only the port's addresses", []match{unknown(ip6s, tap, mac, ip6Source)}, "drop"},
		{"", []match{is(ip6Next, "icmpv6", 58)}, "goto icmp6_from_guest"},
		{"", []match{is(ip6Next, "tcp", 6)}, "accept"},
		{"no DHCPv6 server", []match{is(ip6Next, "udp", 17), number(header("", 40, 2), unequal, 547)}, "accept"},
		{"", []match{is(ip6Next, "hopopt", 0)}, "goto mld_from_guest"},
		{"extension headers and other protocols", nil, "drop"},
	}}
}

// unspecifiedChain is for what a guest sends before it has an address: duplicate address detection (RFC 4862 §5.4.2, with the
// nonce of RFC 7527), router solicitations, and MLD reports.
func unspecifiedChain(tap, mac field) chain {
	own := known(ip6s, tap, mac, icmp6Target)
	return chain{name: "ip6_without_address", rules: []rule{
		{"", []match{is(ip6Next, "hopopt", 0)}, "goto mld_from_guest"},
		{"", []match{isNot(ip6Next, "icmpv6", 58)}, "drop"},
		{"from another link", []match{number(ip6Hops, unequal, 255)}, "drop"},
		{"router solicitation", []match{is(icmp6Type, "nd-router-solicit", 133), number(icmp6Code, equal, 0), number(ip6Length, equal, 8)}, "accept"},
		{"duplicate address detection", []match{is(icmp6Type, "nd-neighbor-solicit", 135), number(icmp6Code, equal, 0), own,
			number(ip6Length, equal, 24)}, "accept"},
		{"duplicate address detection, with a nonce", []match{is(icmp6Type, "nd-neighbor-solicit", 135), number(icmp6Code, equal, 0), own,
			number(ip6Length, equal, 32), is(header("", 64, 2), "0x0e01", 14, 1)}, "accept"},
		{"", nil, "drop"},
	}}
}

// icmp6Chain is for ICMPv6 from an address of the port: errors, echo, and of neighbor discovery (RFC 4861) what hosts
// send, with no option but one link-layer address, the port's.
func icmp6Chain(tap, mac field) chain {
	option := func(kind byte, at uint32, length uint64) []match {
		return []match{number(ip6Length, equal, length), is(header("", at, 2), fmt.Sprintf("0x%02x01", kind), kind, 1),
			known(macs, tap, header("", at+2, 6))}
	}
	solicit, advert := is(icmp6Type, "nd-neighbor-solicit", 135), is(icmp6Type, "nd-neighbor-advert", 136)
	router := is(icmp6Type, "nd-router-solicit", 133)
	return chain{name: "icmp6_from_guest", rules: []rule{
		{"errors", []match{number(icmp6Type, atLeast, 1), number(icmp6Type, atMost, 4)}, "accept"},
		{"echo", []match{number(icmp6Type, atLeast, 128), number(icmp6Type, atMost, 129)}, "accept"},
		{"from another link", []match{number(ip6Hops, unequal, 255)}, "drop"},
		{"", []match{number(icmp6Code, unequal, 0)}, "drop"},
		{"router solicitation", []match{router, number(ip6Length, equal, 8)}, "accept"},
		{"router solicitation", append([]match{router}, option(1, 48, 16)...), "accept"},
		{"neighbor solicitation", []match{solicit, number(ip6Length, equal, 24)}, "accept"},
		{"neighbor solicitation", append([]match{solicit}, option(1, 64, 32)...), "accept"},
		{"no router, and no other redirect or advertisement", []match{isNot(icmp6Type, "nd-neighbor-advert", 136)}, "drop"},
		{"a guest is no router", []match{masked(header("", 44, 1), unequal, []byte{0x80}, "0", 0)}, "drop"},
		{"only the port's addresses", []match{unknown(ip6s, tap, mac, icmp6Target)}, "drop"},
		{"neighbor advertisement", []match{advert, number(ip6Length, equal, 24)}, "accept"},
		{"neighbor advertisement", append([]match{advert}, option(2, 64, 32)...), "accept"},
		{"", nil, "drop"},
	}}
}

// mldChain is for reports of multicast listeners (RFC 3810 §5): the one hop-by-hop option they have, in the two orders that
// systems write it, and then what is no query.
func mldChain() chain {
	options := header("", 40, 8)
	var rules []rule
	for _, value := range [][]byte{{58, 0, 5, 2, 0, 0, 1, 0}, {58, 0, 1, 0, 5, 2, 0, 0}} {
		for _, kind := range []byte{131, 132, 143} {
			rules = append(rules, rule{"multicast listener", []match{is(options, fmt.Sprintf("0x%x", value), value...),
				number(header("", 48, 1), equal, uint64(kind))}, "accept"})
		}
	}
	return chain{name: "mld_from_guest", rules: append(rules, rule{"", nil, "drop"})}
}
