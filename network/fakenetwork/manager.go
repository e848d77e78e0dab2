package fakenetwork

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Config is what a [Manager] is made of.
type Config struct {
	Node *Node // nil: a new one
}

// Manager is a [network.Manager] for a [Node].
type Manager struct {
	node *Node
}

var _ network.Manager = (*Manager)(nil)

// New returns a manager for the node.
func New(cfg Config) *Manager {
	if cfg.Node == nil {
		cfg.Node = NewNode()
	}
	return &Manager{node: cfg.Node}
}

// Node returns the node that the manager manages.
func (m *Manager) Node() *Node { return m.node }

// Apply implements [network.Manager].
func (m *Manager) Apply(ctx context.Context, d network.Desired) (report network.Report, err error) {
	if err := d.Validate(); err != nil {
		return report, err
	}
	d = d.Clone()
	err = m.node.call(ctx, MethodApply, "", func() error {
		var problems error
		report.Changes, problems = m.node.apply(d)
		return problems
	})
	return report, err
}

// Plug implements [network.Manager].
func (m *Manager) Plug(ctx context.Context, b network.Bridge, t network.Tap) error {
	d := network.Desired{Bridges: []network.Bridge{b}, Taps: []network.Tap{t}}
	if err := d.Validate(); err != nil {
		return err
	}
	d = d.Clone()
	return m.node.call(ctx, MethodPlug, t.Name, func() error {
		_, err := m.node.add(d)
		m.node.join(t)
		return err
	})
}

// SetGroups implements [network.Manager].
func (m *Manager) SetGroups(ctx context.Context, gs []network.Group) error {
	if err := network.ValidateGroups(gs); err != nil {
		return err
	}
	gs = network.Desired{Groups: gs}.Clone().Groups
	return m.node.call(ctx, MethodSetGroups, "", func() error { m.node.setGroups(gs); return nil })
}

// SetFloating implements [network.Manager].
func (m *Manager) SetFloating(ctx context.Context, fs []network.Floating) error {
	if err := network.ValidateFloating(fs); err != nil {
		return err
	}
	fs = append([]network.Floating(nil), fs...)
	return m.node.call(ctx, MethodSetFloating, "", func() error { _, err := m.node.setFloating(fs); return err })
}

// Unplug implements [network.Manager].
func (m *Manager) Unplug(ctx context.Context, tap string) error {
	return m.node.call(ctx, MethodUnplug, tap, func() error {
		delete(m.node.taps, tap)
		return nil
	})
}

// Inspect implements [network.Manager].
func (m *Manager) Inspect(ctx context.Context) (d network.Desired, err error) {
	err = m.node.call(ctx, MethodInspect, "", func() error {
		d = m.node.desired()
		for i, b := range d.Bridges {
			d.Bridges[i] = network.Bridge{Name: b.Name, NAT: b.NAT, MTU: b.MTU, Uplink: b.Uplink, VLAN: b.VLAN, External: b.External, Gateway: b.Gateway}
			if m.node.forwards6 {
				d.Bridges[i].Gateway6 = b.Gateway6
			}
		}
		for i := range d.Taps {
			d.Taps[i].Hostname = ""
		}
		return nil
	})
	return d, err
}

// Close implements [network.Manager].
func (m *Manager) Close() error { return nil }

// apply makes the node as d says. It expects mu to be held.
func (n *Node) apply(d network.Desired) ([]string, error) {
	bridges, taps := map[string]network.Bridge{}, map[string]bool{}
	for _, b := range d.Bridges {
		bridges[b.Name] = b
	}
	for _, t := range d.Taps {
		taps[t.Name] = true
	}
	var changes []string
	for name := range n.taps {
		if !taps[name] {
			delete(n.taps, name)
			changes = append(changes, "tap "+name+" removed")
		}
	}
	for name, have := range n.bridges {
		if want, wanted := bridges[name]; wanted && want.External == have.External {
			continue
		}
		n.removeBridge(name)
		if !have.External {
			changes = append(changes, "bridge "+name+" removed")
		}
	}
	more, err := n.add(d)
	changes = append(changes, more...)
	wanted := map[string]bool{}
	for _, g := range d.Groups {
		wanted[g.ID] = true
	}
	for id := range n.groups {
		if !wanted[id] {
			delete(n.groups, id)
			changes = append(changes, "security group "+id+" removed")
		}
	}
	changes = append(changes, n.setGroups(d.Groups)...)
	more, missing := n.setFloating(d.Floating)
	return append(changes, more...), errors.Join(err, missing)
}

// add adds or mends what is in d, and removes nothing. It expects mu to be held.
func (n *Node) add(d network.Desired) (changes []string, problems error) {
	foreign := func(what, name string) bool {
		_, isTap := n.taps[name]
		_, isBridge := n.bridges[name]
		if n.links[name] || (what == "tap" && isBridge) || (what == "bridge" && isTap) {
			problems = errors.Join(problems, fmt.Errorf("%s %s: a link of this name is there, and not of this library's making: %w", what, name, errdefs.ErrAlreadyExists))
			return true
		}
		return false
	}
	for _, b := range d.Bridges {
		if b.External {
			if n.links[b.Name] {
				n.bridges[b.Name] = b
			} else {
				problems = errors.Join(problems, fmt.Errorf("bridge %s: an administrator has to make it, and there is none: %w", b.Name, errdefs.ErrNotFound))
			}
			continue
		}
		if foreign("bridge", b.Name) {
			continue
		}
		if b.MTU == 0 {
			b.MTU = network.DefaultMTU
		}
		if b.Uplink != "" && !n.links[b.Uplink] {
			problems = errors.Join(problems, fmt.Errorf("bridge %s: uplink %s: %w", b.Name, b.Uplink, errdefs.ErrNotFound))
			b.Uplink, b.VLAN = "", 0
		}
		old, there := n.bridges[b.Name]
		n.bridges[b.Name] = b
		switch {
		case !there:
			changes = append(changes, "bridge "+b.Name+" made")
		case old.MTU != b.MTU || old.Uplink != b.Uplink || old.VLAN != b.VLAN || old.NAT != b.NAT || old.Gateway != b.Gateway || old.Gateway6 != b.Gateway6:
			changes = append(changes, "bridge "+b.Name+" mended")
		}
	}
	for _, t := range d.Taps {
		if foreign("tap", t.Name) {
			continue
		}
		if _, there := n.bridges[t.Bridge]; !there {
			continue // its name was taken
		}
		old, there := n.taps[t.Name]
		if !there {
			n.made++
			old.index = n.made
			changes = append(changes, "tap "+t.Name+" made")
		} else {
			kept := old.Tap
			kept.Hostname = t.Hostname
			if !reflect.DeepEqual(kept, t) {
				changes = append(changes, "tap "+t.Name+" mended")
			}
		}
		n.taps[t.Name] = tap{t, old.index}
	}
	return append(changes, n.route6()...), problems
}

// route6 makes the node forward IPv6 while a bridge wants it. It expects mu to be held.
func (n *Node) route6() (changes []string) {
	wanted := false
	for _, b := range n.bridges {
		wanted = wanted || b.Gateway6.IsValid()
	}
	switch {
	case wanted && !n.forwards6:
		n.forwards6, n.opened6 = true, true
		return []string{"IPv6 is forwarded"}
	case !wanted && n.opened6:
		n.forwards6, n.opened6 = false, false
		return []string{"IPv6 is not forwarded any more"}
	}
	return nil
}
