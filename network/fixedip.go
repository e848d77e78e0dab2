package network

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// MaxFixedIPs is how many IPv4 fixed IPs a port may have.
const MaxFixedIPs = 8

// checkFixedIP returns why a port of n can't have the IPv4 address addr, which somebody asked for: InvalidArgument if none ever can,
// AlreadyExists if it is taken now. That it is free stays true until tx is committed.
func (n Network) checkFixedIP(tx *state.Tx, addr netip.Addr) error {
	first, last := n.pool()
	switch {
	case !addr.Is4() || !n.CIDR.Contains(addr):
		return fmt.Errorf("fixed IP %v is not an address of %v, the subnet of network %q: %w", addr, n.CIDR, n.Name, errdefs.ErrInvalidArgument)
	case addr.Less(first) || last.Less(addr):
		return fmt.Errorf("fixed IP %v is that of the subnet or its broadcasts, must be %v to %v in network %q: %w", addr, first, last, n.Name,
			errdefs.ErrInvalidArgument)
	case n.reserved()[addr]:
		return fmt.Errorf("fixed IP %v is reserved: network %q has it as gateway, router, DNS server or next hop: %w", addr, n.Name,
			errdefs.ErrInvalidArgument)
	case FixedIPs.Has(tx, fixedIPKey(n.ID, addr)):
		return fmt.Errorf("fixed IP %v of network %q is taken: %w", addr, n.Name, errdefs.ErrAlreadyExists)
	}
	return nil
}

// AddFixedIP gives a port another IPv4 address of its network, behind those that it has: addr, or where that is the zero value the
// lowest that is free. The node has it in force when it plugs the port again ([Agent.Plug]). What the port can't have is
// refused as by [Addresses.Allocate]; one address more than [MaxFixedIPs] is ResourceExhausted.
func (a *Addresses) AddFixedIP(tx *state.Tx, portID string, addr netip.Addr) (netip.Addr, error) {
	p, err := Ports.Get(tx, portID)
	if err != nil {
		return addr, err
	}
	n, err := Networks.Get(tx, p.NetworkID)
	if err != nil {
		return addr, err
	}
	if has := len(p.ipv4()); has >= MaxFixedIPs {
		return addr, fmt.Errorf("port %s has %d IPv4 fixed IPs, at most %d are possible: %w", p.ID, has, MaxFixedIPs, errdefs.ErrResourceExhausted)
	}
	if addr.IsValid() {
		err = n.checkFixedIP(tx, addr)
	} else {
		addr, err = a.free(tx, n)
	}
	if err != nil {
		return addr, err
	}
	p.Addrs = append(slices.Clip(p.Addrs), addr)
	if err := FixedIPs.Insert(tx, FixedIP{NetworkID: n.ID, Addr: addr, PortID: p.ID, Since: time.Now().UTC()}); err != nil {
		return addr, err
	}
	return addr, Ports.Put(tx, p)
}

// WithdrawFixedIP takes an IPv4 address from a port, which is without when its node plugs it again. Nobody else gets the address
// before [Addresses.FreeFixedIP], so that no two guests have it at once. A floating IP that stands for it leads nowhere
// then. One that the port does not have is NotFound; its only IPv4 address is FailedPrecondition.
func (a *Addresses) WithdrawFixedIP(tx *state.Tx, portID string, addr netip.Addr) error {
	p, err := Ports.Get(tx, portID)
	if err != nil {
		return err
	}
	four := p.ipv4()
	if !slices.Contains(four, addr) {
		return fmt.Errorf("fixed IP %v: port %s has %v: %w", addr, p.ID, four, errdefs.ErrNotFound)
	}
	if len(four) == 1 {
		return fmt.Errorf("fixed IP %v is the only one of port %s: %w", addr, p.ID, errdefs.ErrFailedPrecondition)
	}
	f, err := FloatingIPs.One(tx, "fixed", p.ID+"/"+addr.String())
	if err == nil {
		f.PortID, f.Fixed = "", netip.Addr{}
		err = FloatingIPs.Put(tx, f)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	p.Addrs = slices.DeleteFunc(slices.Clone(p.Addrs), func(own netip.Addr) bool { return own == addr })
	return Ports.Put(tx, p)
}

// RestoreFixedIP gives a port an address back that was withdrawn and not freed. A port that has it, or is gone, is success.
func (a *Addresses) RestoreFixedIP(tx *state.Tx, portID string, addr netip.Addr) error {
	p, err := Ports.Get(tx, portID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil || slices.Contains(p.Addrs, addr) {
		return err
	}
	f, err := FixedIPs.Get(tx, fixedIPKey(p.NetworkID, addr))
	if err != nil || f.PortID != p.ID {
		return fmt.Errorf("fixed IP %v is not port %s's any more: %w", addr, p.ID, errdefs.ErrFailedPrecondition)
	}
	p.Addrs = append(slices.Clip(p.Addrs), addr)
	return Ports.Put(tx, p)
}

// FreeFixedIP makes an address that was withdrawn from a port free for all. One that is free, or is another port's, and a port
// that is gone are success; one that the port still has is FailedPrecondition.
func (a *Addresses) FreeFixedIP(tx *state.Tx, portID string, addr netip.Addr) error {
	p, err := Ports.Get(tx, portID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if slices.Contains(p.Addrs, addr) {
		return fmt.Errorf("fixed IP %v is still port %s's: %w", addr, p.ID, errdefs.ErrFailedPrecondition)
	}
	f, err := FixedIPs.Get(tx, fixedIPKey(p.NetworkID, addr))
	if errdefs.IsNotFound(err) || (err == nil && f.PortID != p.ID) {
		return nil
	}
	if err == nil {
		err = FixedIPs.Delete(tx, fixedIPKey(p.NetworkID, addr))
		a.freed(p.NetworkID, addr)
	}
	return err
}

// ipv4 returns the port's IPv4 addresses, in their order.
func (p Port) ipv4() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(p.Addrs), func(a netip.Addr) bool { return !a.Is4() })
}
