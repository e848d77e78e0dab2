package dhcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// hardware is an Ethernet address.
type hardware [6]byte

// bridge is what the server says on a bridge, in the form it is sent in.
type bridge struct {
	def     network.Bridge
	answers bool // the node has an address on it, and answers
	server  [4]byte
	lease   time.Duration
	largest int // how long a reply may be, with its IP header

	required []byte         // in each reply that grants an address
	identify []byte         // in every reply
	optional map[int][]byte // by code
	standard []int          // what a client gets that asks for nothing

	clients map[hardware]*port
	addrs   map[[4]byte]*port
}

// port is a client that is answered.
type port struct {
	tap      network.Tap
	mac      hardware
	addr     [4]byte
	known    bool // has an address to be given
	hostname []byte
	waiting  atomic.Bool // an answer of its own is in the queue

	second int64 // the last in which it said something; this and said are the bridge's goroutine's
	said   int   // how often in that second
}

// perSecond is how many messages of one client are looked at in a second: far more than any client has reason to send, and few
// enough that one that sends all it can leaves time for the others.
const perSecond = 200

// tooMuch counts a message, and tells whether the client has said enough in this second.
func (p *port) tooMuch(second int64) bool {
	if p.second != second {
		p.second, p.said = second, 0
	}
	p.said++
	return p.said > perSecond
}

func newBridge(def network.Bridge) (*bridge, error) {
	b := &bridge{def: def, lease: def.Lease, optional: map[int][]byte{}, clients: map[hardware]*port{}, addrs: map[[4]byte]*port{}}
	switch {
	case def.Name == "":
		return nil, fmt.Errorf("dhcp: a bridge's Name is empty: %w", errdefs.ErrInvalidArgument)
	case def.Lease < 0 || def.Lease > 1<<31*time.Second:
		return nil, fmt.Errorf("dhcp: Lease of bridge %q is %v, must be between 0 and 2^31 s: %w", def.Name, def.Lease, errdefs.ErrInvalidArgument)
	}
	b.def.DNS, b.def.Routes = slices.Clone(def.DNS), slices.Clone(def.Routes)
	if b.lease == 0 {
		b.lease = 24 * time.Hour
	}
	mtu := def.MTU
	if mtu == 0 {
		mtu = 1500
	}
	b.largest = max(minMessage, min(mtu, maxReply))
	b.answers = !def.NoServer && def.Gateway.IsValid() && def.Gateway.Addr().Is4()
	if !b.answers {
		return b, nil
	}
	b.server = def.Gateway.Addr().As4()
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-def.Gateway.Bits()))
	if def.Gateway.Bits() == 0 {
		mask = []byte{0, 0, 0, 0}
	}
	seconds := func(d time.Duration) []byte { return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second)) }
	b.identify = option(nil, optServerID, b.server[:])
	b.required = option(b.required, optLease, seconds(b.lease))
	b.required = option(b.required, optT1, seconds(b.lease/2))   // RFC 2131 §4.4.5
	b.required = option(b.required, optT2, seconds(b.lease*7/8)) // the same
	b.required = option(b.required, optMask, mask)               // before the router (RFC 2132 §3.3)
	b.optional[optMask] = option(nil, optMask, mask)

	say := func(code int, value []byte) {
		if len(value) > 0 {
			b.optional[code] = option(nil, code, value)
			b.standard = append(b.standard, code)
		}
	}
	say(optRoutes, b.routes())
	if def.Router.Is4() {
		say(optRouter, def.Router.AsSlice())
	}
	var dns []byte
	for _, a := range def.DNS {
		if a.Is4() {
			dns = append(dns, a.AsSlice()...)
		}
	}
	say(optDNS, dns)
	say(optDomain, []byte(def.Domain))
	broadcast := [4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b.server[:])|^binary.BigEndian.Uint32(mask)))
	say(optBroadcast, broadcast[:])
	say(optMTU, binary.BigEndian.AppendUint16(nil, uint16(min(mtu, 65535))))
	b.standard = append(b.standard, optHostname)
	return b, nil
}

