package linux

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Names of what security groups are in the table. A group has two chains, which its rules are in, and two sets, of
// its members. What taps with the same groups share are two chains more, which jump to those of the groups, one after the other, and one
// that goes to the first or the second. One map has a tap's class, a number, and another the chain of a class: whenever something comes that leads to
// a chain, the kernel looks at all such elements of the table, and those are as few as there are combinations of groups. So no rule names a tap, and a
// member more is an element more.
const (
	rulesIn, rulesOut   = "in-", "out-" // and the group's id
	members4, members6  = "m4-", "m6-"  // and the group's id
	choose              = "cg-"         // and what combination returns
	chooseIn, chooseOut = "ci-", "co-"  // and what combination returns
	whyOfJump           = "group "
	passedIn, passedOut = "pass_in", "pass_out"
	begunByOthers4      = "in4" // flows that a rule for ingress let begin: the tap's end is first
	begunByOthers6      = "in6"
	begunByGuest4       = "out4" // flows that a rule for egress let begin
	begunByGuest6       = "out6"
	tcpFlows            = "_tcp"
	udpFlows            = "_udp"
	otherFlows          = "_other" // echo requests, and protocols without ports
	fragments           = "frags"  // IPv4 packets whose first fragment passed
	rateIn, rateOut     = "rate_in", "rate_out"
	open                = "open"      // taps that have no groups
	groupsOf            = "groups_of" // the class of a tap: what its groups are
	choosers            = "choosers"  // the chain of a class
	metadataAddress     = "169.254.169.254"
	newFlowsPerSecond   = 2000  // of one tap, that are remembered
	newFlowsAtOnce      = 20000 // of one tap, that are remembered
	maxFlows            = 1 << 18
	maxRates            = 1 << 16
	tcpFlow             = 7440 // seconds: RFC 5382 REQ-5, two hours and four minutes
	tcpBeginning        = 240  // seconds: RFC 5382 REQ-5, of connections that begin or end
	udpFlow             = 300  // seconds: RFC 4787 REQ-5
	icmpFlow            = 60   // seconds: RFC 5508 REQ-2
	otherFlow           = 600  // seconds
	fragmentLife        = 30   // seconds: RFC 791 §3.2 has 15, Linux waits 30
)

// combination is a short name for some groups, sorted.
func combination(groups []string) string {
	sum := sha256.Sum256([]byte(strings.Join(groups, ",")))
	return hex.EncodeToString(sum[:8])
}

// chooser returns the chains of all taps that are in the same groups.
func chooser(groups []string) []chain {
	in, out := chain{name: chooseIn + combination(groups)}, chain{name: chooseOut + combination(groups)}
	for _, id := range groups {
		in.rules = append(in.rules, rule{whyOfJump + id, nil, "jump " + rulesIn + id})
		out.rules = append(out.rules, rule{whyOfJump + id, nil, "jump " + rulesOut + id})
	}
	drop := rule{"what no group lets through", nil, "drop"}
	in.rules, out.rules = append(in.rules, drop), append(out.rules, drop)
	return []chain{in, out, {name: choose + combination(groups), rules: []rule{
		{"what guests get", []match{group(outGroup, "meta oifgroup"), {op: unmarked}}, "goto " + in.name},
		{"what guests send", []match{{op: unmarked}}, "goto " + out.name}}}}
}

// classes are the chains that taps of each class go to.
type classes map[uint32]string

// byChain is which class goes to each chain.
func (c classes) byChain() map[string]uint32 {
	all := make(map[string]uint32, len(c))
	for n, chain := range c {
		all[chain] = n
	}
	return all
}

// free is a class that can be this chain's: what its name begins with, or the next that is no other's.
func (c classes) free(chain string) uint32 {
	n := firstClass(chain)
	for c[n] != "" {
		n++
	}
	return n
}

// firstClass is the class that a chain has if it is not another's.
func firstClass(chain string) uint32 {
	n, _ := strconv.ParseUint(chain[len(choose):][:8], 16, 32)
	return uint32(n)
}

// classElement is that taps of a class go to a chain.
func classElement(n uint32, chain string) element {
	return element{choosers, classKey(n), chain}
}

// classKey is a class as the kernel wants it.
func classKey(n uint32) string { return string(binary.NativeEndian.AppendUint32(nil, n)) }

