package linux

import (
	"context"
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// apply makes the node as d says. The packet filter is first: what is on a bridge without elements in its sets is cut off,
// so that elements may be there before their tap, and be gone before it is gone.
func (c *call) apply(ctx context.Context, d network.Desired) error {
	links, err := c.links(ctx)
	if err != nil {
		return err
	}
	hasFilter, err := c.applyFilter(ctx, d, links)
	if err != nil {
		return err
	}
	table, err := c.applyForward(ctx, d, links)
	if err != nil {
		return err
	}
	bridges, taps := map[string]network.Bridge{}, map[string]bool{}
	for _, b := range d.Bridges {
		bridges[b.Name] = b
	}
	for _, t := range d.Taps {
		taps[t.Name] = true
	}
	sorted := slices.Sorted(maps.Keys(links))
	for _, name := range sorted {
		if l := links[name]; l.isTap() && !taps[name] {
			if c.ok(failed("tap "+name, c.remove(ctx, l))) {
				c.changed("tap %s removed", name)
				delete(links, name)
			}
		}
	}
	vlans := map[string]bool{}
	for _, b := range d.Bridges {
		vlans[b.VLANLink()] = true
	}
	for _, name := range sorted {
		if l := links[name]; l != nil && l.isVLAN() && !vlans[name] {
			if c.ok(failed("VLAN "+name, c.remove(ctx, l))) {
				c.changed("VLAN %s removed", name)
				delete(links, name)
			}
		}
	}
	// Uplinks are free before another bridge wants them.
	for _, name := range sorted {
		l := links[name]
		if l == nil || !l.isBridge() {
			continue
		}
		b, wanted := bridges[name]
		wanted = wanted && !b.External
		if !wanted || enslaved(b) != parseBridgeMark(l.alias).uplink {
			if !c.ok(c.release(ctx, l, links)) {
				delete(bridges, name) // what is left on it would be taken for drift
				continue
			}
			if wanted {
				continue
			}
			if c.ok(failed("bridge "+name, c.remove(ctx, l))) {
				c.changed("bridge %s removed", name)
				delete(links, name)
			}
		}
	}
	made := map[string]*nic{}
	for _, b := range d.Bridges {
		if _, sound := bridges[b.Name]; !sound {
			continue
		}
		l, err := c.ensureSegment(ctx, b, func(name string) (*nic, error) { return links[name], nil })
		if c.ok(err); l != nil {
			made[b.Name] = l
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	c.ok(c.open6(ctx, table, links))
	for _, t := range d.Taps {
		if bridge := made[t.Bridge]; bridge != nil {
			c.ok(c.ensureTap(ctx, t, links[t.Name], bridge, bridge.tapMTU(bridges[t.Bridge])))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if c.problem == nil && !slices.ContainsFunc(d.Bridges, func(b network.Bridge) bool { return !b.External }) {
		if err := c.dropForward(ctx); err != nil {
			return err
		}
	}
	masked := map[string]bool{}
	for _, b := range d.Bridges {
		if b.NAT && made[b.Name] != nil {
			masked[b.Name] = true
		}
	}
	if err := c.applyNAT(ctx, d.Floating, masked, links); err != nil {
		return err
	}
	// No tap is left that it would be for.
	if hasFilter && empty(d) && c.problem == nil {
		if err := c.commit(ctx, filterChange{drop: true}); err != nil {
			return err
		}
		c.changed("filter removed")
	}
	return nil
}

func empty(d network.Desired) bool { return len(d.Bridges)+len(d.Taps)+len(d.Groups) == 0 }

// applyFilter makes the packet filter as d says, and tells whether there is one then: a node that is to have nothing needs none
// to be made.
func (c *call) applyFilter(ctx context.Context, d network.Desired, links map[string]*nic) (there bool, err error) {
	have, err := c.filter(ctx)
	if err != nil || (have.problem == missing && empty(d)) {
		return false, err
	}
	change, whom := planFilter(d, have)
	if change.empty() {
		return true, nil
	}
	if err := c.commit(ctx, change); err != nil {
		return true, err
	}
	if change.rebuild {
		c.changed("filter made, as %s", have.problem)
		return true, nil
	}
	wanted := map[string]bool{}
	for _, t := range d.Taps {
		wanted[t.Name] = true
	}
	groups := map[string]bool{}
	for _, g := range d.Groups {
		groups[g.ID] = true
	}
	for _, id := range whom.groups {
		if groups[id] {
			c.changed("security group %s mended", id)
		} else {
			c.changed("security group %s removed", id)
		}
	}
	for _, tap := range whom.taps {
		switch l := links[tap]; {
		case l != nil && l.isTap() && wanted[tap]:
			c.changed("filter of tap %s mended", tap)
		case !wanted[tap] && (l == nil || !l.isTap()):
			c.changed("filter of tap %s removed", tap)
		}
	}
	return true, nil
}

func (c *call) filter(ctx context.Context) (filter, error) {
	if err := ctx.Err(); err != nil {
		return filter{}, err
	}
	f, err := c.wire.filter()
	return f, failed("read the packet filter", err)
}

func (c *call) class(ctx context.Context, chain string) (n uint32, there bool, err error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	n, there, err = c.wire.class(chain)
	return n, there, failed("read the packet filter", err)
}

func (c *call) commit(ctx context.Context, change filterChange) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return failed("change the packet filter", c.wire.commit(change))
}

// plug does what apply does for one tap.
func (c *call) plug(ctx context.Context, b network.Bridge, t network.Tap) error {
	have, err := c.link(ctx, t.Name)
	if err != nil {
		return err
	}
	bridge, err := c.link(ctx, b.Name)
	if err != nil {
		return err
	}
	if have != nil && !have.isTap() {
		return foreign("tap", t.Name)
	}
	if bridge != nil && !b.External && !bridge.isBridge() {
		return foreign("bridge", b.Name)
	}
	if err := c.plugFilter(ctx, t, have); err != nil {
		return err
	}
	// A first tap, or another router, is seldom: it may cost more than others.
	var table forwards
	var all map[string]*nic
	c.opened = bridge.mark().opened
	if !b.External && (bridge == nil || bridge.mark().gateway6 != b.Gateway6) {
		if all, err = c.links(ctx); err != nil {
			return err
		}
		if table, err = c.plugForward(ctx, b, all); err != nil {
			return err
		}
	}
	if bridge == nil && !b.External {
		if err := c.plugNAT(ctx, b); err != nil {
			return err
		}
	}
	if said := bridge.mark(); bridge != nil && bridge.isBridge() && said.uplink != enslaved(b) {
		old, err := c.link(ctx, said.uplink)
		if err != nil {
			return err
		}
		links := map[string]*nic{}
		if old != nil {
			links[old.name] = old
		}
		if err := c.release(ctx, bridge, links); err != nil {
			return err
		}
	}
	found := map[string]*nic{b.Name: bridge}
	bridge, err = c.ensureSegment(ctx, b, func(name string) (*nic, error) {
		if l, known := found[name]; known {
			return l, nil
		}
		return c.link(ctx, name)
	})
	if c.ok(err); bridge == nil {
		return nil
	}
	c.ok(c.open6(ctx, table, all))
	return c.ensureTap(ctx, t, have, bridge, bridge.tapMTU(b))
}

// plugFilter puts the tap's elements into the sets, and takes those out that it had. What it had is in its mark.
func (c *call) plugFilter(ctx context.Context, t network.Tap, have *nic) error {
	change := filterChange{add: elements(t), write: limitChains(t.Name, t.Limits)}
	for _, id := range t.Groups {
		for _, a := range t.IPs {
			change.add = append(change.add, memberElement(id, a))
		}
	}
	if have != nil {
		said := parseTapMark(have.alias)
		if len(said.mac) == 6 && !said.cut {
			for _, e := range facts(t.Name, said) {
				if !slices.Contains(change.add, e) {
					change.remove = append(change.remove, e)
				}
			}
			change.dropChains = limitChainsToDrop(t.Name, said.limits, t.Limits)
		}
		if said.cut || len(said.mac) != 6 {
			if err := c.forget(ctx, t.Name, change.add); err != nil {
				return err
			}
		}
	}
	whole := !t.Guarded // the change makes what its elements are for
	makeWhole := func() {
		whole = true
		for chain, n := range change.classes {
			change.add = append(change.add, classElement(n, chain))
		}
		change.write = append(change.write, chooser(t.Groups)...)
		for _, id := range t.Groups {
			change.sets = append(change.sets, groupSets(id)...)
			change.ensure = append(change.ensure, rulesIn+id, rulesOut+id)
		}
	}
	if t.Guarded {
		chain := choose + choice(t)
		n, there, err := c.class(ctx, chain)
		if err != nil {
			return err
		}
		if change.classes = map[string]uint32{chain: n}; !there {
			makeWhole()
		}
	}
	err := c.commit(ctx, change)
	if errors.Is(err, unix.ENOENT) && !whole {
		makeWhole()
		err = c.commit(ctx, change)
	}
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	// Or the table, a set of all taps, or something that was to go.
	f, err := c.filter(ctx)
	if err != nil {
		return err
	}
	change.rebuild = f.problem != ""
	change.dropChains = slices.DeleteFunc(change.dropChains, func(name string) bool { _, there := f.chains[name]; return !there || change.rebuild })
	change.remove = slices.DeleteFunc(change.remove, func(e element) bool { return !f.elements[e] })
	return c.commit(ctx, change)
}

// setGroups does what apply does for some groups.
func (c *call) setGroups(ctx context.Context, gs []network.Group) error {
	have := filter{elements: map[element]bool{}, chains: map[string][]string{}, sets: map[string]bool{}}
	for _, g := range gs {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := c.wire.group(g.ID)
		if errors.Is(err, unix.ENOENT) { // there is no table
			f, err = filter{}, nil
		}
		if err != nil {
			return failed("read the packet filter", err)
		}
		maps.Copy(have.elements, f.elements)
		maps.Copy(have.chains, f.chains)
		maps.Copy(have.sets, f.sets)
	}
	change, _ := planFilter(network.Desired{Groups: gs}, have)
	if change.empty() {
		return nil
	}
	err := c.commit(ctx, change)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	f, err := c.filter(ctx)
	if err != nil {
		return err
	}
	change.rebuild = f.problem != ""
	return c.commit(ctx, change)
}

// forget takes all elements of a tap out of the sets, but for those to keep. It reads all there are: it is for taps
// whose mark doesn't say.
func (c *call) forget(ctx context.Context, tap string, keep []element) error {
	f, err := c.filter(ctx)
	if err != nil {
		return err
	}
	var change filterChange
	for e := range f.elements {
		if name, _, _, _ := e.parse(); name == tap && !slices.Contains(keep, e) {
			change.remove = append(change.remove, e)
		}
	}
	for _, name := range []string{limitChainIn + tap, limitChainOut + tap} {
		_, there := f.chains[name]
		if there && !slices.ContainsFunc(keep, func(e element) bool { return e.to == name }) {
			change.dropChains = append(change.dropChains, name)
		}
	}
	if change.empty() {
		return nil
	}
	return c.commit(ctx, change)
}

// unplug takes the elements first: the tap is cut off then. If it stops halfway, the link is still there for the next try.
func (c *call) unplug(ctx context.Context, tap string) error {
	l, err := c.link(ctx, tap)
	if err != nil || l == nil || !l.isTap() {
		return err
	}
	if said := parseTapMark(l.alias); len(said.mac) == 6 && !said.cut {
		err = c.commit(ctx, filterChange{remove: facts(tap, said),
			dropChains: limitChainsToDrop(tap, said.limits, network.Limits{})})
		if errors.Is(err, unix.ENOENT) {
			err = c.forget(ctx, tap, nil)
		}
	} else {
		err = c.forget(ctx, tap, nil)
	}
	if err != nil {
		return err
	}
	if err := c.remove(ctx, l); err != nil {
		return failed("tap "+tap, err)
	}
	c.changed("tap %s removed", tap)
	return nil
}
