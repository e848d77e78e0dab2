package network

import (
	"context"
	"errors"
	"slices"
	"sync"
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
	var all, changed []Group
	if err := a.cfg.Store.View(func(v *state.View) error { all = groups(v, a.local); return nil }); err != nil {
		return err
	}
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

// refreshFloating tells the node what floating IPs it answers for, if that has changed. The caller has the turn.
func (a *Agent) refreshFloating(ctx context.Context) error {
	var want []Floating
	if err := a.cfg.Store.View(func(v *state.View) error { want = floatingOn(v, a.cfg.HostID); return nil }); err != nil {
		return err
	}
	if slices.Equal(want, a.floating) {
		return nil
	}
	if err := a.cfg.Manager.SetFloating(ctx, want); err != nil {
		return err
	}
	a.floating = want
	return nil
}

// groupChanges is what has changed of groups since somebody looked.
type groupChanges struct {
	mu    sync.Mutex
	ports map[string]bool // of this node, that are in other groups now
	ring  chan struct{}
}

func (c *groupChanges) note(port string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if port != "" {
		c.ports[port] = true
	}
	select {
	case c.ring <- struct{}{}:
	default:
	}
}

func (c *groupChanges) take() (ports map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ports, c.ports = c.ports, map[string]bool{}
	return ports
}

// followGroups has what changes of security groups, and of who is in them, in force soon, until ctx ends. What goes wrong is logged, and
// repaired by the next Sync.
func (a *Agent) followGroups(ctx context.Context) {
	c := &groupChanges{ports: map[string]bool{}, ring: make(chan struct{}, 1)}
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() {
		for ch, err := range a.cfg.Store.ViewAndWatch(ctx, func(*state.View) error { c.note(""); return nil }) {
			if err != nil {
				a.cfg.Logger.Error("network: changes of security groups are found by repair alone", "error", err)
				return
			}
			a.noteGroups(c, ch)
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.ring:
		}
		if err := a.liveGroups(ctx, c.take()); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("network: security groups are not in force yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(groupPause):
		}
	}
}

// noteGroups notes what a change of records means for groups.
func (a *Agent) noteGroups(c *groupChanges, ch state.Changes) {
	for range SecurityGroups.Changes(ch) {
		c.note("")
	}
	for range FloatingIPs.Changes(ch) {
		c.note("")
	}
	for p := range Ports.Changes(ch) {
		switch {
		case p.Old == nil || p.New == nil:
			c.note("") // a member that came or went
		case !slices.Equal(p.Old.SecurityGroups, p.New.SecurityGroups):
			id := ""
			if p.New.HostID == a.cfg.HostID && p.New.Plugged && p.Old.Plugged {
				id = p.New.ID
			}
			c.note(id)
		case !slices.Equal(p.Old.Addrs, p.New.Addrs), p.Old.Plugged != p.New.Plugged, p.Old.HostID != p.New.HostID:
			c.note("")
		}
	}
}

func (a *Agent) liveGroups(ctx context.Context, ports map[string]bool) error {
	end, err := a.begin(ctx)
	if err != nil {
		return err
	}
	err = errors.Join(a.refreshGroups(ctx), a.refreshFloating(ctx))
	end()
	if err != nil {
		return err
	}
	for id := range ports {
		if _, err := a.Plug(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