// groupChains returns the two chains of a group.
func groupChains(g network.Group) []chain {
	in, out := chain{name: rulesIn + g.ID}, chain{name: rulesOut + g.ID}
	sorted := slices.SortedFunc(slices.Values(g.Rules), func(a, b network.Rule) int { return strings.Compare(a.String(), b.String()) })
	for _, r := range sorted {
		if r.Direction == network.Ingress {
			in.rules = append(in.rules, compile(r)...)
		} else {
			out.rules = append(out.rules, compile(r)...)
		}
	}
	return []chain{in, out}
}

// groupSets returns the two sets of a group.
func groupSets(id string) []set {
	return []set{{name: members4 + id, types: []string{"ipv4_addr"}}, {name: members6 + id, types: []string{"ipv6_addr"}}}
}

// memberElement is that an address is a member of a group.
func memberElement(id string, a netip.Addr) element {
	if a.Is4() {
		return element{set: members4 + id, key: string(a.AsSlice())}
	}
	return element{set: members6 + id, key: string(a.AsSlice())}
}

// groupOf returns the id of the group whose set this is.
func groupOf(set string) (id string, is bool) {
	if id, is = strings.CutPrefix(set, members4); !is {
		id, is = strings.CutPrefix(set, members6)
	}
	return id, is
}

// groupOfChain returns the id of the group whose chain this is.
func groupOfChain(chain string) (id string, is bool) {
	if id, is = strings.CutPrefix(chain, rulesIn); !is {
		id, is = strings.CutPrefix(chain, rulesOut)
	}
	return id, is
}

// isDynamic tells the chains that depend on what there is from those that are always there.
func isDynamic(chain string) bool {
	for _, prefix := range []string{rulesIn, rulesOut, choose, chooseIn, chooseOut, limitChainIn, limitChainOut} {
		if strings.HasPrefix(chain, prefix) {
			return true
		}
	}
	return false
}

// compile returns what a rule is in the packet filter: one rule, or one for each family of addresses where its remote group has both.
func compile(r network.Rule) []rule {
	var (
		ip4, ip6   = is(link("ether type", 12, 2), "ip", 0x08, 0x00), is(link("ether type", 12, 2), "ip6", 0x86, 0xdd)
		other4     = header("ip saddr", 12, 4)
		other6     = header("ip6 saddr", 8, 16)
		dport      = transport("th dport", 2, 2)
		why        = r.String()
		verdict    = "goto " + passedIn
		what, rest []match
	)
	if r.Direction == network.Egress {
		other4, other6, verdict = header("ip daddr", 16, 4), header("ip6 daddr", 24, 16), "goto "+passedOut
	}
	proto := func(name string, n byte) match { return is(l4, name, n) }
	code := func(kind string) {
		if r.From != network.Any {
			rest = append(rest, number(transport(kind+" type", 0, 1), equal, uint64(r.From)))
		}
		if r.To != network.Any {
			rest = append(rest, number(transport(kind+" code", 1, 1), equal, uint64(r.To)))
		}
	}
	switch r.Protocol {
	case network.TCP, network.UDP:
		what = []match{proto("tcp", 6)}
		if r.Protocol == network.UDP {
			what = []match{proto("udp", 17)}
		}
		switch {
		case r.From == network.Any:
		case r.From == r.To:
			rest = []match{number(dport, equal, uint64(r.From))}
		default:
			rest = []match{number(dport, atLeast, uint64(r.From)), number(dport, atMost, uint64(r.To))}
		}
	case network.ICMP:
		what = []match{ip4, proto("icmp", 1)}
		code("icmp")
	case network.ICMPv6:
		what = []match{ip6, proto("icmpv6", 58)}
		code("icmpv6")
	}
	line := func(family, remote []match) rule {
		if len(what) == 2 { // the protocol says the family
			family = nil
		}
		return rule{why, slices.Concat(family, what, rest, remote), verdict}
	}
	switch {
	case r.RemoteGroup != "":
		four := line([]match{ip4}, []match{known(members4+r.RemoteGroup, other4)})
		six := line([]match{ip6}, []match{known(members6+r.RemoteGroup, other6)})
		switch r.Protocol {
		case network.ICMP:
			return []rule{four}
		case network.ICMPv6:
			return []rule{six}
		}
		return []rule{four, six}
	case !r.Remote.IsValid():
		return []rule{line(nil, nil)}
	case r.Remote.Addr().Is4():
		return []rule{line([]match{ip4}, within(other4, r.Remote))}
	}
	return []rule{line([]match{ip6}, within(other6, r.Remote))}
}

