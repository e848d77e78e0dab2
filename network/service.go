package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// ServiceConfig is what a [Service] is made of.
type ServiceConfig struct {
	Store  *state.Store // required
	Policy auth.Policy  // zero: denies everything
	Logger *slog.Logger // nil: silent
}

// Service makes and removes networks for callers. It is safe for concurrent use.
type Service struct {
	cfg ServiceConfig

	// Addresses allocates ports and fixed IPs in the transactions of the services that make instances.
	Addresses Addresses
}

// NewService checks the configuration.
func NewService(cfg ServiceConfig) (*Service, error) {
	if cfg.Store == nil {
		return nil, fmt.Errorf("network: ServiceConfig.Store is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg}, nil
}

// Create makes a network from n: its Name, Mode and CIDR are required, ID and Created are set here, and all else has
// the default that its field names. A bridge, uplink or VLAN that another network has, and a subnet that overlaps that of another
// where nodes are the gateways of both (or with Route6 its CIDRv6), are InvalidArgument, and so are VLANs and subnets of a [Range]; a name that another has
// is AlreadyExists. Networks that nodes don't route may have the same subnet: Flat, and VLAN with neither NodeID nor MultiHost.
func (s *Service) Create(ctx context.Context, n Network) (Network, error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "network:create", n.ProjectID); err != nil {
		return Network{}, err
	}
	n.ID = uuid.NewString()
	n.Created, n.Deleting, n.RangeID = time.Now().UTC(), false, ""
	n = n.withDefaults()
	if err := n.validate(); err != nil {
		return Network{}, err
	}
	err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if other, err := Networks.One(tx, "bridge", n.Bridge); err == nil {
			return fmt.Errorf("network: Bridge %s belongs to network %q already: %w", n.Bridge, other.Name, errdefs.ErrInvalidArgument)
		}
		if other, err := Networks.One(tx, "uplink", n.Uplink); err == nil && n.Mode != VLAN {
			return fmt.Errorf("network: Uplink %s belongs to network %q already: %w", n.Uplink, other.Name, errdefs.ErrInvalidArgument)
		}
		if err := n.numbers(tx); err != nil {
			return err
		}
		return Networks.Insert(tx, n)
	})
	return n, err
}

// Get returns a network that the caller may see, by id or name.
func (s *Service) Get(ctx context.Context, idOrName string) (n Network, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "network:get", "")
	if err != nil {
		return n, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		if n, err = Networks.Get(v, idOrName); errdefs.IsNotFound(err) {
			n, err = Networks.One(v, "name", idOrName)
		}
		if err != nil || !visible(n, caller) {
			return fmt.Errorf("network %q: %w", idOrName, errdefs.ErrNotFound)
		}
		return nil
	})
	return n, err
}

// List returns the networks that the caller may see.
func (s *Service) List(ctx context.Context) ([]Network, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "network:list", "")
	if err != nil {
		return nil, err
	}
	var all []Network
	err = s.cfg.Store.View(func(v *state.View) error {
		for n := range Networks.All(v) {
			if visible(n, caller) {
				all = append(all, n)
			}
		}
		return nil
	})
	return all, err
}

// Delete removes a network that no port uses; one in use is FailedPrecondition, and stays as it was.
//
// That no port comes while it looks takes two transactions: the first marks the network, after which nobody can allocate
// on it, and the second looks at its ports. Who is killed between them repeats Delete.
func (s *Service) Delete(ctx context.Context, id string) error {
	n, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	if _, err := s.cfg.Policy.Authorize(ctx, "network:delete", n.ProjectID); err != nil {
		return err
	}
	used := func(r state.Reader) error {
		for p := range Ports.By(r, "network", n.ID) {
			return fmt.Errorf("network %q: port %s of instance %s uses it: %w", n.Name, p.ID, p.InstanceID, errdefs.ErrFailedPrecondition)
		}
		return nil
	}
	for {
		if err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
			rec, err := Networks.Get(tx, n.ID)
			if err != nil || rec.Deleting {
				return err
			}
			if err := used(tx.Unguarded()); err != nil {
				return err
			}
			rec.Deleting = true
			return Networks.Put(tx, rec)
		}); err != nil {
			return err
		}
		var inUse error
		var again bool
		if err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
			rec, err := Networks.Get(tx, n.ID)
			if err != nil {
				return err
			}
			if again = !rec.Deleting; again { // another Delete found a port, and took its mark back
				return nil
			}
			if inUse = used(tx.Unguarded()); inUse != nil {
				rec.Deleting = false
				return Networks.Put(tx, rec)
			}
			return Networks.Delete(tx, n.ID)
		}); err != nil {
			return err
		}
		if !again {
			return inUse
		}
	}
}

func visible(n Network, caller auth.Caller) bool {
	return caller.Admin || n.ProjectID == "" || n.ProjectID == caller.ProjectID
}

func (n Network) withDefaults() Network {
	if n.CIDR.IsValid() {
		n.CIDR = n.CIDR.Masked()
		n.CIDRv6 = n.CIDRv6.Masked()
		if !n.Gateway.IsValid() {
			n.Gateway = n.CIDR.Addr().Next()
		}
	}
	if !n.Router.IsValid() {
		n.Router = n.Gateway
	}
	switch {
	case n.Bridge != "":
	case n.Mode == FlatDHCP:
		n.Bridge = "br100"
	case n.Mode == VLAN:
		n.Bridge = fmt.Sprint("br-vlan", n.VLAN)
	}
	if n.MTU == 0 {
		n.MTU = 1500
	}
	if n.Domain == "" {
		n.Domain = "novalocal"
	}
	if n.Lease == 0 {
		n.Lease = 24 * time.Hour
	}
	return n
}

