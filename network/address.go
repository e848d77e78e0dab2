package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// PortRequest is a port to make for an instance.
type PortRequest struct {
	NetworkID  string
	ProjectID  string
	InstanceID string
	HostID     string
	Hostname   string

	// Limits are how much the guest may get and send; zero: any number.
	Limits Limits

	// Addr is the IPv4 fixed IP that the port is to have; the zero value: any that is free.
	Addr netip.Addr

	// SecurityGroups are the groups that the port is to be in, by ids or names, of the project; none: the default group.
	SecurityGroups []string
}

// Addresses allocates ports and fixed IPs, inside its callers' transactions. It remembers where it last found a free
// address, as a hint and no more: what is free is in the store. It is safe for concurrent use.
type Addresses struct {
	mu   sync.Mutex
	hint map[string]netip.Addr // by network: no address below is free, probably
}

// Allocate makes a port with one IPv4 fixed IP that is free, the lowest as far as this Addresses knows, or is [ErrNoMoreAddresses] and
// names the network. A network that the project can't see, or that is being deleted, is NotFound. The addresses that the
// network's own fields name (gateway, router, DNS servers, next hops of routes) are never given to a port. A security group that
// the project does not have is NotFound; the default group is made if there is none. An Addr of the request that is not of the subnet, or is the
// subnet's own, its broadcast address, or one that the network's fields name is InvalidArgument, and AlreadyExists one that is taken.
func (a *Addresses) Allocate(tx *state.Tx, req PortRequest) (Port, error) {
	n, err := Networks.Get(tx, req.NetworkID)
	if err != nil {
		return Port{}, err
	}
	if n.ProjectID != "" && n.ProjectID != req.ProjectID || n.Deleting {
		return Port{}, fmt.Errorf("network %q: %w", req.NetworkID, errdefs.ErrNotFound)
	}
	p := Port{ID: uuid.NewString(), NetworkID: n.ID, ProjectID: req.ProjectID, InstanceID: req.InstanceID, HostID: req.HostID,
		Hostname: req.Hostname, Limits: req.Limits, Plugged: true}
	if err := req.Limits.Validate(); err != nil {
		return Port{}, err
	}
	for other := range Ports.From(tx.Unguarded(), p.ID[:tapDigits]) {
		if other.TapName() != p.TapName() {
			break
		}
		p.ID = uuid.NewString() // one chance in 2^47 for two ports
	}
	if p.SecurityGroups, err = groupsFor(tx, req.ProjectID, req.SecurityGroups); err != nil {
		return Port{}, err
	}
	addr := req.Addr
	if addr.IsValid() { // before the node's own address may be chosen, which can be any other
		if err := n.checkFixedIP(tx, addr); err != nil {
			return Port{}, err
		}
		if err := FixedIPs.Insert(tx, FixedIP{NetworkID: n.ID, Addr: addr, PortID: p.ID, Since: time.Now().UTC()}); err != nil {
			return Port{}, err
		}
	}
	if err := a.gateway(tx, n, req.HostID); err != nil {
		return Port{}, err
	}
	if !addr.IsValid() {
		if addr, err = a.free(tx, n); err != nil {
			return Port{}, err
		}
		if err := FixedIPs.Insert(tx, FixedIP{NetworkID: n.ID, Addr: addr, PortID: p.ID, Since: time.Now().UTC()}); err != nil {
			return Port{}, err
		}
	}
	for {
		p.MAC = randomMAC()
		p.Addrs = []netip.Addr{addr}
		if n.CIDRv6.IsValid() {
			p.Addrs = append(p.Addrs, slaac(n.CIDRv6, p.HardwareAddr()))
		}
		err := Ports.Insert(tx, p)
		if errors.Is(err, errdefs.ErrAlreadyExists) {
			continue
		}
		for _, own := range p.Addrs[1:] {
			err = errors.Join(err, FixedIPs.Insert(tx, FixedIP{NetworkID: n.ID, Addr: own, PortID: p.ID, Since: time.Now().UTC()}))
		}
		return p, err
	}
}