// within is the condition that an address is of a subnet.
func within(f field, p netip.Prefix) []match {
	addr := p.Addr().AsSlice()
	switch p.Bits() {
	case 0:
		return nil
	case 8 * len(addr):
		return []match{is(f, p.Addr().String(), addr...)}
	}
	mask := make([]byte, len(addr))
	for bit := range p.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	return []match{masked(f, equal, mask, p.Addr().String(), addr...)}
}

// parseGroup understands the comments of a group's chains.
func parseGroup(id string, chains map[string][]string) network.Group {
	g := network.Group{ID: id}
	for _, comment := range slices.Concat(chains[rulesIn+id], chains[rulesOut+id]) {
		r, err := network.ParseRule(reason(comment))
		if err == nil && !slices.Contains(g.Rules, r) {
			g.Rules = append(g.Rules, r)
		}
	}
	slices.SortFunc(g.Rules, func(a, b network.Rule) int { return strings.Compare(a.String(), b.String()) })
	return g
}

// parseChooser understands the comments of a chain that jumps to groups.
func parseChooser(comments []string) (groups []string) {
	for _, comment := range comments {
		if id, is := strings.CutPrefix(reason(comment), whyOfJump); is {
			groups = append(groups, id)
		}
	}
	return groups
}

// reason is the comment of a rule without what tells it from others.
func reason(comment string) string {
	if at := strings.LastIndex(comment, " ["); at >= 0 {
		return comment[:at]
	}
	return comment
}

// way is a direction, seen from a tap.
type way struct {
	name         string // of the chain at the hook
	hook         string
	priority     int
	group        match // the link is a tap of ours
	index, tap   field
	local4       field // the tap's end
	remote4      field
	local6       field
	remote6      field
	lport, rport field
	passed       string // where rules go to
	begins       string // flows that begin this way
	answers      string // flows that begin the other way
	rate         string
	suffix       string
}

// ways are both directions. What gets to guests is looked at after, what they send after what keeps them from forging.
func ways() []way {
	saddr4, daddr4, saddr6, daddr6 := header("ip saddr", 12, 4), header("ip daddr", 16, 4), header("ip6 saddr", 8, 16), header("ip6 daddr", 24, 16)
	sport, dport := transport("th sport", 0, 2), transport("th dport", 2, 2)
	return []way{
		{"ingress", "postrouting", 310, group(outGroup, "meta oifgroup"), field{text: "meta oif", place: ofMeta, meta: outIndex, len: 4},
			field{text: "oifname", place: ofMeta, meta: outName, len: 16}, daddr4, saddr4, daddr6, saddr6, dport, sport, passedIn,
			"in", "out", rateIn, "_in"},
		{"egress", "prerouting", -290, group(inGroup, "meta iifgroup"), field{text: "meta iif", place: ofMeta, meta: inIndex, len: 4},
			field{text: "iifname", place: ofMeta, meta: inName, len: 16}, saddr4, daddr4, saddr6, daddr6, sport, dport, passedOut,
			"out", "in", rateOut, "_out"},
	}
}

// groupTable returns the chains of one direction that are always there.
func groupTable(w way) []chain {
	etherType := link("ether type", 12, 2)
	return []chain{
		{name: w.name, hook: w.hook, priority: w.priority, rules: []rule{
			{"security groups", []match{w.group}, "goto guarded" + w.suffix},
		}},
		{name: "guarded" + w.suffix, rules: []rule{
			{"taps without groups", []match{known(open, w.tap)}, "accept"},
			{"", []match{is(etherType, "arp", 0x08, 0x06)}, "accept"},
			{"", []match{is(etherType, "ip", 0x08, 0x00)}, "goto ip4" + w.suffix},
			{"", []match{is(etherType, "ip6", 0x86, 0xdd)}, "goto ip6" + w.suffix},
			{"", nil, "drop"},
		}},
		w.chain4(), w.chain6(), {name: "choose" + w.suffix, rules: w.choose()}, w.quoted("4"), w.quoted("6"),
		{name: w.passed, rules: []rule{
			{"", []match{is(etherType, "ip", 0x08, 0x00)}, "goto " + w.passed + "4"},
			{"", nil, "goto " + w.passed + "6"},
		}},
		w.pass("4", "icmp", 1, 8), w.pass("6", "icmpv6", 58, 128),
		{name: "answer" + w.suffix, rules: []rule{w.firstFragment(), {"", nil, "accept"}}},
	}
}

