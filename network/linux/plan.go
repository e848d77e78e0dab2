package linux

import (
	"maps"
	"slices"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// filter is our table as the kernel has it.
type filter struct {
	problem  string // what is wrong with the chains and rules; "": nothing
	elements map[element]bool
}

// missing is the problem of a filter that is not there at all.
const missing = "it is missing"

// filterChange is one transaction.
type filterChange struct {
	drop        bool // remove the table
	rebuild     bool // make the table anew, with what add says
	add, remove []element
}

func (c filterChange) empty() bool { return !c.drop && !c.rebuild && len(c.add)+len(c.remove) == 0 }

// planFilter is the difference between what d wants of the packet filter and what it has, and the taps that it concerns.
func planFilter(d network.Desired, have filter) (change filterChange, taps []string) {
	change.rebuild = have.problem != ""
	want := make(map[element]bool, 3*len(d.Taps))
	concerned := map[string]bool{}
	for _, t := range d.Taps {
		for _, e := range elements(t) {
			want[e] = true
			if change.rebuild || !have.elements[e] {
				change.add = append(change.add, e)
				concerned[t.Name] = true
			}
		}
	}
	if change.rebuild {
		return change, slices.Sorted(maps.Keys(concerned))
	}
	for e := range have.elements {
		if !want[e] {
			change.remove = append(change.remove, e)
			tap, _, _, _ := e.parse()
			concerned[tap] = true
		}
	}
	return change, slices.Sorted(maps.Keys(concerned))
}