var (
	networkName = regexp.MustCompile(`^[\pL\pN][\pL\pN ._-]{0,254}$`)
	ifaceName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)
	domainName  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
)

// validate returns what is wrong, naming the field and its limit.
func (n Network) validate() error {
	bad := func(field, format string, args ...any) error {
		return fmt.Errorf("network: %s %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	inside := func(a netip.Addr) bool {
		first, last := n.pool()
		return !a.Less(first) && !last.Less(a)
	}
	switch {
	case !networkName.MatchString(n.Name):
		return bad("Name", "%q must be 1 to 255 letters, digits, spaces, dots, dashes or underscores and begin with a letter or digit", n.Name)
	case n.Mode != FlatDHCP && n.Mode != Flat && n.Mode != VLAN:
		return bad("Mode", "%q is not one of %q, %q and %q", n.Mode, FlatDHCP, Flat, VLAN)
	case n.Mode == Flat && n.Bridge == "":
		return bad("Bridge", "must name the bridge that an administrator made on each node: the mode is %q", n.Mode)
	case n.Mode == Flat && n.Uplink != "":
		return bad("Uplink", "%q must be empty: the mode is %q, whose bridges are an administrator's", n.Uplink, n.Mode)
	case n.Mode == Flat && (n.NodeID != "" || n.MultiHost):
		return bad("NodeID and MultiHost", "must be empty: the mode is %q, of which no node is a gateway", n.Mode)
	case n.Mode == VLAN && (n.VLAN < 1 || n.VLAN > MaxVLAN):
		return bad("VLAN", "%d must be between 1 and %d", n.VLAN, MaxVLAN)
	case n.Mode == VLAN && n.Uplink == "":
		return bad("Uplink", "must name the physical interface that carries VLAN %d", n.VLAN)
	case n.Mode != VLAN && n.VLAN != 0:
		return bad("VLAN", "%d must be 0: the mode is %q", n.VLAN, n.Mode)
	case n.NodeID != "" && n.MultiHost:
		return bad("NodeID", "%q must be empty with MultiHost: each node is the gateway of its own guests", n.NodeID)
	case !n.CIDR.IsValid() || !n.CIDR.Addr().Is4():
		return bad("CIDR", "%v is not an IPv4 subnet", n.CIDR)
	case n.CIDR.Bits() < 8 || n.CIDR.Bits() > 29:
		return bad("CIDR", "%v must be between /8 and /29", n.CIDR)
	case n.CIDR.Addr().IsMulticast() || n.CIDR.Addr().IsLoopback() || n.CIDR.Overlaps(netip.MustParsePrefix("169.254.0.0/16")):
		return bad("CIDR", "%v is multicast, loopback or link-local", n.CIDR)
	case n.CIDRv6.IsValid() && (n.CIDRv6.Bits() != 64 || !n.CIDRv6.Addr().Is6() || !n.CIDRv6.Addr().IsGlobalUnicast()):
		return bad("CIDRv6", "%v must be a unicast IPv6 /64, such as one of fd00::/8", n.CIDRv6)
	case !inside(n.Gateway):
		return bad("Gateway", "%v is not a host address of %v", n.Gateway, n.CIDR)
	case !inside(n.Router):
		return bad("Router", "%v is not a host address of %v", n.Router, n.CIDR)
	case n.NAT && (!n.routed() || n.Router != n.Gateway):
		return bad("NAT", "is set, and guests don't route through a node: Router is %v, Gateway is %v", n.Router, n.Gateway)
	case n.Route6 && (!n.CIDRv6.IsValid() || !n.routed()):
		return bad("Route6", "is set, and there is no CIDRv6, or no node is the gateway")
	case n.Route6 && n.MTU < MinMTU6:
		return bad("MTU", "%d must be at least %d with Route6", n.MTU, MinMTU6)
	case len(n.DNS) > 8:
		return bad("DNS", "has %d servers, at most 8 are possible", len(n.DNS))
	case len(n.Routes) > 16:
		return bad("Routes", "has %d routes, at most 16 are possible", len(n.Routes))
	case !ifaceName.MatchString(n.Bridge):
		return bad("Bridge", "%q is not an interface name of 1 to 15 letters, digits, dots, dashes or underscores", n.Bridge)
	case n.Uplink != "" && !ifaceName.MatchString(n.Uplink):
		return bad("Uplink", "%q is not an interface name of 1 to 15 letters, digits, dots, dashes or underscores", n.Uplink)
	case n.Uplink == n.Bridge:
		return bad("Uplink", "%q is the bridge itself", n.Uplink)
	case n.MTU < 576 || n.MTU > 9216:
		return bad("MTU", "%d must be between 576 and 9216", n.MTU)
	case n.Lease < time.Minute || n.Lease > 365*24*time.Hour:
		return bad("Lease", "%v must be between one minute and one year", n.Lease)
	case !domainName.MatchString(n.Domain):
		return bad("Domain", "%q is not a domain name of at most 253 characters", n.Domain)
	}
	for _, a := range n.DNS {
		if !a.Is4() && !(n.CIDRv6.IsValid() && a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == "") {
			return bad("DNS", "%v is not an IPv4 address, or an IPv6 one where CIDRv6 is set", a)
		}
	}
	for _, r := range n.Routes {
		if !r.To.IsValid() || !r.To.Addr().Is4() || !r.Via.Is4() {
			return bad("Routes", "%v via %v is not an IPv4 route", r.To, r.Via)
		}
	}
	return nil
}
