package linux

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func (k *kernel) filter() (filter, error) {
	f := filter{elements: map[element]bool{}, chains: map[string][]string{}, sets: map[string]bool{}}
	problem, err := k.compareChains(f.chains)
	if f.problem = problem; err != nil || problem != "" {
		return f, err
	}
	found, err := k.nft.GetSets(table())
	if err != nil {
		return f, fmt.Errorf("sets: %w", err)
	}
	there := map[string]bool{}
	for _, s := range found {
		there[s.Name] = true
		if _, member := groupOf(s.Name); member {
			f.sets[s.Name] = true
		}
	}
	for _, s := range append(sets(), learning()...) {
		if !there[s.name] {
			f.problem = "set " + s.name + " is missing"
			return f, nil
		}
	}
	for _, s := range sets() {
		if err := k.readSet(s, f.elements); err != nil {
			return f, err
		}
	}
	for name := range f.sets {
		if err := k.readSet(set{name: name, types: []string{"ipv4_addr"}}, f.elements); err != nil {
			return f, err
		}
	}
	return f, nil
}

// readSet reads the elements of a set. One that went away meanwhile has none.
func (k *kernel) readSet(s set, elements map[element]bool) error {
	found, err := k.nft.GetSetElements(s.kernel())
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	for _, e := range found {
		to := ""
		if s.verdicts {
			to = verdictChain(e.Val)
		}
		elements[element{s.name, string(e.Key), to}] = true
	}
	return nil
}

// verdictChain returns the chain that a verdict goes to. The library hands verdicts over as the kernel writes them.
func verdictChain(verdict []byte) (chain string) {
	decoder, err := netlink.NewAttributeDecoder(verdict)
	if err != nil {
		return ""
	}
	for decoder.Next() {
		if decoder.Type() == unix.NFTA_VERDICT_CHAIN {
			chain = decoder.String()
		}
	}
	return chain
}

// group reads the two sets and the two chains of a group.
func (k *kernel) group(id string) (filter, error) {
	f := filter{elements: map[element]bool{}, chains: map[string][]string{}, sets: map[string]bool{}}
	for _, s := range groupSets(id) {
		_, err := k.nft.GetSetByName(table(), s.name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return f, fmt.Errorf("set %s: %w", s.name, err)
		}
		f.sets[s.name] = true
		if err := k.readSet(s, f.elements); err != nil {
			return f, err
		}
	}
	for _, name := range []string{rulesIn + id, rulesOut + id} {
		_, err := k.nft.ListChain(table(), name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return f, fmt.Errorf("chain %s: %w", name, err)
		}
		rules, err := k.nft.GetRules(table(), chain{name: name}.kernel())
		if err != nil {
			return f, fmt.Errorf("chain %s: %w", name, err)
		}
		f.chains[name] = nil
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			f.chains[name] = append(f.chains[name], comment)
		}
	}
	return f, nil
}

// compareChains says what is wrong with the chains and rules that are always there, and fills in the others. Rules are told by
// their comments, which no two different rules have.
func (k *kernel) compareChains(dynamic map[string][]string) (problem string, err error) {
	list, err := k.nft.ListChainsOfTableFamily(nftables.TableFamilyBridge)
	if err != nil {
		return "", fmt.Errorf("chains: %w", err)
	}
	found := map[string]*nftables.Chain{}
	for _, c := range list {
		switch {
		case c.Table.Name != tableName:
		case isDynamic(c.Name):
			dynamic[c.Name] = nil
		default:
			found[c.Name] = c
		}
	}
	if len(found)+len(dynamic) == 0 {
		return missing, nil
	}
	all := chains()
	if len(found) != len(all) {
		return fmt.Sprintf("it has %d chains, not %d", len(found), len(all)), nil
	}
	comments, err := k.comments()
	if err != nil {
		return "", fmt.Errorf("rules: %w", err)
	}
	for _, c := range all {
		have := found[c.name]
		if have == nil {
			return "chain " + c.name + " is missing", nil
		}
		if !sameHook(have, c.kernel()) {
			return "chain " + c.name + " is at another hook", nil
		}
		if len(comments[c.name]) != len(c.rules) {
			return fmt.Sprintf("chain %s has %d rules, not %d", c.name, len(comments[c.name]), len(c.rules)), nil
		}
		for i, r := range c.rules {
			if comments[c.name][i] != r.comment() {
				return fmt.Sprintf("rule %d of chain %s is another", i+1, c.name), nil
			}
		}
	}
	for name := range dynamic {
		dynamic[name] = comments[name]
	}
	return "", nil
}

