package network

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// FloatingPool is a range of addresses that projects can have for their machines, and where they are answered.
type FloatingPool struct {
	Name string       // unique: as a network's
	CIDR netip.Prefix // IPv4, /16 to /32; of no other pool. Its first and last address are given out too, up to /31
	Link string       // the network card that the addresses are answered on, on each node
}

// FloatingIP is an address of a pool that a project has, and the port that it leads to.
type FloatingIP struct {
	Addr      netip.Addr
	Pool      string
	ProjectID string
	PortID    string     // "": it leads nowhere
	Fixed     netip.Addr // of the port's addresses, the one that it stands for
	Since     time.Time  // when the project got it
}

// FloatingPools and FloatingIPs are the tables of this file.
var (
	FloatingPools = state.NewTable("floating-pool", func(p FloatingPool) string { return p.Name })
	FloatingIPs   = state.NewTable("floating-ip", func(f FloatingIP) string { return f.Addr.String() },
		state.Index("project", func(f FloatingIP) []string { return []string{f.ProjectID} }),
		state.Index("pool", func(f FloatingIP) []string { return []string{f.Pool} }),
		state.Unique("fixed", func(f FloatingIP) []string { // a fixed IP has one floating IP, or packets from it would have two sources
			if f.PortID == "" {
				return nil
			}
			return []string{f.PortID + "/" + f.Fixed.String()}
		}),
		state.Index("port", func(f FloatingIP) []string {
			if f.PortID == "" {
				return nil
			}
			return []string{f.PortID}
		}))

	// FloatingUse is how many addresses each project has.
	FloatingUse = state.NewSum("floating-use", FloatingIPs, func(f FloatingIP) (string, auth.Amounts) {
		return f.ProjectID, auth.Amounts{FloatingIPs: 1}
	})
)

// CreateFloatingPool makes a pool. A field that is wrong, or addresses of another pool or of a network, are InvalidArgument; a
// name that is taken is AlreadyExists.
func (s *Service) CreateFloatingPool(ctx context.Context, p FloatingPool) error {
	if _, err := s.cfg.Policy.Authorize(ctx, "network:floating:pool:create", ""); err != nil {
		return err
	}
	bad := func(field, format string, args ...any) error {
		return fmt.Errorf("network: floating pool: %s %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	switch {
	case !networkName.MatchString(p.Name):
		return bad("Name", "%.40q must be 1 to 255 letters, digits, spaces, dots, dashes or underscores and begin with a letter or digit", p.Name)
	case !p.CIDR.IsValid() || !p.CIDR.Addr().Is4() || p.CIDR.Bits() < 16:
		return bad("CIDR", "%v is not an IPv4 subnet between /16 and /32", p.CIDR)
	case p.CIDR != p.CIDR.Masked():
		return bad("CIDR", "%v has bits behind its length, the subnet is %v", p.CIDR, p.CIDR.Masked())
	case p.CIDR.Addr().IsMulticast() || p.CIDR.Addr().IsLoopback() || p.CIDR.Addr().IsUnspecified() || p.CIDR.Addr().IsLinkLocalUnicast():
		return bad("CIDR", "%v is multicast, loopback or link-local", p.CIDR)
	case !ifaceName.MatchString(p.Link):
		return bad("Link", "%.40q is not an interface name of 1 to 15 letters, digits, dots, dashes or underscores", p.Link)
	}
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		for other := range FloatingPools.All(tx) { // guarded: two pools are not made at once in ignorance of each other
			if other.Name != p.Name && other.CIDR.Overlaps(p.CIDR) {
				return bad("CIDR", "%v overlaps %v of pool %q", p.CIDR, other.CIDR, other.Name)
			}
		}
		for n := range Networks.All(tx.Unguarded()) {
			if n.CIDR.Overlaps(p.CIDR) {
				return bad("CIDR", "%v overlaps %v of network %q", p.CIDR, n.CIDR, n.Name)
			}
		}
		return FloatingPools.Insert(tx, p)
	})
}

