package linux

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Config is what a [Manager] is made of.
type Config struct {
	NetNS  string       // path of the network namespace to manage, as /run/netns/x; "": the process's own
	Logger *slog.Logger // nil: silent
}

// Manager is a [network.Manager] for one network namespace of a Linux kernel. The process needs CAP_NET_ADMIN there, and
// for a namespace that is not its own CAP_SYS_ADMIN. There is one Manager of a namespace at a time.
type Manager struct {
	wire   wire
	logger *slog.Logger
	turn   chan struct{} // holds a value while a method works
	closed bool
}

var _ network.Manager = (*Manager)(nil)

// New opens what the manager needs of the kernel. It changes nothing and starts nothing.
func New(cfg Config) (*Manager, error) {
	k, err := dial(cfg.NetNS)
	if err != nil {
		return nil, failed("open", err)
	}
	return newManager(k, cfg.Logger), nil
}

func newManager(w wire, logger *slog.Logger) *Manager {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Manager{wire: w, logger: logger, turn: make(chan struct{}, 1)}
}

// call is one call of a method.
type call struct {
	wire    wire
	changes []string
	problem error // of all that could not be done
	opened  bool  // the node forwards IPv6 because of our bridges
}

func (c *call) changed(format string, args ...any) {
	c.changes = append(c.changes, fmt.Sprintf(format, args...))
}

// ok keeps a problem that concerns one link, so that the others are done all the same. It tells whether there is none.
func (c *call) ok(err error) bool {
	c.problem = errors.Join(c.problem, err)
	return err == nil
}

// do runs f when it is its turn. The context's error is returned as it is, whatever it was an answer to.
func (m *Manager) do(ctx context.Context, f func(*call) error) ([]string, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.closed {
		return nil, fmt.Errorf("network: the manager is closed: %w", errdefs.ErrFailedPrecondition)
	}
	c := &call{wire: m.wire}
	err := f(c)
	if ctx.Err() != nil && (err != nil || c.problem != nil) {
		return c.changes, ctx.Err()
	}
	if err == nil {
		err = c.problem
	}
	return c.changes, err
}

// Apply implements [network.Manager].
func (m *Manager) Apply(ctx context.Context, d network.Desired) (network.Report, error) {
	if err := d.Validate(); err != nil {
		return network.Report{}, err
	}
	changes, err := m.do(ctx, func(c *call) error { return c.apply(ctx, d) })
	return network.Report{Changes: changes}, err
}

// Plug implements [network.Manager]. It reads two links and the bridge's addresses, and makes one transaction in the packet filter.
func (m *Manager) Plug(ctx context.Context, b network.Bridge, t network.Tap) error {
	if err := (network.Desired{Bridges: []network.Bridge{b}, Taps: []network.Tap{t}}).Validate(); err != nil {
		return err
	}
	changes, err := m.do(ctx, func(c *call) error { return c.plug(ctx, b, t) })
	m.logger.Debug("network: plug", "tap", t.Name, "changes", changes, "error", err)
	return err
}

// SetGroups implements [network.Manager]. It reads what the node has of these groups, and makes one transaction in the packet filter.
func (m *Manager) SetGroups(ctx context.Context, gs []network.Group) error {
	if err := network.ValidateGroups(gs); err != nil {
		return err
	}
	changes, err := m.do(ctx, func(c *call) error { return c.setGroups(ctx, gs) })
	m.logger.Debug("network: set groups", "groups", len(gs), "changes", changes, "error", err)
	return err
}

// SetFloating implements [network.Manager].
func (m *Manager) SetFloating(ctx context.Context, fs []network.Floating) error {
	if err := network.ValidateFloating(fs); err != nil {
		return err
	}
	changes, err := m.do(ctx, func(c *call) error { return c.setFloating(ctx, fs) })
	m.logger.Debug("network: set floating IPs", "changes", changes, "error", err)
	return err
}

// Unplug implements [network.Manager].
func (m *Manager) Unplug(ctx context.Context, tap string) error {
	changes, err := m.do(ctx, func(c *call) error { return c.unplug(ctx, tap) })
	m.logger.Debug("network: unplug", "tap", tap, "changes", changes, "error", err)
	return err
}

