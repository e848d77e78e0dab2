package network

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// A node that lost its id, and has another one now, still has the guests of the node that it was: nothing of it stops them, and their
// records are the other's. Their taps stay, with the filters that the records say, until the records say that they are to go. An agent
// looks for them once, when it begins: later there are no taps but those that it made.

// findStrays notes which ports of other nodes this one has taps of, unless it has done so. The caller has the turn.
func (a *Agent) findStrays(ctx context.Context) error {
	if a.strays != nil {
		return nil
	}
	has, err := a.cfg.Manager.Inspect(ctx)
	if err != nil {
		return fmt.Errorf("network: what the node has: %w", err)
	}
	strays := map[string]bool{}
	_ = a.cfg.Store.View(func(v *state.View) error {
		for _, t := range has.Taps {
			if p, err := Ports.Get(v, t.Port); err == nil && p.Plugged && !p.On(a.cfg.HostID) {
				strays[p.ID] = true
				a.cfg.Logger.Warn("network: the tap of a port of another node; it stays", "tap", t.Name, "port", p.ID, "instance", p.InstanceID,
					"node", p.HostID)
			}
		}
		return nil
	})
	a.strays = strays
	return nil
}

// plan is [Plan], with the taps of other nodes' ports that are on this one. The caller has the turn.
func (a *Agent) plan(r *state.View) Desired {
	d := Plan(r, a.cfg.HostID)
	if len(a.strays) == 0 {
		return d
	}
	for id := range a.strays {
		p, err := Ports.Get(r, id)
		if err != nil || !p.Plugged || p.On(a.cfg.HostID) {
			delete(a.strays, id)
			continue
		}
		n, err := Networks.Get(r, p.NetworkID)
		if err != nil {
			continue // a network with ports can't be deleted
		}
		d.Taps = append(d.Taps, p.tap(n))
		if !slices.ContainsFunc(d.Bridges, func(b Bridge) bool { return b.Name == n.Bridge }) {
			d.Bridges = append(d.Bridges, n.bridge(r, p.HostID)) // as it was for the guest
		}
	}
	slices.SortFunc(d.Bridges, func(a, b Bridge) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Taps, func(a, b Tap) int { return cmp.Compare(a.Name, b.Name) })
	d.Groups = groups(r, groupsOf(d.Taps))
	return d
}