// DeleteFloatingPool removes a pool of which no project has an address; otherwise it is FailedPrecondition, and names one.
func (s *Service) DeleteFloatingPool(ctx context.Context, name string) error {
	if _, err := s.cfg.Policy.Authorize(ctx, "network:floating:pool:delete", ""); err != nil {
		return err
	}
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		p, err := FloatingPools.Get(tx, name)
		if err != nil {
			return fmt.Errorf("network: floating pool %.80q: %w", name, errdefs.ErrNotFound)
		}
		for f := range FloatingIPs.By(tx.Unguarded(), "pool", p.Name) {
			return fmt.Errorf("network: floating pool %q: project %s has %v: %w", name, f.ProjectID, f.Addr, errdefs.ErrFailedPrecondition)
		}
		return FloatingPools.Delete(tx, p.Name) // who allocates at the same time writes the pool too
	})
}

// FloatingPools returns all pools, sorted by name.
func (s *Service) FloatingPools(ctx context.Context) (all []FloatingPool, err error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "network:floating:list", ""); err != nil {
		return nil, err
	}
	err = s.cfg.Store.View(func(v *state.View) error { all = slices.Collect(FloatingPools.All(v)); return nil })
	slices.SortFunc(all, func(a, b FloatingPool) int { return cmp.Compare(a.Name, b.Name) })
	return all, err
}

// FloatingIPs returns the addresses of the caller's project, sorted.
func (s *Service) FloatingIPs(ctx context.Context) (all []FloatingIP, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "network:floating:list", "")
	if err != nil {
		return nil, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		all = slices.Collect(FloatingIPs.By(v, "project", caller.ProjectID))
		return nil
	})
	slices.SortFunc(all, func(a, b FloatingIP) int { return a.Addr.Compare(b.Addr) })
	return all, err
}

// AllocateFloatingIP gives the caller's project the lowest free address of a pool, "" being the first that has one. ResourceExhausted is
// the project's quota, or a pool without a free address; NotFound a pool that does not exist.
func (s *Service) AllocateFloatingIP(ctx context.Context, pool string) (f FloatingIP, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "network:floating:allocate", "")
	if err != nil {
		return f, err
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		var pools []FloatingPool
		if pool == "" {
			pools = slices.SortedFunc(FloatingPools.All(tx.Unguarded()), func(a, b FloatingPool) int { return cmp.Compare(a.Name, b.Name) })
		} else if p, err := FloatingPools.Get(tx, pool); err == nil {
			pools = append(pools, p)
		}
		if len(pools) == 0 {
			return fmt.Errorf("network: floating pool %.80q: %w", pool, errdefs.ErrNotFound)
		}
		if err := auth.CheckQuota(tx, caller.ProjectID, auth.Amounts{FloatingIPs: 1}, FloatingUse.Get(tx, caller.ProjectID)); err != nil {
			return err
		}
		for _, p := range pools {
			for addr := range addresses(p.CIDR) {
				if FloatingIPs.Has(tx.Unguarded(), addr.String()) {
					continue
				}
				f = FloatingIP{Addr: addr, Pool: p.Name, ProjectID: caller.ProjectID, Since: time.Now().UTC()}
				if err := FloatingPools.Put(tx, p); err != nil { // the pool is not deleted meanwhile
					return err
				}
				return FloatingIPs.Insert(tx, f)
			}
		}
		return fmt.Errorf("network: floating pool %.80q has no free address: %w", pool, ErrNoMoreAddresses)
	})
	return f, err
}

// addresses yields those of a pool.
func addresses(p netip.Prefix) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for a := p.Addr(); p.Contains(a) && yield(a); a = a.Next() {
		}
	}
}

// floating returns an address that the caller may do something with. One of another project is NotFound.
func (s *Service) floating(ctx context.Context, r state.Reader, action string, addr netip.Addr) (FloatingIP, error) {
	caller, _ := auth.FromContext(ctx)
	f, err := FloatingIPs.Get(r, addr.String())
	if err != nil || f.ProjectID != caller.ProjectID && !caller.Admin {
		f, err = FloatingIP{ProjectID: caller.ProjectID}, fmt.Errorf("network: floating IP %v: project %q has none such: %w", addr, caller.ProjectID, errdefs.ErrNotFound)
	}
	if _, denied := s.cfg.Policy.Authorize(ctx, action, f.ProjectID); denied != nil {
		return f, denied
	}
	return f, err
}