// comments reads the comments of all rules of the table in one go, by chain.
func (k *kernel) comments() (map[string][]string, error) {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(tableName + "\x00")}})
	if err != nil {
		return nil, err
	}
	req := netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{byte(nftables.TableFamilyBridge), unix.NFNETLINK_V0, 0, 0}, attributes...),
	}
	for try := 1; ; try++ {
		replies, err := k.rules.Execute(req)
		if errors.Is(err, unix.EINTR) && try < dumpTries { // they changed while they were read
			continue
		}
		if err != nil {
			return nil, err
		}
		all := map[string][]string{}
		for _, reply := range replies {
			if len(reply.Data) < 4 {
				continue
			}
			decoder, err := netlink.NewAttributeDecoder(reply.Data[4:])
			if err != nil {
				return nil, err
			}
			chain, comment := "", ""
			for decoder.Next() {
				switch decoder.Type() {
				case unix.NFTA_RULE_CHAIN:
					chain = decoder.String()
				case unix.NFTA_RULE_USERDATA:
					comment, _ = userdata.GetString(decoder.Bytes(), userdata.TypeComment)
				}
			}
			if err := decoder.Err(); err != nil {
				return nil, err
			}
			all[chain] = append(all[chain], comment)
		}
		return all, nil
	}
}

func sameHook(have, want *nftables.Chain) bool {
	if (have.Hooknum == nil) != (want.Hooknum == nil) {
		return false
	}
	if have.Hooknum == nil {
		return true
	}
	return *have.Hooknum == *want.Hooknum && have.Priority != nil && *have.Priority == *want.Priority && have.Type == want.Type &&
		have.Policy != nil && *have.Policy == *want.Policy
}

func (k *kernel) commit(c filterChange) error {
	t := table()
	ids := map[string]*nftables.Set{}
	constant := append(sets(), learning()...)
	for _, s := range constant {
		ids[s.name] = s.kernel()
	}
	if c.drop || c.rebuild {
		k.nft.AddTable(t) // so that there is one to delete
		k.nft.DelTable(t)
	}
	if c.rebuild {
		k.nft.AddTable(t)
		for _, s := range constant {
			if err := k.nft.AddSet(ids[s.name], nil); err != nil {
				return k.giveUp(err)
			}
		}
	}
	for _, s := range c.sets {
		ids[s.name] = s.kernel()
		if err := k.nft.AddSet(ids[s.name], nil); err != nil {
			return k.giveUp(err)
		}
	}
	write := c.write
	if c.rebuild {
		write = append(chains(), write...)
	}
	for _, name := range c.ensure {
		k.nft.AddChain(chain{name: name}.kernel())
	}
	for _, w := range write {
		k.nft.AddChain(w.kernel())
	}
	if !c.rebuild { // nothing is in chains of a new table
		for _, w := range c.write {
			k.nft.FlushChain(w.kernel())
		}
	}
	for _, name := range c.dropChains {
		k.nft.FlushChain(chain{name: name}.kernel())
	}
	for _, w := range write {
		for _, r := range w.rules {
			k.nft.AddRule(&nftables.Rule{Table: t, Chain: w.kernel(), Exprs: r.exprs(ids),
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment())})
		}
	}
	// Removed first: an element that is in both stays.
	if err := k.changeElements(ids, c.remove, k.nft.SetDeleteElements, false); err != nil {
		return k.giveUp(err)
	}
	if err := k.changeElements(ids, c.add, k.nft.SetAddElements, true); err != nil {
		return k.giveUp(err)
	}
	for _, name := range c.dropChains {
		k.nft.DelChain(chain{name: name}.kernel())
	}
	for _, s := range c.dropSets {
		k.nft.DelSet(s.kernel())
	}
	return k.nft.Flush()
}

// elementsAtOnce is how many elements are made ready at once. The library makes messages of at most 64 KiB of them.
const elementsAtOnce = 1000

// changeElements does the same to all elements, set by set.
func (k *kernel) changeElements(ids map[string]*nftables.Set, all []element, change func(*nftables.Set, []nftables.SetElement) error, verdicts bool) error {
	sizes, bySet := map[string]int{}, map[string][]element{}
	for _, e := range all {
		sizes[e.set]++
	}
	for name, n := range sizes {
		bySet[name] = make([]element, 0, n)
	}
	for _, e := range all {
		bySet[e.set] = append(bySet[e.set], e)
	}
	elements := make([]nftables.SetElement, 0, min(len(all), elementsAtOnce))
	for _, name := range slices.Sorted(maps.Keys(bySet)) {
		s := ids[name]
		if s == nil {
			s = set{name: name, types: []string{"ipv4_addr"}}.kernel() // a group's, found by its name
		}
		for some := range slices.Chunk(bySet[name], elementsAtOnce) {
			elements = elements[:0]
			for _, e := range some {
				in := nftables.SetElement{Key: []byte(e.key)}
				if verdicts && e.to != "" {
					in.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.to}
				}
				elements = append(elements, in)
			}
			if err := change(s, elements); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveUp drops the transaction that was begun.
func (k *kernel) giveUp(err error) error {
	return errors.Join(err, k.nft.Flush()) // one with an error is refused before it is sent
}
