package linux

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// The table for packets that the node routes: it forwards none from one bridge of ours to another, and IPv6 for those alone that are routed.
//
//	table inet dewpoint_forward {
//		set same   { type ifname . ifname; elements = { "br100" . "br100" } }
//		set routed { type ifname; elements = { "br100" } }
//		set raised { type ifname; elements = { "eth0" } }           a memory: see route6_linux.go
//		chain forward {
//			type filter hook forward priority -10; policy accept;
//			ct status dnat accept                                 only where there are floating IPs
//			iifgroup ours oifgroup ours iifname . oifname != @same drop
//			meta nfproto ipv6 iifgroup ours oifgroup != ours iifname != @routed drop
//			meta nfproto ipv6 iifgroup != ours oifgroup ours oifname != @routed drop
//			meta nfproto ipv6 iifgroup != ours oifgroup != ours meta iifkind != "bridge" drop    only where the node
//			meta nfproto ipv6 iifgroup != ours oifgroup != ours meta oifkind != "bridge" drop    did not forward before
//		}
//	}
//
// A guest reaches the floating IP of one behind another bridge, and has its answers: connections that the node translated the address of.
// Without floating IPs the table does without connection tracking, which would put fragments together, and delay them, on nodes whose
// bridges show their packets to it (br_netfilter). Those show bridged packets to this chain too, as from a bridge to itself: they are what the set is for, and why
// what goes between two bridges of others is let be.
const (
	forwardTable    = "dewpoint_forward"
	forwardPriority = -10
	samePairs       = "same"
	routedSet       = "routed"
	raisedSet       = "raised"
)

// The comments of the rules, by which they are told. Whoever changes a rule changes its comment.
const (
	rulePassFloating = "by floating IPs [1]"
	ruleApart        = "bridges are apart [1]"
	ruleFrom6        = "IPv6 is not routed from this bridge [1]"
	ruleTo6          = "IPv6 is not routed to this bridge [1]"
	ruleFromOthers6  = "IPv6 is routed for our bridges alone, from others [1]"
	ruleToOthers6    = "IPv6 is routed for our bridges alone, to others [1]"
)

// forwards is what the table says.
type forwards struct {
	bridges  []string // that are apart, sorted; nil: the table is missing, or not as it should be
	floating bool     // guests reach each other by floating IPs all the same
	routed   []string // bridges that IPv6 is routed for, sorted
	opened   bool     // the node forwards IPv6 because of these
	raised   []string // cards that were told to hear router advertisements all the same, sorted
}

func (f forwards) same(g forwards) bool {
	return slices.Equal(f.bridges, g.bridges) && f.floating == g.floating && slices.Equal(f.routed, g.routed) && f.opened == g.opened &&
		slices.Equal(f.raised, g.raised)
}

// comments are those of the chain's rules.
func (f forwards) comments() (all []string) {
	if f.floating {
		all = append(all, rulePassFloating)
	}
	all = append(all, ruleApart, ruleFrom6, ruleTo6)
	if f.opened {
		all = append(all, ruleFromOthers6, ruleToOthers6)
	}
	return all
}

func forwardParts() (*nftables.Table, []*nftables.Set, *nftables.Chain) {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: forwardTable}
	s := []*nftables.Set{
		{Table: t, Name: samePairs, KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName),
			Concatenation: true, KeyByteOrder: binaryutil.NativeEndian},
		{Table: t, Name: routedSet, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		{Table: t, Name: raisedSet, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
	}
	policy := nftables.ChainPolicyAccept
	return t, s, &nftables.Chain{Table: t, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityRef(forwardPriority), Policy: &policy}
}

func pair(bridge string) []byte {
	name := padded([]byte(bridge), 16)
	return append(name, name...)
}

// forwarding reads the table.
func (k *kernel) forwarding() (f forwards, err error) {
	_, sets, want := forwardParts()
	list, err := k.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return f, fmt.Errorf("chains: %w", err)
	}
	list = slices.DeleteFunc(list, func(c *nftables.Chain) bool { return c.Table.Name != forwardTable })
	if len(list) != 1 || list[0].Name != want.Name || !sameHook(list[0], want) {
		return f, nil
	}
	rules, err := k.nft.GetRules(want.Table, want)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return f, fmt.Errorf("chain %s: %w", want.Name, err)
	}
	var comments []string
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		comments = append(comments, comment)
	}
	f.floating, f.opened = slices.Contains(comments, rulePassFloating), slices.Contains(comments, ruleToOthers6)
	whole := slices.Equal(comments, f.comments())
	for i, into := range []*[]string{&f.bridges, &f.routed, &f.raised} {
		elements, err := k.nft.GetSetElements(sets[i])
		if errors.Is(err, unix.ENOENT) {
			whole = false
			continue
		}
		if err != nil {
			return f, fmt.Errorf("set %s: %w", sets[i].Name, err)
		}
		*into = make([]string, 0, len(elements))
		for _, e := range elements {
			name, _, _ := strings.Cut(string(e.Key), "\x00")
			whole = whole && (i > 0 || string(e.Key) == string(pair(name)))
			*into = append(*into, name)
		}
		slices.Sort(*into)
	}
	if !whole {
		f.bridges = nil
	}
	return f, nil
}