// ports, echo and other are what tells a flow from others, the tap's end first: of TCP and UDP, of an echo request, and of a protocol
// that has nothing of the kind.
func (w way) ports(family string) []field {
	local, remote := w.ends(family)
	return []field{w.index, local, remote, w.lport, w.rport}
}

func (w way) echo(family string) []field {
	local, remote := w.ends(family)
	return []field{w.index, l4, local, remote, transport("icmp id", 4, 2)}
}

func (w way) other(family string) []field {
	local, remote := w.ends(family)
	return []field{w.index, l4, local, remote, l4}
}

func (w way) ends(family string) (local, remote field) {
	if family == "4" {
		return w.local4, w.remote4
	}
	return w.local6, w.remote6
}

func (w way) fragment() []field {
	return []field{w.index, header("ip saddr", 12, 4), header("ip daddr", 16, 4), header("ip id", 4, 2), header("ip protocol", 9, 1)}
}

func (w way) firstFragment() rule {
	return rule{"the rest of the packet passes too", []match{is(link("ether type", 12, 2), "ip", 0x08, 0x00),
		masked(ip4Fragment, equal, []byte{0x3f, 0xff}, "0x2000", 0x20, 0x00), remember(fragments, fragmentLife, w.fragment()...)}, ""}
}

// quoted lets through what routers and the other end say, in ICMP errors, about packets of flows that pass, whoever began them. The header that
// they quote must have no options.
func (w way) quoted(family string) chain {
	proto, src, dst, at := transport("", 17, 1), transport("", 20, 4), transport("", 24, 4), uint32(28)
	icmp, first := is(proto, "1", 1), []match{is(transport("", 8, 1), "0x45", 0x45)}
	if family == "6" {
		proto, src, dst, at = transport("", 14, 1), transport("", 16, 16), transport("", 32, 16), 48
		icmp, first = is(proto, "58", 58), nil
	}
	sport, dport, id := transport("", at, 2), transport("", at+2, 2), transport("", at+4, 2)
	if w.suffix == "_out" { // it is about a packet that came
		src, dst, sport, dport = dst, src, dport, sport
	}
	c := chain{name: "quoted" + family + w.suffix}
	for _, set := range []string{w.begun(family), w.answered(family)} {
		for _, what := range [][]match{
			{is(proto, "6", 6), known(set+tcpFlows, w.index, src, dst, sport, dport)},
			{is(proto, "17", 17), known(set+udpFlows, w.index, src, dst, sport, dport)},
			{icmp, known(set+otherFlows, w.index, proto, src, dst, id)},
		} {
			c.rules = append(c.rules, rule{"errors about flows that pass", slices.Concat(first, what), "accept"})
		}
	}
	return c
}

func (w way) begun(family string) string    { return w.begins + family }
func (w way) answered(family string) string { return w.answers + family }

// answersTo lets through what belongs to flows that began the other way.
func (w way) answersTo(family, icmp string, n, reply byte, verdict string) []rule {
	set := w.answered(family)
	return []rule{
		{"answers", []match{is(l4, "tcp", 6), known(set+tcpFlows, w.ports(family)...)}, verdict},
		{"answers", []match{is(l4, "udp", 17), known(set+udpFlows, w.ports(family)...)}, verdict},
		{"answers", []match{is(l4, icmp, n), number(transport(icmp+" type", 0, 1), equal, uint64(reply)), known(set+otherFlows, w.echo(family)...)}, verdict},
		{"answers", []match{isNot(l4, "tcp", 6), isNot(l4, "udp", 17), isNot(l4, icmp, n), known(set+otherFlows, w.other(family)...)}, verdict},
	}
}

