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

// The table for packets that the node routes: it forwards none from one bridge of ours to another.
//
//	table inet dewpoint_forward {
//		set same { type ifname . ifname; elements = { "br100" . "br100" } }
//		chain forward {
//			type filter hook forward priority -10; policy accept;
//			ct status dnat accept                        only where there are floating IPs
//			iifgroup 0x64700002 oifgroup 0x64700002 iifname . oifname != @same drop
//		}
//	}
//
// A guest reaches the floating IP of one behind another bridge, and has its answers: connections that the node translated the address of.
// Without floating IPs the table does without connection tracking, which would put fragments together, and delay them, on nodes whose
// bridges show their packets to it (br_netfilter). Those show bridged packets to this chain too, as from a bridge to itself: they are what the set is for.
const (
	forwardTable    = "dewpoint_forward"
	forwardPriority = -10
	samePairs       = "same"
)

// The comments of the rules, by which they are told. Whoever changes a rule changes its comment.
const (
	rulePassFloating = "by floating IPs [1]"
	ruleApart        = "bridges are apart [1]"
)

// forwards is what the table says.
type forwards struct {
	bridges  []string // that are apart, sorted; nil: the table is missing, or not as it should be
	floating bool     // guests reach each other by floating IPs all the same
}

func forwardParts() (*nftables.Table, *nftables.Set, *nftables.Chain) {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: forwardTable}
	s := &nftables.Set{Table: t, Name: samePairs, KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName),
		Concatenation: true, KeyByteOrder: binaryutil.NativeEndian}
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
	_, s, want := forwardParts()
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
	floating := slices.Equal(comments, []string{rulePassFloating, ruleApart})
	if !floating && !slices.Equal(comments, []string{ruleApart}) {
		return f, nil
	}
	elements, err := k.nft.GetSetElements(s)
	if errors.Is(err, unix.ENOENT) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("set %s: %w", samePairs, err)
	}
	bridges := []string{}
	for _, e := range elements {
		name, _, _ := strings.Cut(string(e.Key), "\x00")
		if string(e.Key) != string(pair(name)) {
			return f, nil
		}
		bridges = append(bridges, name)
	}
	slices.Sort(bridges)
	return forwards{bridges, floating}, nil
}

// forward makes the table say f, or removes it if there are no bridges, in one transaction.
func (k *kernel) forward(f forwards) error {
	t, s, c := forwardParts()
	k.nft.AddTable(t) // so that there is one to delete
	k.nft.DelTable(t)
	if len(f.bridges) == 0 {
		return k.nft.Flush()
	}
	k.nft.AddTable(t)
	var elements []nftables.SetElement
	for _, b := range f.bridges {
		elements = append(elements, nftables.SetElement{Key: pair(b)})
	}
	if err := k.nft.AddSet(s, elements); err != nil {
		return k.giveUp(err)
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
	rule(ruleApart,
		&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: first},
		&expr.Cmp{Op: expr.CmpOpEq, Register: first, Data: number(bridgeGroup)},
		&expr.Meta{Key: expr.MetaKeyOIFGROUP, Register: first},
		&expr.Cmp{Op: expr.CmpOpEq, Register: first, Data: number(bridgeGroup)},
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: first},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: second},
		&expr.Lookup{SourceRegister: first, SetName: samePairs, SetID: s.ID, Invert: true},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
	return k.nft.Flush()
}

// applyForward makes the table as d says, before there are the bridges that it keeps apart.
func (c *call) applyForward(ctx context.Context, d network.Desired) error {
	want := forwards{floating: len(d.Floating) > 0}
	for _, b := range d.Bridges {
		if !b.External {
			want.bridges = append(want.bridges, b.Name)
		}
	}
	slices.Sort(want.bridges)
	have, err := c.forwarding(ctx)
	if err != nil || (have.bridges == nil && want.bridges == nil) || (have.bridges != nil && slices.Equal(have.bridges, want.bridges) && have.floating == want.floating) {
		return err
	}
	if want.bridges == nil {
		return nil // when the bridges are gone
	}
	if err := c.forward(ctx, want); err != nil {
		return err
	}
	if have.bridges == nil {
		c.changed("table of forwarded packets made")
	} else if !slices.ContainsFunc(want.bridges, func(b string) bool { return !slices.Contains(have.bridges, b) }) {
		c.changed("table of forwarded packets mended")
	}
	return nil
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

// plugForward makes the table know a bridge that is about to be made.
func (c *call) plugForward(ctx context.Context, bridge string) error {
	have, err := c.forwarding(ctx)
	if err != nil || slices.Contains(have.bridges, bridge) {
		return err
	}
	have.bridges = append(have.bridges, bridge)
	return c.forward(ctx, have)
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