// slaac returns the address that a guest makes of a /64 and its hardware address (RFC 4862 §5.5.3, with the modified EUI-64
// of RFC 4291 appendix A). It is the port's fixed IP: one made at random (RFC 8981) does not pass the port's filter.
func slaac(prefix netip.Prefix, mac net.HardwareAddr) netip.Addr {
	a := prefix.Masked().Addr().As16()
	copy(a[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(a)
}

// Release gives the port and its fixed IPs back, and with the last port of a network that was allotted from a [Range] the network. One
// that does not exist is success.
func (a *Addresses) Release(tx *state.Tx, portID string) error {
	p, err := Ports.Get(tx, portID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := dropFloating(tx, p.ID); err != nil {
		return err
	}
	for f := range FixedIPs.By(tx, "port", p.ID) { // those too that were withdrawn and not freed
		if err := FixedIPs.Delete(tx, fixedIPKey(f.NetworkID, f.Addr)); err != nil {
			return err
		}
		a.freed(f.NetworkID, f.Addr)
	}
	if err := Ports.Delete(tx, portID); err != nil {
		return err
	}
	return a.last(tx, p)
}

// freed notes that an address may be free now.
func (a *Addresses) freed(networkID string, addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if hint, ok := a.hint[networkID]; ok && addr.Less(hint) {
		a.hint[networkID] = addr
	}
}

// gateway gives the node an address of its own on a network with MultiHost, unless it has one.
func (a *Addresses) gateway(tx *state.Tx, n Network, hostID string) error {
	if !n.MultiHost {
		return nil
	}
	if _, err := FixedIPs.One(tx, "gateway", onHost(n.ID, hostID)); !errdefs.IsNotFound(err) {
		return err
	}
	addr, err := a.free(tx, n)
	if err != nil {
		return err
	}
	return FixedIPs.Insert(tx, FixedIP{NetworkID: n.ID, Addr: addr, HostID: hostID, Since: time.Now().UTC()})
}

// last removes what went with the port p if it was the last: the address of its node, and a network that was allotted from a range.
func (a *Addresses) last(tx *state.Tx, p Port) error {
	n, err := Networks.Get(tx, p.NetworkID)
	if err != nil {
		return err
	}
	if n.MultiHost && HostPorts.Get(tx, onHost(n.ID, p.HostID)).N == 0 {
		f, err := FixedIPs.One(tx, "gateway", onHost(n.ID, p.HostID))
		if err == nil {
			err = FixedIPs.Delete(tx, fixedIPKey(n.ID, f.Addr))
			a.freed(n.ID, f.Addr)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if n.RangeID != "" && NetworkPorts.Get(tx, n.ID).N == 0 {
		return Networks.Delete(tx, n.ID)
	}
	return nil
}

// Unplug marks the port as one whose tap is to go, in the transaction that decides so: [Agent.Unplug], called after it, removes
// the tap. Its fixed IPs stay its own until [Addresses.Release]. A port that does not exist, or is unplugged already, is
// success.
func (a *Addresses) Unplug(tx *state.Tx, portID string) error {
	p, err := Ports.Get(tx, portID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil || !p.Plugged {
		return err
	}
	p.Plugged = false
	return Ports.Put(tx, p)
}

// Extend has the node that an instance is moving to have the port's tap too, in the transaction that decides so: [Agent.Plug] of that node, called
// after it, makes the tap. Whoever extends then calls [Addresses.Settle]. A port of a network with MultiHost is FailedPrecondition:
// its guest routes through an address of the node that it is on.
func (a *Addresses) Extend(tx *state.Tx, portID, hostID string) error {
	p, err := Ports.Get(tx, portID)
	if err != nil {
		return err
	}
	n, err := Networks.Get(tx, p.NetworkID)
	if err != nil {
		return err
	}
	if err := n.Movable(); err != nil {
		return err
	}
	p.NextHostID = hostID
	return Ports.Put(tx, p)
}

// Movable returns why guests with a port on the network can't move to another node while they run, as a FailedPrecondition; nil if they can.
func (n Network) Movable() error {
	if n.MultiHost {
		return fmt.Errorf("network %q has a gateway on each node, and its guests route through that of the node that they are on: %w", n.Name,
			errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Settle ends what [Addresses.Extend] began: the port is on one of the two nodes alone, and the tap of the other is to go, by that node's
// [Agent.Unplug]. A port that does not exist is success.
func (a *Addresses) Settle(tx *state.Tx, portID, hostID string) error {
	p, err := Ports.Get(tx, portID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	p.HostID, p.NextHostID = hostID, ""
	return Ports.Put(tx, p)
}

// free finds the lowest free address that a port of n may have. Which others are taken is no reason for the choice, so they
// are not guarded; that this one is free is guarded when its record is inserted.
func (a *Addresses) free(tx *state.Tx, n Network) (netip.Addr, error) {
	first, last := n.pool()
	a.mu.Lock()
	start, ok := a.hint[n.ID]
	a.mu.Unlock()
	if !ok || start.Less(first) || last.Less(start) {
		start = first
	}
	r := tx.Unguarded()
	reserved := n.reserved()
	search := func(from, to netip.Addr) (netip.Addr, bool) {
		for addr := from; !to.Less(addr); addr = addr.Next() {
			if !reserved[addr] && !FixedIPs.Has(r, fixedIPKey(n.ID, addr)) {
				return addr, true
			}
		}
		return netip.Addr{}, false
	}
	addr, found := search(start, last)
	if !found && start != first {
		addr, found = search(first, start.Prev())
	}
	if !found {
		return addr, fmt.Errorf("network %q, %v: %w", n.Name, n.CIDR, ErrNoMoreAddresses)
	}
	a.mu.Lock()
	if a.hint == nil {
		a.hint = map[string]netip.Addr{}
	}
	a.hint[n.ID] = addr.Next()
	a.mu.Unlock()
	return addr, nil
}

// reserved returns the addresses of others that the network speaks of.
func (n Network) reserved() map[netip.Addr]bool {
	all := map[netip.Addr]bool{n.Gateway: true, n.Router: true}
	for _, a := range n.DNS {
		all[a] = true
	}
	for _, r := range n.Routes {
		all[r.Via] = true
	}
	return all
}

// pool returns the first and last address that ports may have: neither the network's own nor the broadcast address.
func (n Network) pool() (first, last netip.Addr) {
	return n.CIDR.Masked().Addr().Next(), broadcast(n.CIDR).Prev()
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

func prefixOf(addr netip.Addr, subnet netip.Prefix) netip.Prefix {
	if !addr.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr, subnet.Bits())
}

// randomMAC returns a locally administered unicast address (IEEE 802-2014 §8.4) in the range that virtual machines of QEMU
// use by habit.
func randomMAC() string {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0}
	_, _ = rand.Read(mac[3:]) // never fails (crypto/rand)
	return mac.String()
}
