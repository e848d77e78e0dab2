package linux

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// filter is our table as the kernel has it.
type filter struct {
	problem  string // what is wrong with the chains and rules that are always there; "": nothing
	elements map[element]bool
	chains   map[string][]string // those of security groups, each with the comments of its rules
	sets     map[string]bool     // those of security groups
}

// classes are those that the table has.
func (f filter) classes() classes {
	all := classes{}
	for e := range f.elements {
		if e.set == choosers && len(e.key) == 4 {
			all[binary.NativeEndian.Uint32([]byte(e.key))] = e.to
		}
	}
	return all
}

// missing is the problem of a filter that is not there at all.
const missing = "it is missing"

// filterChange is one transaction.
type filterChange struct {
	drop        bool // remove the table
	rebuild     bool // make the table anew, with what is added here
	add, remove []element
	classes     map[string]uint32 // of the chains that elements of groups_of lead to

	sets, dropSets []set    // of security groups
	write          []chain  // made if they are not there, and with these rules instead of those they have
	ensure         []string // chains made if they are not there
	dropChains     []string
}

func (c filterChange) empty() bool {
	return !c.drop && !c.rebuild && len(c.add)+len(c.remove)+len(c.sets)+len(c.dropSets)+len(c.write)+len(c.ensure)+len(c.dropChains) == 0
}

// concerned is what a change is for, by name.
type concerned struct{ taps, groups []string }

// planFilter is the difference between what d wants of the packet filter and what it has, and whom it concerns; what is made anew concerns
// all.
func planFilter(d network.Desired, have filter) (change filterChange, whom concerned) {
	if change.rebuild = have.problem != ""; change.rebuild {
		have, change.add = filter{}, make([]element, 0, 6*len(d.Taps))
	}
	want := make(map[element]bool, len(have.elements)) // of those that it has
	taps, groups := map[string]bool{}, map[string]bool{}
	add := func(e element, whose map[string]bool, name string) {
		if have.elements[e] {
			want[e] = true
		} else {
			if change.add = append(change.add, e); !change.rebuild {
				whose[name] = true
			}
		}
	}
	combinations := map[string][]chain{} // by the chain that a tap's element leads to
	for _, t := range d.Taps {
		for _, e := range elements(t) {
			add(e, taps, t.Name)
			if e.set == groupsOf && combinations[e.to] == nil {
				combinations[e.to] = chooser(t.Groups)
			}
		}
	}
	chains, sets := map[string]bool{}, map[string]bool{}
	write := func(all []chain, group string) {
		for _, c := range all {
			chains[c.name] = true
			if comments, there := have.chains[c.name]; !there || !slices.Equal(comments, c.comments()) {
				change.write = append(change.write, c)
				if group != "" {
					groups[group] = true
				}
			}
		}
	}
	for _, t := range d.Taps {
		before := len(change.write)
		if write(limitChains(t.Name, t.Limits), ""); len(change.write) > before {
			taps[t.Name] = true
		}
	}
	ensure := func(id string) {
		for _, s := range groupSets(id) {
			if !sets[s.name] && !have.sets[s.name] {
				change.sets = append(change.sets, s)
			}
			sets[s.name] = true
		}
	}
	for _, g := range d.Groups {
		ensure(g.ID)
		for _, r := range g.Rules {
			if r.RemoteGroup != "" {
				ensure(r.RemoteGroup)
			}
		}
		write(groupChains(g), g.ID)
		for _, a := range g.Members {
			add(memberElement(g.ID, a), groups, g.ID)
		}
	}
	holders := have.classes()
	if len(combinations) > 0 {
		change.classes = holders.byChain()
	}
	for _, c := range slices.Sorted(maps.Keys(combinations)) {
		_, there := change.classes[c]
		if !there {
			n := holders.free(c)
			holders[n], change.classes[c] = c, n
			change.add = append(change.add, classElement(n, c))
		}
		before := len(change.write)
		if write(combinations[c], ""); (!there || len(change.write) > before) && !change.rebuild {
			for _, t := range d.Taps {
				if choose+choice(t) == c {
					taps[t.Name] = true
				}
			}
		}
	}
	for _, t := range d.Taps { // groups that are not in d let nothing through
		for _, id := range t.Groups {
			for _, name := range []string{rulesIn + id, rulesOut + id} {
				if _, there := have.chains[name]; !there && !chains[name] {
					change.ensure = append(change.ensure, name)
				}
				chains[name] = true
			}
		}
	}
	for e := range have.elements {
		if want[e] || e.set == choosers && chains[e.to] {
			continue
		}
		if e.set == choosers {
			change.remove = append(change.remove, e)
			continue
		}
		if id, is := groupOf(e.set); is {
			if sets[e.set] {
				change.remove = append(change.remove, e)
				groups[id] = true
			}
			continue // it goes with its set
		}
		change.remove = append(change.remove, e)
		tap, _, _, _ := e.parse()
		taps[tap] = true
	}
	for name := range have.chains {
		if !chains[name] {
			change.dropChains = append(change.dropChains, name)
			if id, is := groupOfChain(name); is {
				groups[id] = true
			}
		}
	}
	for name := range have.sets {
		if !sets[name] {
			change.dropSets = append(change.dropSets, set{name: name, types: []string{"ipv4_addr"}})
		}
	}
	slices.Sort(change.dropChains)
	return change, concerned{slices.Sorted(maps.Keys(taps)), slices.Sorted(maps.Keys(groups))}
}
