package network

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Range is what projects get networks of their own from: the n-th of its VLANs goes with the n-th of its subnets. A project's first
// instance that asks for no network gets the project one, and its last port gives it back ([Addresses.ProjectNetwork]).
type Range struct {
	ID   string
	Name string // unique

	First, Last int          // ids of the VLANs, 1 to 4094; of this range alone
	CIDR        netip.Prefix // IPv4, divided into subnets; of this range alone
	Bits        int          // length of the prefix of each subnet, at most 29; by default 24
	CIDRv6      netip.Prefix // IPv6, at most a /64, divided into subnets of /64; invalid: no IPv6

	Uplink string // physical interface that carries the VLANs, on every node

	// What the networks get, as in [Network]: one of NodeID and MultiHost is required.
	NodeID    string
	MultiHost bool
	Route6    bool // CIDRv6 is then of this range alone
	DNS       []netip.Addr
	Domain    string
	Lease     time.Duration
	MTU       int

	Created time.Time
}

// Clone returns a copy that shares nothing.
func (r Range) Clone() Range {
	r.DNS = slices.Clone(r.DNS)
	return r
}

// numbering is one record that everyone changes who makes a network or range: VLANs and subnets are compared with all others, and no
// two may do that at once.
type numbering struct {
	ID      string
	Version int
}

const numberingID = "vlans-and-subnets"

// Ranges are the ranges for networks of projects.
var Ranges = state.NewTable("network-range", func(r Range) string { return r.ID },
	state.Unique("name", func(r Range) []string { return []string{r.Name} }))

var numberings = state.NewTable("network-numbering", func(n numbering) string { return n.ID })

// alone makes the transaction the only one that compares VLANs and subnets.
func alone(tx *state.Tx) error {
	n, err := numberings.Get(tx, numberingID)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return numberings.Put(tx, numbering{numberingID, n.Version + 1})
}

// numbers refuses a VLAN or subnet that is another's.
func (n Network) numbers(tx *state.Tx) error {
	if err := alone(tx); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("network: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if n.VLAN != 0 {
		if other, err := Networks.One(tx, "vlan", strconv.Itoa(n.VLAN)); err == nil {
			return bad("VLAN %d belongs to network %q already", n.VLAN, other.Name)
		}
	}
	for r := range Ranges.All(tx) {
		if n.VLAN >= r.First && n.VLAN <= r.Last {
			return bad("VLAN %d belongs to range %q, %d to %d", n.VLAN, r.Name, r.First, r.Last)
		}
		if n.routed() && n.CIDR.Overlaps(r.CIDR) {
			return bad("CIDR %v overlaps %v of range %q", n.CIDR, r.CIDR, r.Name)
		}
		if n.Route6 && r.Route6 && n.CIDRv6.Overlaps(r.CIDRv6) {
			return bad("CIDRv6 %v overlaps %v of range %q", n.CIDRv6, r.CIDRv6, r.Name)
		}
	}
	if !n.routed() {
		return nil
	}
	for other := range Networks.All(tx.Unguarded()) {
		if other.routed() && n.CIDR.Overlaps(other.CIDR) {
			return bad("CIDR %v overlaps %v of network %q, and nodes are gateways of both", n.CIDR, other.CIDR, other.Name)
		}
		if n.Route6 && other.Route6 && n.CIDRv6 == other.CIDRv6 {
			return bad("CIDRv6 %v belongs to network %q already, and nodes are gateways of both", n.CIDRv6, other.Name)
		}
	}
	return nil
}

// CreateRange makes a range from r: its Name, VLANs, CIDR, Uplink and one of NodeID and MultiHost are required, ID and Created are set
// here. VLANs and subnets that a network or another range has are InvalidArgument, a name that another range has is AlreadyExists.
func (s *Service) CreateRange(ctx context.Context, r Range) (Range, error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "network:range:create", ""); err != nil {
		return Range{}, err
	}
	r = r.Clone()
	r.ID, r.Created = uuid.NewString(), time.Now().UTC()
	r.CIDR, r.CIDRv6 = r.CIDR.Masked(), r.CIDRv6.Masked()
	r.Bits = cmp.Or(r.Bits, 24)
	if err := r.validate(); err != nil {
		return Range{}, err
	}
	err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if err := r.numbers(tx); err != nil {
			return err
		}
		return Ranges.Insert(tx, r)
	})
	if err != nil {
		return Range{}, err
	}
	return r, nil
}

