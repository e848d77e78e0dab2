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
//			iifgroup 0x64700002 oifgroup 0x64700002 iifname . oifname != @same drop
//		}
//	}
//
// It does without connection tracking, which would put fragments together, and delay them, on nodes whose bridges show their packets to
// it (br_netfilter). Those show bridged packets to this chain too, as from a bridge to itself: they are what the set is for.
const (
	forwardTable    = "dewpoint_forward"
	forwardPriority = -10
	samePairs       = "same"
)

// The comments of the rules, by which they are told. Whoever changes a rule changes its comment.
var forwardRules = []string{"bridges are apart [1]"}

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

// forwarding returns the bridges that the table knows, sorted, nil where it is missing or not as it should be.
func (k *kernel) forwarding() (bridges []string, err error) {
	_, s, want := forwardParts()
	list, err := k.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("chains: %w", err)
	}
	list = slices.DeleteFunc(list, func(c *nftables.Chain) bool { return c.Table.Name != forwardTable })
	if len(list) != 1 || list[0].Name != want.Name || !sameHook(list[0], want) {
		return nil, nil
	}
	rules, err := k.nft.GetRules(want.Table, want)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("chain %s: %w", want.Name, err)
	}
	same := slices.EqualFunc(rules, forwardRules, func(r *nftables.Rule, comment string) bool {
		have, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		return have == comment
	})
	if !same {
		return nil, nil
	}
	elements, err := k.nft.GetSetElements(s)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", samePairs, err)
	}
	bridges = []string{}
	for _, e := range elements {
		name, _, _ := strings.Cut(string(e.Key), "\x00")
		if string(e.Key) != string(pair(name)) {
			return nil, nil
		}
		bridges = append(bridges, name)
	}
	slices.Sort(bridges)
	return bridges, nil
}

// forward makes the table for these bridges, or removes it if there are none, in one transaction.
func (k *kernel) forward(bridges []string) error {
	t, s, c := forwardParts()
	k.nft.AddTable(t) // so that there is one to delete
	k.nft.DelTable(t)
	if len(bridges) == 0 {
		return k.nft.Flush()
	}
	k.nft.AddTable(t)
	var elements []nftables.SetElement
	for _, b := range bridges {
		elements = append(elements, nftables.SetElement{Key: pair(b)})
	}
	if err := k.nft.AddSet(s, elements); err != nil {
		return k.giveUp(err)
	}
	k.nft.AddChain(c)
	first, second := uint32(unix.NFT_REG32_00), uint32(unix.NFT_REG32_00+4)
	number := binaryutil.NativeEndian.PutUint32
	for i, exprs := range [][]expr.Any{
		{
			&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: first},
			&expr.Cmp{Op: expr.CmpOpEq, Register: first, Data: number(bridgeGroup)},
			&expr.Meta{Key: expr.MetaKeyOIFGROUP, Register: first},
			&expr.Cmp{Op: expr.CmpOpEq, Register: first, Data: number(bridgeGroup)},
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: first},
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: second},
			&expr.Lookup{SourceRegister: first, SetName: samePairs, SetID: s.ID, Invert: true},
			&expr.Verdict{Kind: expr.VerdictDrop},
		},
	} {
		k.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, forwardRules[i])})
	}
	return k.nft.Flush()
}

// applyForward makes the table as d says, before there are the bridges that it keeps apart.
func (c *call) applyForward(ctx context.Context, d network.Desired) error {
	var want []string
	for _, b := range d.Bridges {
		if !b.External {
			want = append(want, b.Name)
		}
	}
	slices.Sort(want)
	have, err := c.forwarding(ctx)
	if err != nil || (have == nil && want == nil) || (have != nil && slices.Equal(have, want)) {
		return err
	}
	if want == nil {
		return nil // when the bridges are gone
	}
	if err := c.forward(ctx, want); err != nil {
		return err
	}
	if have == nil {
		c.changed("table of forwarded packets made")
	} else if !slices.ContainsFunc(want, func(b string) bool { return !slices.Contains(have, b) }) {
		c.changed("table of forwarded packets mended")
	}
	return nil
}

// dropForward removes the table, if there is one, when no bridge is left that it would keep apart.
func (c *call) dropForward(ctx context.Context) error {
	have, err := c.forwarding(ctx)
	if err != nil || have == nil {
		return err
	}
	if err := c.forward(ctx, nil); err != nil {
		return err
	}
	c.changed("table of forwarded packets removed")
	return nil
}

// plugForward makes the table know a bridge that is about to be made.
func (c *call) plugForward(ctx context.Context, bridge string) error {
	have, err := c.forwarding(ctx)
	if err != nil || slices.Contains(have, bridge) {
		return err
	}
	return c.forward(ctx, append(have, bridge))
}

func (c *call) forwarding(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bridges, err := c.wire.forwarding()
	return bridges, failed("read the table of forwarded packets", err)
}

func (c *call) forward(ctx context.Context, bridges []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return failed("change the table of forwarded packets", c.wire.forward(bridges))
}
