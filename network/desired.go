package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Limits of what a kernel takes.
const (
	DefaultMTU = 1500
	minMTU     = 576
	maxMTU     = 65521 // of a tap

	// MinMTU6 is the smallest MTU with which there is IPv6 (RFC 8200 §5).
	MinMTU6 = 1280

	// MaxVLAN is the largest id of a VLAN: 0 and 4095 are none (IEEE 802.1Q §9.6).
	MaxVLAN = 4094
)

// VLANLink returns the name of the sub-interface of the bridge's uplink for its VLAN, "" if it has none.
func (b Bridge) VLANLink() string {
	if b.VLAN == 0 {
		return ""
	}
	return fmt.Sprint("vlan", b.VLAN)
}

// Validate returns what contradicts itself in d or can't be on any node, naming the field and its limit, as an InvalidArgument.
func (d Desired) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("network: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	links := make(map[string]string, len(d.Bridges)+len(d.Taps)) // names of links, each with what it is
	bridges := make(map[string]bool, len(d.Bridges))
	vlans := map[int]string{} // each with its bridge
	type place struct {
		bridge  string
		address string
	}
	taken := make(map[place]string, 2*len(d.Taps)+len(d.Bridges))
	name := func(what, name string) error {
		if !ifaceName.MatchString(name) {
			return bad("%s name %q is not an interface name of 1 to 15 letters, digits, dots, dashes or underscores", what, name)
		}
		if other, twice := links[name]; twice {
			return bad("%s %s has the name of another %s", what, name, other)
		}
		links[name] = what
		return nil
	}
	for _, b := range d.Bridges {
		if err := name("bridge", b.Name); err != nil {
			return err
		}
		bridges[b.Name] = true
		switch {
		case b.MTU != 0 && (b.MTU < minMTU || b.MTU > maxMTU):
			return bad("bridge %s: MTU %d must be 0 or between %d and %d", b.Name, b.MTU, minMTU, maxMTU)
		case b.Prefix6.IsValid() && (b.Prefix6.Bits() != 64 || !b.Prefix6.Addr().Is6() || b.Prefix6 != b.Prefix6.Masked()):
			return bad("bridge %s: Prefix6 %v is not an IPv6 /64", b.Name, b.Prefix6)
		case b.Gateway.IsValid() && !fixed(b.Gateway.Addr()):
			return bad("bridge %s: Gateway %v is not the address of a host", b.Name, b.Gateway)
		case b.Gateway6.IsValid() && (!fixed(b.Gateway6.Addr()) || b.Gateway6.Masked() != b.Prefix6):
			return bad("bridge %s: Gateway6 %v is not a host's address of Prefix6 %v with its length", b.Name, b.Gateway6, b.Prefix6)
		case b.Gateway6.IsValid() && b.MTU != 0 && b.MTU < MinMTU6:
			return bad("bridge %s: MTU %d must be 0 or at least %d with Gateway6", b.Name, b.MTU, MinMTU6)
		case b.External && (b.Gateway.IsValid() || b.Gateway6.IsValid() || b.Uplink != "" || b.VLAN != 0 || b.MTU != 0):
			return bad("bridge %s: External, so it can have no Gateway, Gateway6, Uplink, VLAN or MTU of ours", b.Name)
		case b.VLAN < 0 || b.VLAN > MaxVLAN:
			return bad("bridge %s: VLAN %d must be between 1 and %d, or 0 for none", b.Name, b.VLAN, MaxVLAN)
		case b.VLAN != 0 && b.Uplink == "":
			return bad("bridge %s: VLAN %d needs an Uplink", b.Name, b.VLAN)
		case b.VLAN != 0 && vlans[b.VLAN] != "":
			return bad("bridge %s: VLAN %d belongs to bridge %s already", b.Name, b.VLAN, vlans[b.VLAN])
		}
		if b.VLAN != 0 {
			vlans[b.VLAN] = b.Name
		}
		if b.Gateway.IsValid() {
			taken[place{b.Name, b.Gateway.Addr().String()}] = "the gateway"
		}
		if b.Gateway6.IsValid() {
			taken[place{b.Name, b.Gateway6.Addr().String()}] = "the gateway"
		}
	}
	for _, b := range d.Bridges {
		if b.VLAN != 0 {
			if err := name("VLAN", b.VLANLink()); err != nil {
				return err
			}
		} else if b.Uplink != "" {
			if err := name("uplink", b.Uplink); err != nil {
				return err
			}
		}
	}
	for _, b := range d.Bridges { // these can be shared
		if b.VLAN != 0 && links[b.Uplink] != "uplink" {
			if err := name("uplink", b.Uplink); err != nil {
				return err
			}
		}
	}
	for _, t := range d.Taps {
		if err := name("tap", t.Name); err != nil {
			return err
		}
		switch {
		case !bridges[t.Bridge]:
			return bad("tap %s: Bridge %q is not one of the %d bridges", t.Name, t.Bridge, len(d.Bridges))
		case len(t.MAC) != 6 || t.MAC[0]&1 != 0:
			return bad("tap %s: MAC %v is not a unicast address of 6 bytes", t.Name, t.MAC)
		case len(t.Port) > maxPort || strings.ContainsFunc(t.Port, func(r rune) bool { return r <= ' ' || r > '~' }):
			return bad("tap %s: Port %q must be at most %d printable ASCII characters without spaces", t.Name, t.Port, maxPort)
		}
		if err := t.Limits.Validate(); err != nil {
			return fmt.Errorf("network: tap %s: %w", t.Name, err)
		}
		if !slices.IsSortedFunc(t.Groups, func(a, b string) int { return cmp.Or(cmp.Compare(a, b), 1) }) {
			return bad("tap %s: Groups %q must be sorted, each once", t.Name, t.Groups)
		}
		for _, id := range t.Groups {
			if !groupID.MatchString(id) || !t.Guarded {
				return bad("tap %s: Groups: %.80q is not the id of a group, or the tap is not Guarded", t.Name, id)
			}
		}
		addresses := []string{t.MAC.String()}
		for _, ip := range t.IPs {
			if !fixed(ip) {
				return bad("tap %s: IPs: %v is not the address of a host", t.Name, ip)
			}
			addresses = append(addresses, ip.String())
		}
		for _, address := range addresses {
			where := place{t.Bridge, address}
			if other, twice := taken[where]; twice {
				return bad("tap %s: %s on bridge %s belongs to %s already", t.Name, address, t.Bridge, other)
			}
			taken[where] = "tap " + t.Name
		}
	}
	if err := ValidateFloating(d.Floating); err != nil {
		return err
	}
	return ValidateGroups(d.Groups)
}

