package linux

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

func (k *kernel) filter() (filter, error) {
	f := filter{elements: map[element]bool{}}
	problem, err := k.compareChains()
	if f.problem = problem; err != nil || problem != "" {
		return f, err
	}
	for _, s := range sets() {
		found, err := k.nft.GetSetElements(s.kernel())
		if errors.Is(err, unix.ENOENT) {
			f.problem = "set " + s.name + " is missing"
			return f, nil
		}
		if err != nil {
			return f, fmt.Errorf("set %s: %w", s.name, err)
		}
		for _, e := range found {
			f.elements[element{s.name, string(e.Key)}] = true
		}
	}
	return f, nil
}

// compareChains says what is wrong with the table's chains and rules. Rules are told by their comments, which no two
// different rules have.
func (k *kernel) compareChains() (problem string, err error) {
	list, err := k.nft.ListChainsOfTableFamily(nftables.TableFamilyBridge)
	if err != nil {
		return "", fmt.Errorf("chains: %w", err)
	}
	found := map[string]*nftables.Chain{}
	for _, c := range list {
		if c.Table.Name == tableName {
			found[c.Name] = c
		}
	}
	if len(found) == 0 {
		return missing, nil
	}
	all := chains()
	if len(found) != len(all) {
		return fmt.Sprintf("it has %d chains, not %d", len(found), len(all)), nil
	}
	for _, c := range all {
		have, want := found[c.name], c.kernel()
		if have == nil {
			return "chain " + c.name + " is missing", nil
		}
		if !sameHook(have, want) {
			return "chain " + c.name + " is at another hook", nil
		}
		rules, err := k.nft.GetRules(want.Table, want)
		if errors.Is(err, unix.ENOENT) {
			return "chain " + c.name + " is missing", nil
		}
		if err != nil {
			return "", fmt.Errorf("chain %s: %w", c.name, err)
		}
		if len(rules) != len(c.rules) {
			return fmt.Sprintf("chain %s has %d rules, not %d", c.name, len(rules), len(c.rules)), nil
		}
		for i, r := range rules {
			if comment, _ := userdata.GetString(r.UserData, userdata.TypeComment); comment != c.rules[i].comment() {
				return fmt.Sprintf("rule %d of chain %s is another", i+1, c.name), nil
			}
		}
	}
	return "", nil
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
	for _, s := range sets() {
		ids[s.name] = s.kernel()
	}
	if c.drop || c.rebuild {
		k.nft.AddTable(t) // so that there is one to delete
		k.nft.DelTable(t)
	}
	if c.rebuild {
		k.nft.AddTable(t)
		for _, s := range sets() {
			if err := k.nft.AddSet(ids[s.name], nil); err != nil {
				return k.giveUp(err)
			}
		}
		all := chains()
		for _, c := range all {
			k.nft.AddChain(c.kernel())
		}
		for _, c := range all {
			for _, r := range c.rules {
				k.nft.AddRule(&nftables.Rule{Table: t, Chain: c.kernel(), Exprs: r.exprs(ids),
					UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment())})
			}
		}
	}
	for _, s := range sets() {
		var add, remove []nftables.SetElement
		for _, e := range c.add {
			if e.set == s.name {
				add = append(add, nftables.SetElement{Key: []byte(e.key)})
			}
		}
		for _, e := range c.remove {
			if e.set == s.name {
				remove = append(remove, nftables.SetElement{Key: []byte(e.key)})
			}
		}
		// Removed first: an element that is in both stays.
		if err := k.nft.SetDeleteElements(ids[s.name], remove); err != nil {
			return k.giveUp(err)
		}
		if err := k.nft.SetAddElements(ids[s.name], add); err != nil {
			return k.giveUp(err)
		}
	}
	return k.nft.Flush()
}

// giveUp drops the transaction that was begun.
func (k *kernel) giveUp(err error) error {
	return errors.Join(err, k.nft.Flush()) // one with an error is refused before it is sent
}
