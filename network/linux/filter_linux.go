package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
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

// readSet reads the elements of a set, of one whose elements are classes after that of the classes. One that went away meanwhile has none.
func (k *kernel) readSet(s set, elements map[element]bool) error {
	var named classes
	if s.to == "mark" {
		named = filter{elements: elements}.classes()
	}
	found, err := k.nft.GetSetElements(s.kernel())
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	for _, e := range found {
		to := ""
		switch {
		case s.to == "verdict":
			to = verdictChain(e.Val)
		case s.to == "mark" && len(e.Val) == 4:
			to = named[binary.NativeEndian.Uint32(e.Val)]
		}
		elements[element{s.name, string(e.Key), to}] = true
	}
	return nil
}

// class returns the class of the taps whose groups' chain this is, and whether the table has it already; if not, one that is free. It looks
// at one element, and only if that is another's at all.
func (k *kernel) class(chain string) (n uint32, there bool, err error) {
	if holder, err := k.holder(firstClass(chain)); err != nil || holder == chain {
		return firstClass(chain), err == nil, err
	}
	f := filter{elements: map[element]bool{}}
	if err := k.readSet(set{name: choosers, types: []string{"mark"}, to: "verdict"}, f.elements); err != nil {
		return 0, false, fmt.Errorf("classes: %w", err)
	}
	holders := f.classes()
	if n, there = holders.byChain()[chain]; !there {
		n = holders.free(chain)
	}
	return n, there, nil
}

// holder returns the chain that taps of a class go to, "" if there is none.
func (k *kernel) holder(class uint32) (chain string, err error) {
	var b batch
	b.message(unix.NFT_MSG_GETSETELEM, 0, func() {
		b.text(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
		b.text(unix.NFTA_SET_ELEM_LIST_SET, choosers)
		b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() { b.element(classElement(class, ""), false, nil) })
	})
	replies, err := k.rules.Execute(netlink.Message{Data: b.bytes[unix.SizeofNlMsghdr:],
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM, Flags: netlink.Request}})
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	for _, reply := range replies {
		data := reply.Data[min(4, len(reply.Data)):]
		for _, kind := range []uint16{unix.NFTA_SET_ELEM_LIST_ELEMENTS, unix.NFTA_LIST_ELEM, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT} {
			data = inner(data, kind)
		}
		chain = verdictChain(data)
	}
	return chain, err
}

// inner returns the first attribute of a kind, nil if there is none.
func inner(attributes []byte, kind uint16) []byte {
	decoder, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return nil
	}
	for decoder.Next() {
		if decoder.Type() == kind {
			return decoder.Bytes()
		}
	}
	return nil
}

// verdictChain returns the chain that a verdict goes to. The library hands verdicts over as the kernel writes them.
func verdictChain(verdict []byte) (chain string) {
	name, _, _ := bytes.Cut(inner(verdict, unix.NFTA_VERDICT_CHAIN), []byte{0})
	return string(name)
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
	b := newBatch(1<<14 + 128*(len(c.add)+len(c.remove))) // one element has less
	if c.drop || c.rebuild {
		b.addTable() // so that there is one to delete
		b.delTable()
	}
	write := c.write
	if c.rebuild {
		b.addTable()
		write = append(chains(), write...)
		for _, s := range append(sets(), learning()...) {
			b.addSet(s)
		}
	}
	for _, s := range c.sets {
		b.addSet(s)
	}
	for _, name := range c.ensure {
		b.addChain(chain{name: name})
	}
	for _, w := range write {
		b.addChain(w)
	}
	if !c.rebuild { // nothing is in chains of a new table
		for _, w := range c.write {
			b.flushChain(w.name)
		}
	}
	for _, name := range c.dropChains {
		b.flushChain(name)
	}
	for _, w := range write {
		for _, r := range w.rules {
			b.addRule(w.name, r)
		}
	}
	// Removed first: an element that is in both stays.
	b.elements(unix.NFT_MSG_DELSETELEM, 0, c.remove, nil)
	b.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, c.add, c.classes)
	for _, name := range c.dropChains {
		b.delChain(name)
	}
	for _, s := range c.dropSets {
		b.delSet(s)
	}
	return k.send(b)
}