// forward makes the table say f, or removes it if there are no bridges, in one transaction.
func (k *kernel) forward(f forwards) error {
	t, sets, c := forwardParts()
	k.nft.AddTable(t) // so that there is one to delete
	k.nft.DelTable(t)
	if len(f.bridges) == 0 {
		return k.nft.Flush()
	}
	k.nft.AddTable(t)
	for i, names := range [][]string{f.bridges, f.routed, f.raised} {
		var elements []nftables.SetElement
		for _, name := range names {
			key := pair(name)
			if i > 0 {
				key = key[:16]
			}
			elements = append(elements, nftables.SetElement{Key: key})
		}
		if err := k.nft.AddSet(sets[i], elements); err != nil {
			return k.giveUp(err)
		}
	}
	k.nft.AddChain(c)
	first, second := uint32(unix.NFT_REG32_00), uint32(unix.NFT_REG32_00+4)
	number := binaryutil.NativeEndian.PutUint32
	rule := func(comment string, exprs ...expr.Any) {
		k.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, comment)})
	}
	if f.floating {
		rule(rulePassFloating, append(translated(first), &expr.Verdict{Kind: expr.VerdictAccept})...)
	}
	is := func(key expr.MetaKey, op expr.CmpOp, value []byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: first}, &expr.Cmp{Op: op, Register: first, Data: value}}
	}
	ours := func(in, out expr.CmpOp) []expr.Any {
		return append(is(expr.MetaKeyIIFGROUP, in, number(bridgeGroup)), is(expr.MetaKeyOIFGROUP, out, number(bridgeGroup))...)
	}
	six := is(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV6})
	unrouted := func(name expr.MetaKey) []expr.Any {
		return []expr.Any{&expr.Meta{Key: name, Register: first}, &expr.Lookup{SourceRegister: first, SetName: routedSet, SetID: sets[1].ID, Invert: true}}
	}
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	rule(ruleApart, slices.Concat(ours(expr.CmpOpEq, expr.CmpOpEq), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: first},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: second},
		&expr.Lookup{SourceRegister: first, SetName: samePairs, SetID: sets[0].ID, Invert: true},
	}, drop)...)
	rule(ruleFrom6, slices.Concat(six, ours(expr.CmpOpEq, expr.CmpOpNeq), unrouted(expr.MetaKeyIIFNAME), drop)...)
	rule(ruleTo6, slices.Concat(six, ours(expr.CmpOpNeq, expr.CmpOpEq), unrouted(expr.MetaKeyOIFNAME), drop)...)
	if f.opened {
		others, bridge := ours(expr.CmpOpNeq, expr.CmpOpNeq), padded([]byte("bridge"), 16)
		rule(ruleFromOthers6, slices.Concat(six, others, is(inKind, expr.CmpOpNeq, bridge), drop)...)
		rule(ruleToOthers6, slices.Concat(six, others, is(outKind, expr.CmpOpNeq, bridge), drop)...)
	}
	return k.nft.Flush()
}

// The kinds of a packet's links, of which the library does not know the names (NFT_META_IIFKIND, NFT_META_OIFKIND).
const (
	inKind  expr.MetaKey = 26
	outKind expr.MetaKey = 27
)

// applyForward makes the table as d says, before there are the bridges that it keeps apart, and returns what it is.
func (c *call) applyForward(ctx context.Context, d network.Desired, links map[string]*nic) (want forwards, err error) {
	want = forwards{floating: len(d.Floating) > 0, routed: routedBridges(d.Bridges)}
	for _, b := range d.Bridges {
		if !b.External {
			want.bridges = append(want.bridges, b.Name)
		}
	}
	slices.Sort(want.bridges)
	have, err := c.forwarding(ctx)
	if err != nil {
		return want, err
	}
	if err := c.prepare6(ctx, have, &want, links); err != nil {
		return want, err
	}
	if want.bridges == nil { // when the bridges are gone
		return want, nil
	}
	if have.bridges != nil && have.same(want) {
		return want, nil
	}
	if err := c.forward(ctx, want); err != nil {
		return want, err
	}
	if have.bridges == nil {
		c.changed("table of forwarded packets made")
	} else if !slices.ContainsFunc(want.bridges, func(b string) bool { return !slices.Contains(have.bridges, b) }) {
		c.changed("table of forwarded packets mended")
	}
	return want, nil
}

// dropForward removes the table, if there is one, when no bridge is left that it would keep apart.
func (c *call) dropForward(ctx context.Context) error {
	have, err := c.forwarding(ctx)
	if err != nil || have.bridges == nil {
		return err
	}
	if err := c.forward(ctx, forwards{}); err != nil {
		return err
	}
	c.changed("table of forwarded packets removed")
	return nil
}

// plugForward makes the table know a bridge that is about to be made, or that is routed from now on, or not any more; it returns what the table is.
func (c *call) plugForward(ctx context.Context, b network.Bridge, links map[string]*nic) (want forwards, err error) {
	have, err := c.forwarding(ctx)
	if err != nil {
		return want, err
	}
	want = forwards{bridges: with(have.bridges, b.Name, true), floating: have.floating, routed: with(have.routed, b.Name, b.Gateway6.IsValid())}
	if err := c.prepare6(ctx, have, &want, links); err != nil || have.bridges != nil && have.same(want) {
		return want, err
	}
	return want, c.forward(ctx, want)
}

// with is a sorted list with a name, or without it.
func with(names []string, name string, there bool) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
	if there {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// floatForward makes the table let guests reach each other by floating IPs, or not, if there is a table.
func (c *call) floatForward(ctx context.Context, floating bool) error {
	have, err := c.forwarding(ctx)
	if err != nil || have.bridges == nil || have.floating == floating {
		return err
	}
	have.floating = floating
	return c.forward(ctx, have)
}

func (c *call) forwarding(ctx context.Context) (forwards, error) {
	if err := ctx.Err(); err != nil {
		return forwards{}, err
	}
	f, err := c.wire.forwarding()
	return f, failed("read the table of forwarded packets", err)
}

func (c *call) forward(ctx context.Context, f forwards) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return failed("change the table of forwarded packets", c.wire.forward(f))
}
