package fakenetwork

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Node is a pretended machine with its links. It lives as long as the test wants, whatever happens to its managers. All
// methods are safe for concurrent use. What they direct takes effect at once.
type Node struct {
	mu       sync.Mutex
	links    map[string]bool // those that are not ours: network cards, bridges of others
	bridges  map[string]network.Bridge
	taps     map[string]tap
	groups   map[string]network.Group
	floating []network.Floating
	made     int // links so far

	forwards6, opened6 bool // it forwards IPv6; because of us
	faults             []*Injected
	calls              map[Method]int
}

type tap struct {
	network.Tap
	index int
}

// NewNode returns a node without links.
func NewNode() *Node {
	return &Node{links: map[string]bool{}, bridges: map[string]network.Bridge{}, taps: map[string]tap{}, groups: map[string]network.Group{},
		calls: map[Method]int{}}
}

// AddLink gives the node a link that is not the managers': one that a bridge may name as its uplink, an administrator's bridge
// ([network.Bridge.External]), or one whose name no bridge or tap can have.
func (n *Node) AddLink(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[name] = true
}

// RemoveLink takes such a link away. One that is not there is nothing to do.
func (n *Node) RemoveLink(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.links, name)
	for _, b := range n.bridges {
		if b.External && b.Name == name {
			n.removeBridge(name)
		} else if b.Uplink == name {
			b.Uplink, b.VLAN = "", 0
			n.bridges[b.Name] = b
		}
	}
}

// Links returns the names of the links that are not the managers', sorted.
func (n *Node) Links() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.links))
}

// Desired returns what the node has, as Inspect does, but is not subject to faults and with the fields that only DHCP uses.
func (n *Node) Desired() network.Desired {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.desired()
}

// Tap returns the tap with this name as it was last made or mended.
func (n *Node) Tap(name string) (t network.Tap, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	found, ok := n.taps[name]
	return network.Desired{Taps: []network.Tap{found.Tap}}.Clone().Taps[0], ok
}

// Index returns a number that a tap keeps for as long as it is there, and that no other one ever has; 0 if there is
// no tap with this name.
func (n *Node) Index(tap string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.taps[tap].index
}

// RemoveTap takes a tap away as if somebody had done so by hand. An unknown one is nothing to do.
func (n *Node) RemoveTap(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taps, name)
}

// RemoveBridge takes a bridge away as if somebody had done so by hand: its taps are on no bridge then. An unknown one
// is nothing to do.
func (n *Node) RemoveBridge(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removeBridge(name)
}

// Change changes a tap as if somebody had done so by hand. An unknown one is nothing to do.
func (n *Node) Change(name string, change func(*network.Tap)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t, ok := n.taps[name]; ok {
		t.Tap = network.Desired{Taps: []network.Tap{t.Tap}}.Clone().Taps[0]
		change(&t.Tap)
		n.taps[name] = t
	}
}

// Forwards6 tells whether the node forwards IPv6.
func (n *Node) Forwards6() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.forwards6
}

// SetForwards6 makes the node forward IPv6, or not, as if somebody had done so by hand.
func (n *Node) SetForwards6(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forwards6 = on
}

// The functions below expect mu to be held.

func (n *Node) desired() network.Desired {
	var d network.Desired
	used := map[string]bool{}
	for _, t := range n.taps {
		used[t.Bridge] = true
	}
	for _, b := range n.bridges {
		if !b.External || used[b.Name] {
			d.Bridges = append(d.Bridges, b)
		}
	}
	for _, t := range n.taps {
		d.Taps = append(d.Taps, t.Tap)
	}
	d.Floating = n.floating
	for _, g := range n.groups {
		d.Groups = append(d.Groups, g)
	}
	slices.SortFunc(d.Groups, func(a, b network.Group) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(d.Bridges, func(a, b network.Bridge) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Taps, func(a, b network.Tap) int { return cmp.Compare(a.Name, b.Name) })
	return d.Clone()
}

func (n *Node) removeBridge(name string) {
	delete(n.bridges, name)
	for _, t := range n.taps {
		if t.Bridge == name {
			t.Bridge = ""
			n.taps[t.Name] = t
		}
	}
}

// setGroups makes groups as they are in gs, which it keeps, and returns what had to change.
func (n *Node) setGroups(gs []network.Group) (changes []string) {
	for _, g := range gs {
		slices.SortFunc(g.Rules, func(a, b network.Rule) int { return cmp.Compare(a.String(), b.String()) })
		slices.SortFunc(g.Members, netip.Addr.Compare)
		old, there := n.groups[g.ID]
		switch {
		case !there:
			changes = append(changes, "security group "+g.ID+" made")
		case !slices.Equal(old.Rules, g.Rules) || !slices.Equal(old.Members, g.Members):
			changes = append(changes, "security group "+g.ID+" mended")
		}
		n.groups[g.ID] = g
	}
	return changes
}

// setFloating makes the node answer for fs, which it keeps, but for those on links that are not there.
func (n *Node) setFloating(fs []network.Floating) (changes []string, problems error) {
	var want []network.Floating
	for _, f := range fs {
		if n.links[f.Link] {
			want = append(want, f)
		} else {
			problems = errors.Join(problems, fmt.Errorf("floating IP %v: link %s: %w", f.Addr, f.Link, errdefs.ErrNotFound))
		}
	}
	slices.SortFunc(want, func(a, b network.Floating) int { return a.Addr.Compare(b.Addr) })
	if !slices.Equal(want, n.floating) {
		changes = append(changes, "floating IPs mended")
	}
	n.floating = want
	return changes, problems
}

// join puts a tap's addresses into its groups.
func (n *Node) join(t network.Tap) {
	for _, id := range t.Groups {
		g := n.groups[id]
		g.ID, g.Members = id, slices.Clone(g.Members)
		for _, a := range t.IPs {
			if !slices.Contains(g.Members, a) {
				g.Members = append(g.Members, a)
			}
		}
		slices.SortFunc(g.Members, netip.Addr.Compare)
		n.groups[id] = g
	}
}

// Passes tells whether a packet that is the first of its flow gets through the security groups of a tap; one that is not there
// lets nothing through.
func (n *Node) Passes(tap string, p network.Packet) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	t, there := n.taps[tap]
	return there && n.desired().Lets(t.Tap, p)
}

// ChangeGroup changes a group as if somebody had done so by hand. An unknown one is nothing to do.
func (n *Node) ChangeGroup(id string, change func(*network.Group)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g, ok := n.groups[id]; ok {
		g = network.Desired{Groups: []network.Group{g}}.Clone().Groups[0]
		change(&g)
		n.groups[id] = g
	}
}
