package linux

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// place is where a field of a rule comes from.
type place int

const (
	ofMeta      place = iota // the field's meta key
	ofLink                   // bytes from the beginning of the link layer's header
	ofNetwork                // bytes from the beginning of the network layer's header
	ofTransport              // bytes from the beginning of the transport layer's header; known for whole packets alone
)

// meta is what the kernel knows about a packet besides its bytes.
type meta int

const (
	inGroup meta = iota
	outGroup
	inName
	outName
	l4proto
	inIndex
	outIndex
	packetMark
)

// field is what a rule looks at.
type field struct {
	text        string // as nft writes it
	place       place
	meta        meta
	offset, len uint32 // in bytes
}

// op is how a rule compares.
type op int

const (
	equal op = iota
	unequal
	atLeast
	atMost
	in
	notIn
	through  // a map, whose verdict it is
	learnt   // put into a set, or seen there again: holds if there is room
	exceed   // more often than a tap's share of new flows
	overRate // more bytes each second than a rate
	marked   // a map, whose value the packet's mark is from then on
	unmarked // the packet has no mark from then on
)

// match is one condition of a rule.
type match struct {
	fields  []field // more than one: joined, for a set
	mask    []byte  // nil: none
	op      op
	value   []byte
	text    string // of the value
	set     string
	seconds int    // that a set keeps what is put into it
	rate    uint64 // bytes each second
	burst   uint32 // bytes
}

// rule is a line of a chain. Its verdict holds if all its conditions do.
type rule struct {
	why     string // one line; the kernel keeps it as the rule's comment
	matches []match
	verdict string // accept, drop, "goto chain", "jump chain"; "": the next rule follows
}

// chain is a list of rules. One without a hook is gone to from others.
type chain struct {
	name     string
	hook     string // "prerouting", …; "": none
	priority int
	rules    []rule
}

// set is a set of facts.
type set struct {
	name   string
	types  []string // nft's names of the types that are joined
	to     string   // of a map: the type of what it leads to, "verdict" or "mark"
	learns bool     // the packet filter itself puts facts there, for some time
	size   uint32   // how many it may have; 0: any number
}

// String is the condition as nft writes it.
func (m match) String() string {
	var names []string
	for _, f := range m.fields {
		names = append(names, f.text)
	}
	switch m.op {
	case overRate:
		return fmt.Sprintf("limit rate over %d bytes/second burst %d bytes", m.rate, m.burst)
	case unmarked:
		return "meta mark set 0x00000000"
	}
	left := strings.Join(names, " . ")
	if m.mask != nil {
		left += fmt.Sprintf(" & 0x%x", m.mask)
	}
	switch m.op {
	case unequal:
		return left + " != " + m.text
	case atLeast:
		return left + " >= " + m.text
	case atMost:
		return left + " <= " + m.text
	case in:
		return left + " @" + m.set
	case notIn:
		return left + " != @" + m.set
	case through:
		return left + " vmap @" + m.set
	case marked:
		return "meta mark set " + left + " map @" + m.set
	case learnt:
		return fmt.Sprintf("update @%s { %s timeout %ds }", m.set, left, m.seconds)
	case exceed:
		return fmt.Sprintf("update @%s { %s timeout %ds limit rate over %d/second burst %d packets }", m.set, left, m.seconds, newFlowsPerSecond, newFlowsAtOnce)
	}
	if m.mask != nil {
		return left + " == " + m.text
	}
	return left + " " + m.text
}

// String is the rule as nft writes it, without its comment.
func (r rule) String() string {
	var parts []string
	for _, m := range r.matches {
		parts = append(parts, m.String())
	}
	return strings.TrimSpace(strings.Join(append(parts, r.verdict), " "))
}

// comment is what the kernel keeps with the rule: two rules with the same comment do the same.
func (r rule) comment() string {
	sum := sha256.New()
	for _, m := range r.matches {
		fmt.Fprintln(sum, m.fields, m.mask, m.op, m.value, m.set)
		if m.seconds > 0 {
			fmt.Fprintln(sum, m.seconds, newFlowsPerSecond, newFlowsAtOnce)
		}
		if m.op == overRate {
			fmt.Fprintln(sum, m.rate, m.burst)
		}
	}
	fmt.Fprint(sum, r.verdict)
	return strings.TrimSpace(fmt.Sprintf("%s [%s]", r.why, hex.EncodeToString(sum.Sum(nil)[:4])))
}

// comments are those of its rules.
func (c chain) comments() []string {
	var all []string
	for _, r := range c.rules {
		all = append(all, r.comment())
	}
	return all
}

// String is the chain as nft writes it.
func (c chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n", c.name)
	if c.hook != "" {
		fmt.Fprintf(&b, "\t\ttype filter hook %s priority %d; policy accept;\n", c.hook, c.priority)
	}
	for _, r := range c.rules {
		fmt.Fprintf(&b, "\t\t%s comment %q\n", r, r.comment())
	}
	b.WriteString("\t}\n")
	return b.String()
}
