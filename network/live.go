package network

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// groupPause is how long changes of security groups are gathered, so that a node does not read a large group again for each of many.
const groupPause = 20 * time.Millisecond

// tellGroups has the groups that t is in on the node before t is. It costs something for the first tap of a group alone. The
// caller has the turn.
func (a *Agent) tellGroups(ctx context.Context, t Tap) error {
	fresh := false
	for _, id := range t.Groups {
		_, told := a.groups[id]
		fresh = fresh || !told || !a.local[id]
		a.local[id] = true
	}
	if !fresh {
		return nil
	}
	return a.refreshGroups(ctx)
}

// refreshGroups tells the node what has changed of the groups that concern it. The caller has the turn.
func (a *Agent) refreshGroups(ctx context.Context) error {
	var all []Group
	if err := a.cfg.Store.View(func(v *state.View) error { all = groups(v, a.local); return nil }); err != nil {
		return err
	}
	return a.setGroups(ctx, all)
}

// setGroups tells the node those of the groups that differ from what it was told. The caller has the turn.
func (a *Agent) setGroups(ctx context.Context, all []Group) error {
	var changed []Group
	for _, g := range all {
		had, told := a.groups[g.ID]
		if !told || !slices.Equal(had.Rules, g.Rules) || !slices.Equal(had.Members, g.Members) {
			changed = append(changed, g)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	if err := a.cfg.Manager.SetGroups(ctx, changed); err != nil {
		return err
	}
	for _, g := range changed {
		a.groups[g.ID] = g
	}
	return nil
}

// setFloating tells the node what floating IPs it answers for, if that has changed. The caller has the turn.
func (a *Agent) setFloating(ctx context.Context, want []Floating) error {
	if slices.Equal(want, a.floating) {
		return nil
	}
	if err := a.cfg.Manager.SetFloating(ctx, want); err != nil {
		return err
	}
	a.floating = want
	return nil
}

// tapsChanged has followGroups look again. The caller has the turn.
func (a *Agent) tapsChanged() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// followGroups has what changes of security groups, of who is in them, and of floating IPs in force soon, until ctx ends. What goes
// wrong is logged, and repaired by the next Sync.
func (a *Agent) followGroups(ctx context.Context) {
	for {
		signals := &state.Signals{}
		if err := a.live(ctx, signals); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("network: security groups and floating IPs are not in force yet", "error", err)
		}
		if signals.Wait(ctx) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(groupPause):
		}
	}
}

// live has in force what the records say, and adds to signals all that it depends on.
func (a *Agent) live(ctx context.Context, signals *state.Signals) error {
	end, err := a.begin(ctx)
	if err != nil {
		return err
	}
	signals.Also(a.changed)
	var all []Group
	var floating []Floating
	var moved []string // ports that are in other groups than their taps
	err = a.cfg.Store.View(func(v *state.View) error {
		FloatingIPs.Signal(v, signals, "", "")
		a.local = map[string]bool{}
		for _, in := range a.taps {
			for _, group := range in {
				a.local[group] = true
			}
		}
		for id := range a.local {
			SecurityGroups.Signal(v, signals, "id", id)
		}
		all, floating = groups(v, a.local), floatingOn(v, a.cfg.HostID)
		for _, g := range all {
			for _, r := range g.Rules {
				if r.RemoteGroup != "" {
					Ports.Signal(v, signals, "security-group", r.RemoteGroup)
				}
			}
		}
		some := false
		for p := range Ports.By(v, "host", a.cfg.HostID) {
			some = true
			if had, there := a.taps[p.ID]; there && p.Plugged && !slices.Equal(had, p.SecurityGroups) {
				moved = append(moved, p.ID)
			}
		}
		if some { // the first that comes is plugged, which is told by changed
			Ports.Signal(v, signals, "host", a.cfg.HostID)
		}
		return nil
	})
	if err == nil {
		err = errors.Join(a.setGroups(ctx, all), a.setFloating(ctx, floating))
	}
	end()
	for _, id := range moved {
		if err != nil {
			return err
		}
		_, err = a.Plug(ctx, id)
	}
	return err
}
