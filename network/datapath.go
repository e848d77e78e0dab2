package network

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// DataPath is the data path of a node: as the records want it, and as the node has it.
type DataPath struct {
	Desired Desired
	Actual  Desired
}

// ReadDataPath compares the records with what the node that m manages has. It changes nothing, and any process that can open the
// store and the node may call it, beside an [Agent] that works. What is being worked on shows as a difference.
func ReadDataPath(ctx context.Context, store *state.Store, hostID string, m Manager) (DataPath, error) {
	return readDataPath(ctx, store, hostID, m, func(v *state.View) Desired { return Plan(v, hostID) })
}

func readDataPath(ctx context.Context, store *state.Store, hostID string, m Manager, plan func(*state.View) Desired) (DataPath, error) {
	// The node first: what it has and the records then don't want is a leak, unless it came in between.
	actual, err := m.Inspect(ctx)
	if err != nil {
		return DataPath{}, fmt.Errorf("network: what node %s has: %w", hostID, err)
	}
	p := DataPath{Actual: actual}
	err = store.View(func(v *state.View) error { p.Desired = plan(v); return nil })
	return p, err
}

// DataPath is [ReadDataPath] for the agent's node, between the changes that it makes; what the agent keeps for guests of another node is
// desired too. It waits for the changes, as long as ctx lets it.
func (a *Agent) DataPath(ctx context.Context) (DataPath, error) {
	end, err := a.begin(ctx)
	if err != nil {
		return DataPath{}, err
	}
	defer end()
	return readDataPath(ctx, a.cfg.Store, a.cfg.HostID, a.cfg.Manager, a.plan)
}

// Difference returns a line for each thing in which the node is not as the records want it: "- " and what is missing, "+ " and
// what should not be there, in the words of [Desired.Lines]. A thing that is there and differs is one line of each, next
// to each other. None: they agree.
func (p DataPath) Difference() []string {
	var lines []string
	only := func(sign string, in, notIn Desired) {
		known := map[string]bool{}
		for _, line := range notIn.Lines() {
			known[line] = true
		}
		for _, line := range in.Lines() {
			if !known[line] {
				lines = append(lines, sign+line)
			}
		}
	}
	only("- ", p.Desired, p.Actual)
	only("+ ", p.Actual, p.Desired)
	slices.SortStableFunc(lines, func(a, b string) int { return cmp.Compare(thing(a[2:]), thing(b[2:])) })
	return lines
}

// thing is what a line is about: its first two words.
func thing(line string) string {
	words := strings.SplitN(line, " ", 3)
	return strings.Join(words[:min(2, len(words))], " ")
}

// String is all of it as text for people: desired, actual, and the difference.
func (p DataPath) String() string {
	var b strings.Builder
	part := func(title, otherwise string, lines []string) {
		fmt.Fprintf(&b, "%s:\n", title)
		if len(lines) == 0 {
			lines = []string{otherwise}
		}
		for _, line := range lines {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	part("desired", "nothing", p.Desired.Lines())
	part("actual", "nothing", p.Actual.Lines())
	part("difference", "none", p.Difference())
	return b.String()
}

// Lines is d as text: a line for each bridge, tap, group, rule and member of a group, and floating IP, in this order, sorted. Two that
// a node can't tell apart have the same lines: what only DHCP and router advertisements use is not there.
func (d Desired) Lines() []string {
	var bridges, taps, groups, floating []string
	for _, b := range d.Bridges {
		line := "bridge " + b.Name
		if b.External {
			bridges = append(bridges, line+" external")
			continue
		}
		line += fmt.Sprintf(" mtu %d", cmp.Or(b.MTU, DefaultMTU))
		if b.Uplink != "" {
			line += " uplink " + b.Uplink
		}
		if b.VLAN != 0 {
			line += fmt.Sprintf(" vlan %d", b.VLAN)
		}
		if b.Gateway.IsValid() {
			line += " gateway " + b.Gateway.String()
		}
		if b.Gateway6.IsValid() {
			line += " gateway6 " + b.Gateway6.String()
		}
		if b.NAT {
			line += " nat"
		}
		bridges = append(bridges, line)
	}
	for _, t := range d.Taps {
		line := fmt.Sprintf("tap %s bridge %s mac %s", t.Name, t.Bridge, t.MAC)
		if t.Port != "" {
			line += " port " + t.Port
		}
		if len(t.IPs) > 0 {
			line += " addresses " + joined(t.IPs)
		}
		if t.Guarded {
			line += " guarded"
		}
		if len(t.Groups) > 0 {
			line += " groups " + strings.Join(t.Groups, ",")
		}
		for _, limit := range []struct {
			way string
			Rate
		}{{"in", t.Limits.In}, {"out", t.Limits.Out}} {
			if limit.Bytes != 0 {
				line += fmt.Sprintf(" %s %d B/s burst %d", limit.way, limit.Bytes, limit.BurstBytes())
			}
		}
		taps = append(taps, line)
	}
	for _, g := range d.Groups {
		groups = append(groups, "group "+g.ID)
		for _, r := range g.Rules {
			groups = append(groups, "group "+g.ID+" rule "+r.String())
		}
		for _, m := range g.Members {
			groups = append(groups, "group "+g.ID+" member "+m.String())
		}
	}
	for _, f := range d.Floating {
		floating = append(floating, fmt.Sprintf("floating %v to %v on %s", f.Addr, f.Fixed, f.Link))
	}
	for _, part := range [][]string{bridges, taps, groups, floating} {
		slices.Sort(part)
	}
	return slices.Concat(bridges, taps, slices.Compact(groups), floating)
}

// joined is addresses in their order, which does not matter on a node.
func joined(all []netip.Addr) string {
	all = slices.Clone(all)
	slices.SortFunc(all, netip.Addr.Compare)
	words := make([]string, len(all))
	for i, a := range all {
		words[i] = a.String()
	}
	return strings.Join(words, ",")
}

// AgentStats counts what [Agent.Run] has seen since the agent was made.
type AgentStats struct {
	Looks    uint64 // comparisons of the whole node with the records, that of the start included
	Failures uint64 // of these, those that could not make the node as it should be
	Drifts   uint64 // of these, those after the start that found the node changed
	Repairs  uint64 // changes that these made, a line of the log each
}

// Stats returns the counts so far.
func (a *Agent) Stats() AgentStats {
	return AgentStats{Looks: a.looks.Load(), Failures: a.failures.Load(), Drifts: a.drifts.Load(), Repairs: a.repairs.Load()}
}