// ValidateFloating returns what is wrong with floating addresses by themselves, naming the field, as an InvalidArgument.
func ValidateFloating(fs []Floating) error {
	seen := make(map[netip.Addr]bool, 2*len(fs))
	for _, f := range fs {
		for _, a := range []netip.Addr{f.Addr, f.Fixed} {
			if !fixed(a) || !a.Is4() || seen[a] {
				return fmt.Errorf("network: floating %v: %v is not the IPv4 address of a host, or is there twice: %w", f.Addr, a, errdefs.ErrInvalidArgument)
			}
			seen[a] = true
		}
		if !ifaceName.MatchString(f.Link) {
			return fmt.Errorf("network: floating %v: Link %q is not an interface name: %w", f.Addr, f.Link, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// ValidateGroups returns what is wrong with groups by themselves, naming the field and its limit, as an InvalidArgument.
func ValidateGroups(gs []Group) error {
	ids := make(map[string]bool, len(gs))
	for _, g := range gs {
		switch {
		case !groupID.MatchString(g.ID):
			return fmt.Errorf("network: group: ID %.80q must be 1 to 64 letters, digits and dashes: %w", g.ID, errdefs.ErrInvalidArgument)
		case ids[g.ID]:
			return fmt.Errorf("network: group %s: is there twice: %w", g.ID, errdefs.ErrInvalidArgument)
		}
		ids[g.ID] = true
		rules := make(map[Rule]bool, len(g.Rules))
		for _, r := range g.Rules {
			if err := r.Validate(); err != nil {
				return fmt.Errorf("network: group %s: rule %q: %w", g.ID, r, err)
			}
			if rules[r.normal()] {
				return fmt.Errorf("network: group %s: rule %q is there twice: %w", g.ID, r, errdefs.ErrInvalidArgument)
			}
			rules[r.normal()] = true
		}
		members := make(map[netip.Addr]bool, len(g.Members))
		for _, a := range g.Members {
			if !fixed(a) || members[a] {
				return fmt.Errorf("network: group %s: Members: %v is not the address of a host, or is there twice: %w", g.ID, a, errdefs.ErrInvalidArgument)
			}
			members[a] = true
		}
	}
	return nil
}

// maxPort is how long the id of a port may be: the mark of a link, where it is kept, has 255 bytes.
const maxPort = 64

// fixed tells whether a may be the address of one host.
func fixed(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a.Zone() == ""
}

// Clone returns a copy that shares nothing.
func (d Desired) Clone() Desired {
	c := Desired{Bridges: append([]Bridge(nil), d.Bridges...), Taps: append([]Tap(nil), d.Taps...),
		Groups: append([]Group(nil), d.Groups...), Floating: append([]Floating(nil), d.Floating...)}
	for i, b := range c.Bridges {
		c.Bridges[i].DNS, c.Bridges[i].Routes = append([]netip.Addr(nil), b.DNS...), append([]Route(nil), b.Routes...)
	}
	for i, t := range c.Taps {
		c.Taps[i].Groups = append([]string(nil), t.Groups...)
		c.Taps[i].MAC, c.Taps[i].IPs = append([]byte(nil), t.MAC...), append([]netip.Addr(nil), t.IPs...)
	}
	for i, g := range c.Groups {
		c.Groups[i].Rules, c.Groups[i].Members = append([]Rule(nil), g.Rules...), append([]netip.Addr(nil), g.Members...)
	}
	return c
}