// AssociateFloatingIP makes an address of the caller's project lead to a fixed IP of one of the project's ports; fixed may be
// the zero value where the port has one IPv4 address. An address that leads somewhere else already is moved: the nodes of the old
// port and of the new do so when they hear of it. NotFound is an address or a port that the project does not have, InvalidArgument a fixed IP that
// the port does not have, FailedPrecondition a fixed IP that has another floating IP, or a network whose guests don't route through a node.
func (s *Service) AssociateFloatingIP(ctx context.Context, addr netip.Addr, portID string, fixed netip.Addr) (f FloatingIP, err error) {
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if f, err = s.floating(ctx, tx, "network:floating:associate", addr); err != nil {
			return err
		}
		p, err := Ports.Get(tx, portID)
		if err != nil || p.ProjectID != f.ProjectID {
			return fmt.Errorf("network: port %.80q: project %q has none: %w", portID, f.ProjectID, errdefs.ErrNotFound)
		}
		n, err := Networks.Get(tx, p.NetworkID)
		if err != nil {
			return err
		}
		if !n.routed() || n.Router != n.Gateway {
			return fmt.Errorf("network: floating IP %v: guests of network %q don't route through a node: %w", addr, n.Name, errdefs.ErrFailedPrecondition)
		}
		four := p.ipv4()
		if !fixed.IsValid() && len(four) == 1 {
			fixed = four[0]
		}
		if !slices.Contains(four, fixed) {
			return fmt.Errorf("network: fixed %v is not one of the IPv4 addresses %v of port %s: %w", fixed, four, p.ID, errdefs.ErrInvalidArgument)
		}
		if other, err := FloatingIPs.One(tx, "fixed", p.ID+"/"+fixed.String()); err == nil && other.Addr != f.Addr {
			return fmt.Errorf("network: fixed IP %v of port %s has floating IP %v: %w", fixed, p.ID, other.Addr, errdefs.ErrFailedPrecondition)
		}
		f.PortID, f.Fixed = p.ID, fixed
		if err := Ports.Put(tx, p); err != nil { // who releases the port at the same time sees this
			return err
		}
		return FloatingIPs.Put(tx, f)
	})
	return f, err
}

// DisassociateFloatingIP makes an address lead nowhere. One that does already is success.
func (s *Service) DisassociateFloatingIP(ctx context.Context, addr netip.Addr) error {
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		f, err := s.floating(ctx, tx, "network:floating:disassociate", addr)
		if err != nil {
			return err
		}
		f.PortID, f.Fixed = "", netip.Addr{}
		return FloatingIPs.Put(tx, f)
	})
}

// ReleaseFloatingIP gives an address back to its pool. One that leads to a port is FailedPrecondition, and names the port.
func (s *Service) ReleaseFloatingIP(ctx context.Context, addr netip.Addr) error {
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		f, err := s.floating(ctx, tx, "network:floating:release", addr)
		if err != nil {
			return err
		}
		if f.PortID != "" {
			return fmt.Errorf("network: floating IP %v leads to %v of port %s: %w", addr, f.Fixed, f.PortID, errdefs.ErrFailedPrecondition)
		}
		return FloatingIPs.Delete(tx, f.Addr.String())
	})
}

// dropFloating makes the floating IPs of a port that goes lead nowhere.
func dropFloating(tx *state.Tx, portID string) error {
	for f := range FloatingIPs.By(tx, "port", portID) {
		f.PortID, f.Fixed = "", netip.Addr{}
		if err := FloatingIPs.Put(tx, f); err != nil {
			return err
		}
	}
	return nil
}

// floatingOn returns what a node is to answer for, sorted: the floating IPs of the plugged ports that have their gateway there.
func floatingOn(r state.Reader, hostID string) (all []Floating) {
	for f := range FloatingIPs.All(r) {
		if f.PortID == "" {
			continue
		}
		p, err := Ports.Get(r, f.PortID)
		if err != nil || !p.Plugged {
			continue
		}
		n, err := Networks.Get(r, p.NetworkID)
		if err != nil || (n.NodeID != hostID && (n.NodeID != "" || p.HostID != hostID)) {
			continue
		}
		if pool, err := FloatingPools.Get(r, f.Pool); err == nil {
			all = append(all, Floating{Addr: f.Addr, Fixed: f.Fixed, Link: pool.Link})
		}
	}
	slices.SortFunc(all, func(a, b Floating) int { return a.Addr.Compare(b.Addr) })
	return all
}