// Inspect implements [network.Manager]. MTUs that are 0 in what was applied are 1500 here, and a tap that is on no
// bridge of ours, or a gateway that is not on its bridge, is shown so.
func (m *Manager) Inspect(ctx context.Context) (d network.Desired, err error) {
	_, err = m.do(ctx, func(c *call) error { d, err = c.inspect(ctx); return err })
	return d, err
}

// Close implements [network.Manager].
func (m *Manager) Close() error {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	if m.closed {
		return nil
	}
	m.closed = true
	return m.wire.close()
}

func (c *call) inspect(ctx context.Context) (d network.Desired, err error) {
	links, err := c.links(ctx)
	if err != nil {
		return d, err
	}
	have, err := c.filter(ctx)
	if err != nil {
		return d, err
	}
	names, facts := map[uint32]string{}, map[string]network.Tap{}
	byIndex := make(map[uint32]*nic, len(links))
	vlans := map[uint32]*nic{} // by the bridge that they are ports of
	for _, l := range links {
		byIndex[l.index] = l
		if l.isVLAN() {
			vlans[l.master] = l
		}
	}
	for e := range have.elements {
		tap, mac, ip, err := e.parse()
		if err != nil {
			continue // not from us: Apply removes it
		}
		t := facts[tap]
		switch e.set {
		case limitsIn:
			t.Limits.In = parseLimit(have.chains[e.to])
		case limitsOut:
			t.Limits.Out = parseLimit(have.chains[e.to])
		case groupsOf:
			t.Guarded, t.Groups = true, parseChooser(have.chains[chooseIn+strings.TrimPrefix(e.to, choose)])
		}
		if mac != nil {
			t.MAC = mac
		}
		if ip.IsValid() && ip != linkLocal(mac) {
			t.IPs = append(t.IPs, ip)
		}
		facts[tap] = t
	}
	for _, l := range links {
		if !l.isBridge() {
			continue
		}
		names[l.index] = l.name
		m := parseBridgeMark(l.alias)
		b := network.Bridge{Name: l.name, MTU: l.mtu}
		if up := links[m.uplink]; up != nil && up.master == l.index {
			b.Uplink = m.uplink
		}
		if vlan := vlans[l.index]; vlan != nil && byIndex[vlan.parent] != nil {
			b.Uplink, b.VLAN = byIndex[vlan.parent].name, vlan.vlan()
		}
		addresses, err := c.addresses(ctx, l, unix.AF_UNSPEC)
		if err != nil {
			return d, err
		}
		if addresses.has(m.gateway) {
			b.Gateway = m.gateway
		}
		if addresses.has(m.gateway6) {
			on, err := c.forwards6(ctx)
			if err != nil {
				return d, err
			}
			if on {
				b.Gateway6 = m.gateway6
			}
		}
		d.Bridges = append(d.Bridges, b)
	}
	for _, l := range links {
		if !l.isTap() {
			continue
		}
		// The order of the addresses is in the mark alone; that they are in force, in the sets alone.
		said, t := parseTapMark(l.alias), facts[l.name]
		slices.SortFunc(t.IPs, func(a, b netip.Addr) int {
			return cmp.Or(cmp.Compare(said.position(a), said.position(b)), a.Compare(b))
		})
		if on := byIndex[l.master]; on != nil && names[on.index] == "" { // an administrator's
			names[on.index] = on.name
			d.Bridges = append(d.Bridges, network.Bridge{Name: on.name, External: true})
		}
		t.Name, t.Bridge, t.Port = l.name, names[l.master], said.port
		d.Taps = append(d.Taps, t)
	}
	members := map[string][]netip.Addr{}
	for e := range have.elements {
		if id, is := groupOf(e.set); is {
			if a, ok := netip.AddrFromSlice([]byte(e.key)); ok {
				members[id] = append(members[id], a)
			}
		}
	}
	for name := range have.chains {
		if id, is := strings.CutPrefix(name, rulesIn); is {
			g := parseGroup(id, have.chains)
			g.Members = members[id]
			slices.SortFunc(g.Members, netip.Addr.Compare)
			d.Groups = append(d.Groups, g)
		}
	}
	if err := c.inspectNAT(ctx, &d, links); err != nil {
		return d, err
	}
	slices.SortFunc(d.Groups, func(a, b network.Group) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(d.Bridges, func(a, b network.Bridge) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Taps, func(a, b network.Tap) int { return cmp.Compare(a.Name, b.Name) })
	return d, nil
}