// chain4 decides about IPv4.
func (w way) chain4() chain {
	later := masked(ip4Fragment, unequal, []byte{0x1f, 0xff}, "0", 0, 0)
	udp, tcp, icmpType := is(l4, "udp", 17), is(l4, "tcp", 6), transport("icmp type", 0, 1)
	rules := []rule{
		{"later fragments of what passed", []match{later, known(fragments, w.fragment()...)}, "accept"},
		{"later fragments of what did not", []match{later}, "drop"},
		{"DHCP", []match{udp, number(w.lport, equal, 68), number(w.rport, equal, 67)}, "accept"},
		{"metadata", []match{is(w.remote4, metadataAddress, ip(metadataAddress)...), tcp, number(w.rport, equal, 80)}, "accept"},
	}
	rules = append(rules, w.answersTo("4", "icmp", 1, 0, "goto answer"+w.suffix)...)
	for _, kind := range []uint64{3, 11, 12} {
		rules = append(rules, rule{"", []match{is(l4, "icmp", 1), number(icmpType, equal, kind)}, "jump quoted4" + w.suffix})
	}
	return chain{name: "ip4" + w.suffix, rules: append(rules, rule{"", nil, "goto choose" + w.suffix})}
}

// chain6 decides about IPv6. What hosts need to find each other passes.
func (w way) chain6() chain {
	icmp, icmpType := is(l4, "icmpv6", 58), transport("icmpv6 type", 0, 1)
	rules := []rule{
		{"neighbor discovery and multicast listeners", []match{icmp, number(icmpType, atLeast, 130), number(icmpType, atMost, 136)}, "accept"},
		{"multicast listeners", []match{icmp, number(icmpType, equal, 143)}, "accept"},
		{"DHCPv6", []match{is(l4, "udp", 17), number(w.lport, equal, 546), number(w.rport, equal, 547)}, "accept"},
	}
	rules = append(rules, w.answersTo("6", "icmpv6", 58, 129, "accept")...)
	rules = append(rules, rule{"", []match{icmp, number(icmpType, atLeast, 1), number(icmpType, atMost, 4)}, "jump quoted6" + w.suffix})
	return chain{name: "ip6" + w.suffix, rules: append(rules, rule{"", nil, "goto choose" + w.suffix})}
}

// choose goes to the tap's groups. One that the map does not know is cut off.
func (w way) choose() []rule {
	mark := field{text: "meta mark", place: ofMeta, meta: packetMark, len: 4}
	return []rule{
		{"the tap's groups", []match{{fields: []field{w.tap}, op: marked, set: groupsOf}, {fields: []field{mark}, op: through, set: choosers}}, ""},
		{"", nil, "drop"},
	}
}

// pass remembers a flow that a rule let through, so that its answers pass. A tap that begins more than its share is not stopped, but
// what it begins is not remembered: others have room.
func (w way) pass(family, icmp string, n, request byte) chain {
	tcp, udp, set := is(l4, "tcp", 6), is(l4, "udp", 17), w.begun(family)
	share := match{fields: []field{w.index}, op: exceed, set: w.rate, seconds: icmpFlow}
	var rules []rule
	if family == "4" {
		rules = append(rules, w.firstFragment())
	}
	return chain{name: w.passed + family, rules: append(rules,
		rule{"more than its share", []match{tcp, unknown(set+tcpFlows, w.ports(family)...), share}, "accept"},
		rule{"more than its share", []match{udp, unknown(set+udpFlows, w.ports(family)...), share}, "accept"},
		rule{"begins or ends", []match{tcp, masked(transport("tcp flags", 13, 1), unequal, []byte{0x07}, "0", 0),
			remember(set+tcpFlows, tcpBeginning, w.ports(family)...)}, "accept"},
		rule{"", []match{tcp, remember(set+tcpFlows, tcpFlow, w.ports(family)...)}, "accept"},
		rule{"", []match{udp, remember(set+udpFlows, udpFlow, w.ports(family)...)}, "accept"},
		rule{"echo", []match{is(l4, icmp, n), number(transport(icmp+" type", 0, 1), equal, uint64(request)),
			remember(set+otherFlows, icmpFlow, w.echo(family)...)}, "accept"},
		rule{"", []match{isNot(l4, "tcp", 6), isNot(l4, "udp", 17), isNot(l4, icmp, n), remember(set+otherFlows, otherFlow, w.other(family)...)}, "accept"},
		rule{"there is no room to remember it, or nothing to", nil, "accept"},
	)}
}
