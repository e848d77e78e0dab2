package network

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// groupsOf returns the ids of the groups that taps are in.
func groupsOf(taps []Tap) map[string]bool {
	ids := map[string]bool{}
	for _, t := range taps {
		for _, id := range t.Groups {
			ids[id] = true
		}
	}
	return ids
}

// groups returns the groups with these ids, and those that a rule of one of these names, sorted by id. Members are listed
// where a rule asks for them.
func groups(r state.Reader, ids map[string]bool) []Group {
	all, asked := map[string]Group{}, map[string]bool{}
	for id := range ids {
		g := Group{ID: id}
		rec, err := SecurityGroups.Get(r, id) // one in use can't be deleted
		if err == nil {
			for _, rule := range rec.Rules {
				g.Rules = append(g.Rules, rule.Rule)
				if rule.RemoteGroup != "" {
					asked[rule.RemoteGroup] = true
				}
			}
		}
		sortRules(g.Rules)
		all[id] = g
	}
	for id := range asked {
		g, there := all[id]
		if !there {
			g.ID = id
		}
		g.Members = members(r, id)
		all[id] = g
	}
	var sorted []Group
	for _, id := range slices.Sorted(maps.Keys(all)) {
		sorted = append(sorted, all[id])
	}
	return sorted
}

// sortRules sorts rules by their words.
func sortRules(rules []Rule) {
	if len(rules) < 2 {
		return
	}
	words := make(map[Rule]string, len(rules))
	for _, r := range rules {
		words[r] = r.String()
	}
	slices.SortFunc(rules, func(a, b Rule) int { return cmp.Compare(words[a], words[b]) })
}

// members returns the addresses of a group's ports, sorted: their fixed IPs, and what they are by without any.
func members(r state.Reader, groupID string) (all []netip.Addr) {
	for p := range Ports.By(r, "security-group", groupID) {
		all = append(all, p.Addrs...)
		all = append(all, LinkLocal(p.HardwareAddr()))
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// LinkLocal returns the link-local address that a host makes of its MAC address (RFC 4291 appendix A).
func LinkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}