// routes is option 121: the routes and, as a client that gets it must ignore the router option, the default route.
func (b *bridge) routes() (value []byte) {
	if len(b.def.Routes) == 0 {
		return nil
	}
	add := func(to netip.Prefix, via netip.Addr) {
		if to.Addr().Is4() && via.Is4() {
			addr := to.Masked().Addr().As4()
			value = append(value, byte(to.Bits()))
			value = append(value, addr[:(to.Bits()+7)/8]...)
			value = append(value, via.AsSlice()...)
		}
	}
	hasDefault := false
	for _, r := range b.def.Routes {
		hasDefault = hasDefault || r.To.IsValid() && r.To.Bits() == 0
		add(r.To, r.Via)
	}
	if b.def.Router.Is4() && !hasDefault {
		add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), b.def.Router)
	}
	return value
}

func (b *bridge) same(def network.Bridge) bool {
	def.DNS, def.Routes = slices.Clone(def.DNS), slices.Clone(def.Routes)
	return reflect.DeepEqual(b.def, def)
}

func newPort(b *bridge, t network.Tap) (*port, error) {
	switch {
	case t.Name == "" || len(t.Name) > maxTap:
		return nil, fmt.Errorf("dhcp: tap %q must have a Name of 1 to %d bytes: %w", t.Name, maxTap, errdefs.ErrInvalidArgument)
	case len(t.MAC) != 6:
		return nil, fmt.Errorf("dhcp: MAC of tap %q has %d bytes, must have 6: %w", t.Name, len(t.MAC), errdefs.ErrInvalidArgument)
	}
	t.MAC, t.IPs = slices.Clone(t.MAC), slices.Clone(t.IPs)
	p := &port{tap: t, mac: hardware(t.MAC)}
	for _, a := range t.IPs {
		if a.Is4() && b.def.Gateway.IsValid() && b.def.Gateway.Contains(a) {
			p.addr, p.known = a.As4(), true
			break
		}
	}
	if validHostname(t.Hostname) {
		p.hostname = option(nil, optHostname, []byte(t.Hostname))
	}
	return p, nil
}

// validHostname tells whether a client can be given this name (RFC 2132 §3.14): those that would run it in a shell, as
// some have done, get none.
func validHostname(name string) bool {
	if name == "" || len(name) > 253 || name[0] == '-' || name[0] == '.' {
		return false
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

func (p *port) same(q *port) bool {
	return p.known == q.known && p.addr == q.addr && reflect.DeepEqual(p.tap, q.tap)
}

// free tells whether p's hardware address and fixed IP are nobody else's.
func (b *bridge) free(p *port) error {
	if q := b.clients[p.mac]; q != nil && q.tap.Name != p.tap.Name {
		return fmt.Errorf("dhcp: MAC %v of tap %q is tap %q's already: %w", p.tap.MAC, p.tap.Name, q.tap.Name, errdefs.ErrInvalidArgument)
	}
	if q := b.addrs[p.addr]; p.known && q != nil && q.tap.Name != p.tap.Name {
		return fmt.Errorf("dhcp: address %v of tap %q is tap %q's already: %w", netip.AddrFrom4(p.addr), p.tap.Name, q.tap.Name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// adopt makes the clients of an earlier form of the bridge, all but one, clients of this one.
func (b *bridge) adopt(earlier *bridge, but string) error {
	for _, old := range earlier.clients {
		if old.tap.Name == but {
			continue
		}
		p, err := newPort(b, old.tap)
		if err != nil {
			return err
		}
		if old.same(p) {
			p = old
		}
		if err := b.add(p); err != nil {
			return err
		}
	}
	return nil
}

func (b *bridge) add(p *port) error {
	if err := b.free(p); err != nil {
		return err
	}
	b.clients[p.mac] = p
	if p.known {
		b.addrs[p.addr] = p
	}
	return nil
}

func (b *bridge) remove(p *port) {
	if q := b.clients[p.mac]; q != nil && q.tap.Name == p.tap.Name {
		delete(b.clients, p.mac)
	}
	if q := b.addrs[p.addr]; q != nil && q.tap.Name == p.tap.Name {
		delete(b.addrs, p.addr)
	}
}