// ListRanges returns all ranges, sorted by name.
func (s *Service) ListRanges(ctx context.Context) (all []Range, err error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "network:range:list", ""); err != nil {
		return nil, err
	}
	err = s.cfg.Store.View(func(v *state.View) error { all = ranges(v); return nil })
	return all, err
}

// DeleteRange removes a range by id: no more networks are allotted from it. Those that were stay until their last port goes.
func (s *Service) DeleteRange(ctx context.Context, id string) error {
	if _, err := s.cfg.Policy.Authorize(ctx, "network:range:delete", ""); err != nil {
		return err
	}
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if err := alone(tx); err != nil {
			return err
		}
		return Ranges.Delete(tx, id)
	})
}

func ranges(r state.Reader) []Range {
	all := slices.Collect(Ranges.All(r))
	slices.SortFunc(all, func(a, b Range) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// validate returns what is wrong with the range by itself, naming the field and its limit.
func (r Range) validate() error {
	bad := func(field, format string, args ...any) error {
		return fmt.Errorf("network: %s %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	switch {
	case r.First < 1 || r.First > MaxVLAN:
		return bad("First", "%d must be between 1 and %d", r.First, MaxVLAN)
	case r.Last < r.First || r.Last > MaxVLAN:
		return bad("Last", "%d must be between First, %d, and %d", r.Last, r.First, MaxVLAN)
	case !r.CIDR.IsValid() || !r.CIDR.Addr().Is4():
		return bad("CIDR", "%v is not an IPv4 subnet", r.CIDR)
	case r.Bits < r.CIDR.Bits() || r.Bits > 29:
		return bad("Bits", "%d must be between %d, of CIDR, and 29", r.Bits, r.CIDR.Bits())
	case r.Last-r.First >= 1<<(r.Bits-r.CIDR.Bits()):
		return bad("CIDR", "%v has %d subnets of /%d, fewer than the %d VLANs from %d to %d", r.CIDR, 1<<(r.Bits-r.CIDR.Bits()), r.Bits,
			r.Last-r.First+1, r.First, r.Last)
	case r.CIDRv6.IsValid() && (!r.CIDRv6.Addr().Is6() || r.CIDRv6.Bits() > 64):
		return bad("CIDRv6", "%v is not an IPv6 prefix of at most 64 bits", r.CIDRv6)
	case r.CIDRv6.IsValid() && r.CIDRv6.Bits() > 52 && r.Last-r.First >= 1<<(64-r.CIDRv6.Bits()): // 4,094 VLANs fit into 12 bits
		return bad("CIDRv6", "%v has %d subnets of /64, fewer than the %d VLANs from %d to %d", r.CIDRv6, 1<<(64-r.CIDRv6.Bits()),
			r.Last-r.First+1, r.First, r.Last)
	case r.NodeID == "" && !r.MultiHost:
		return bad("NodeID", "must name the node that is gateway, or MultiHost be set")
	}
	// All else is the networks' as it is.
	return r.network(r.First, "validation").validate()
}

// network is the one of a VLAN of the range.
func (r Range) network(vlan int, projectID string) Network {
	name := r.Name + " " + strconv.Itoa(vlan)
	if r.Name == "" {
		name = ""
	}
	return Network{
		ID: uuid.NewString(), Name: name, Mode: VLAN, ProjectID: projectID, RangeID: r.ID, CIDR: r.subnet(vlan - r.First), CIDRv6: r.subnet6(vlan - r.First),
		VLAN: vlan, Uplink: r.Uplink, NodeID: r.NodeID, MultiHost: r.MultiHost, Route6: r.Route6, DNS: r.DNS, Domain: r.Domain, Lease: r.Lease, MTU: r.MTU,
		Created: time.Now().UTC(),
	}.Clone().withDefaults()
}

// subnet returns the n-th of the range, from 0.
func (r Range) subnet(n int) netip.Prefix {
	a := r.CIDR.Masked().Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(n)<<(32-r.Bits))
	return netip.PrefixFrom(netip.AddrFrom4(a), r.Bits)
}

// subnet6 returns the n-th /64 of the range, from 0.
func (r Range) subnet6(n int) netip.Prefix {
	if !r.CIDRv6.IsValid() {
		return netip.Prefix{}
	}
	a := r.CIDRv6.Masked().Addr().As16()
	binary.BigEndian.PutUint64(a[:8], binary.BigEndian.Uint64(a[:8])+uint64(n))
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// numbers refuses VLANs and subnets that are another's.
func (r Range) numbers(tx *state.Tx) error {
	if err := alone(tx); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("network: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	for other := range Ranges.All(tx) {
		if r.First <= other.Last && other.First <= r.Last {
			return bad("First and Last: VLANs %d to %d overlap %d to %d of range %q", r.First, r.Last, other.First, other.Last, other.Name)
		}
		if r.CIDR.Overlaps(other.CIDR) {
			return bad("CIDR %v overlaps %v of range %q", r.CIDR, other.CIDR, other.Name)
		}
		if r.Route6 && other.Route6 && r.CIDRv6.Overlaps(other.CIDRv6) {
			return bad("CIDRv6 %v overlaps %v of range %q", r.CIDRv6, other.CIDRv6, other.Name)
		}
	}
	for n := range Networks.All(tx.Unguarded()) {
		if n.VLAN >= r.First && n.VLAN <= r.Last {
			return bad("First and Last: VLAN %d belongs to network %q", n.VLAN, n.Name)
		}
		if n.routed() && r.CIDR.Overlaps(n.CIDR) {
			return bad("CIDR %v overlaps %v of network %q", r.CIDR, n.CIDR, n.Name)
		}
		if r.Route6 && n.Route6 && r.CIDRv6.Overlaps(n.CIDRv6) {
			return bad("CIDRv6 %v overlaps %v of network %q", r.CIDRv6, n.CIDRv6, n.Name)
		}
	}
	return nil
}

// ErrNoMoreNetworks is that all VLANs of the ranges are taken.
var ErrNoMoreNetworks = fmt.Errorf("no more VLANs: %w", errdefs.ErrResourceExhausted)

// ProjectNetwork returns the network that a project's instances get that ask for none, in a cloud with ranges: the one that is the
// project's own, or one that is allotted now, or [ErrNoMoreNetworks]. It belongs to the transaction that allocates a port on it:
// with the last port it goes. A project with several networks of its own is InvalidArgument: it must name one. In a cloud
// without ranges found is false.
func (a *Addresses) ProjectNetwork(tx *state.Tx, projectID string) (n Network, found bool, err error) {
	all := ranges(tx)
	if len(all) == 0 {
		return n, false, nil
	}
	if n, err := Networks.One(tx, "allotted", projectID); err == nil && !n.Deleting {
		return n, true, nil
	}
	var own []Network
	for n := range Networks.All(tx.Unguarded()) {
		if n.ProjectID == projectID && !n.Deleting {
			own = append(own, n)
		}
	}
	switch len(own) {
	case 0:
		n, err = a.allot(tx, all, projectID)
		return n, err == nil, err
	case 1:
		return own[0], true, nil
	}
	return n, false, fmt.Errorf("network: the project has %d networks, and must name one: %w", len(own), errdefs.ErrInvalidArgument)
}

// allot makes the project's network of the first VLAN that is free. That it is free is guarded when its record is inserted.
func (a *Addresses) allot(tx *state.Tx, all []Range, projectID string) (Network, error) {
	for _, r := range all {
		for vlan := r.First; vlan <= r.Last; vlan++ {
			if _, err := Networks.One(tx.Unguarded(), "vlan", strconv.Itoa(vlan)); err == nil {
				continue
			}
			n := r.network(vlan, projectID)
			return n, Networks.Insert(tx, n)
		}
	}
	return Network{}, fmt.Errorf("network: %d ranges: %w", len(all), ErrNoMoreNetworks)
}
