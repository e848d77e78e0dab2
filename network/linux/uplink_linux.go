package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// take makes the uplink a port of the bridge and moves its addresses and routes there. Each is added to the bridge before it is
// taken from the uplink, so that whatever breaks in between, nothing is lost, and doing it again completes it.
func (c *call) take(ctx context.Context, bridge, uplink *nic, has addresses, mtu int) error {
	for _, a := range has {
		if err := c.copyAddress(ctx, bridge, a); err != nil {
			return fmt.Errorf("address %v of %s: %w", a.prefix, uplink.name, err)
		}
	}
	if uplink.master != bridge.index || !uplink.up {
		if err := c.change(ctx, linkChange{index: uplink.index, master: &bridge.index, up: true}); err != nil {
			return fmt.Errorf("uplink %s: %w", uplink.name, err)
		}
		// A bridge whose MTU nobody set follows its ports.
		if err := c.change(ctx, linkChange{index: bridge.index, mtu: mtu}); err != nil {
			return err
		}
		c.changed("bridge %s: uplink %s joined", bridge.name, uplink.name)
	}
	if len(has) == 0 {
		return nil
	}
	if err := c.moveRoutes(ctx, uplink, bridge, nil); err != nil {
		return err
	}
	for _, a := range has {
		if err := c.removeAddress(ctx, uplink, a); err != nil {
			return fmt.Errorf("address %v of %s: %w", a.prefix, uplink.name, err)
		}
		c.changed("bridge %s: address %v moved from %s", bridge.name, a.prefix, uplink.name)
	}
	return nil
}

// release does the opposite: the bridge's addresses and routes, but for the gateways, go back to the uplink that its mark names. One
// that the node no longer has took its network with it.
func (c *call) release(ctx context.Context, bridge *nic, links map[string]*nic) error {
	said := parseBridgeMark(bridge.alias)
	uplink := links[said.uplink]
	if said.uplink == "" || uplink == nil || uplink.ours() || (uplink.master != 0 && uplink.master != bridge.index) {
		return nil
	}
	if err := c.giveBack(ctx, bridge, uplink, said); err != nil {
		return failed("bridge "+bridge.name+": uplink "+uplink.name, err)
	}
	c.changed("bridge %s: uplink %s left", bridge.name, uplink.name)
	uplink.master = 0
	bridge.alias = said.alone().String()
	return nil
}

func (c *call) giveBack(ctx context.Context, bridge, uplink *nic, said bridgeMark) error {
	has, err := c.addresses(ctx, bridge, unix.AF_UNSPEC)
	if err != nil {
		return err
	}
	for _, a := range has {
		if said.owns(a.prefix) {
			continue
		}
		if err := c.copyAddress(ctx, uplink, a); err != nil {
			return fmt.Errorf("address %v: %w", a.prefix, err)
		}
	}
	if uplink.master == bridge.index {
		none := uint32(0)
		if err := c.change(ctx, linkChange{index: uplink.index, master: &none}); err != nil {
			return err
		}
	}
	keep := func(r route) bool {
		own := func(gateway netip.Prefix) bool {
			return said.owns(gateway) && gateway.IsValid() && (r.source == gateway.Addr() || (r.kernel && r.to == gateway.Masked()))
		}
		return own(said.gateway) || own(said.gateway6)
	}
	if err := c.moveRoutes(ctx, bridge, uplink, keep); err != nil {
		return err
	}
	for _, a := range has {
		if said.isGateway(a.prefix) {
			continue // it goes with the bridge, or stays on it
		}
		if err := c.removeAddress(ctx, bridge, a); err != nil {
			return fmt.Errorf("address %v: %w", a.prefix, err)
		}
	}
	// Only now is there nothing left to remember.
	alias := said.alone().String()
	return c.change(ctx, linkChange{index: bridge.index, alias: &alias})
}

// route is a route through one link, with all that the kernel says of it.
type route struct {
	header []byte // rtmsg
	raw    []netlink.Attribute
	to     netip.Prefix
	source netip.Addr
	via    bool // through a router
	kernel bool // made with an address
	heard  bool // learnt from a router's advertisement
	metric uint32
	expire uint32 // of IPv6: in so many seconds; 0: never
	object bool   // a nexthop that has an id: whoever made it must move it
}

// moveRoutes moves the routes through one link to another, those that others need first. A nil keep keeps none.
func (c *call) moveRoutes(ctx context.Context, from, to *nic, keep func(route) bool) error {
	var all []route
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		routes, err := c.routes(ctx, from, family)
		if err != nil {
			return err
		}
		all = append(all, routes...)
	}
	for _, via := range []bool{false, true} {
		for _, r := range all {
			if r.via != via || r.object || (keep != nil && keep(r)) {
				continue
			}
			flags := netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Append
			if err := ignore(c.sendRoute(ctx, unix.RTM_NEWROUTE, flags, r, to.index, from.index), unix.EEXIST); err != nil {
				return fmt.Errorf("route to %v of %s: %w", r.to, from.name, err)
			}
			err := c.sendRoute(ctx, unix.RTM_DELROUTE, netlink.Request|netlink.Acknowledge, r, from.index, from.index)
			if err := ignore(err, unix.ESRCH); err != nil {
				return fmt.Errorf("route to %v of %s: %w", r.to, from.name, err)
			}
			if !r.kernel {
				c.changed("route to %v moved from %s to %s", r.to, from.name, to.name)
			}
		}
	}
	return nil
}

// routes lists the routes through a link that have to go where its addresses go.
func (c *call) routes(ctx context.Context, l *nic, family uint8) ([]route, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = family
	replies, err := c.route(ctx, unix.RTM_GETROUTE, netlink.Request|netlink.Dump, header, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.RTA_OIF, l.index)
	})
	if err != nil {
		return nil, err
	}
	var all []route
	for _, reply := range replies {
		if reply.Header.Type != unix.RTM_NEWROUTE {
			continue
		}
		r, err := decodeRoute(reply.Data)
		if err != nil {
			return nil, err
		}
		table, kind, flags := r.header[4], r.header[7], binary.NativeEndian.Uint32(r.header[8:])
		local := r.to.Addr().IsLinkLocalUnicast() && r.to.Addr().Is6() || r.to.Addr().IsMulticast()
		if table == unix.RT_TABLE_LOCAL || kind != unix.RTN_UNICAST || flags&unix.RTM_F_CLONED != 0 || local {
			continue // every link has these
		}
		if family == unix.AF_INET6 {
			all = append(all, r.split(l.index)...)
		} else {
			all = append(all, r)
		}
	}
	return all, nil
}

// split returns the routes through a link that an IPv6 route with several hops is made of. To the kernel they are routes of
// their own, which it shows as one: so it shows a route and its copy on another link, of which one alone is to go.
func (r route) split(link uint32) []route {
	at := slices.IndexFunc(r.raw, func(a netlink.Attribute) bool { return a.Type == unix.RTA_MULTIPATH })
	if at < 0 {
		return []route{r}
	}
	rest := slices.Delete(slices.Clone(r.raw), at, at+1)
	var all []route
	for hops := r.raw[at].Data; len(hops) >= unix.SizeofRtNexthop; {
		size := int(binary.NativeEndian.Uint16(hops))
		if size < unix.SizeofRtNexthop || size > len(hops) {
			break
		}
		if binary.NativeEndian.Uint32(hops[4:]) == link {
			one := r
			one.raw = append(slices.Clone(rest), netlink.Attribute{Type: unix.RTA_OIF, Data: hops[4:8]})
			if ad, err := netlink.NewAttributeDecoder(hops[unix.SizeofRtNexthop:size]); err == nil {
				for ad.Next() {
					one.raw = append(one.raw, netlink.Attribute{Type: ad.Type(), Data: ad.Bytes()})
				}
			}
			all = append(all, one)
		}
		hops = hops[min(len(hops), (size+3)&^3):]
	}
	return all
}

// nexthopID is the attribute of a route whose nexthop is an object of its own (RTA_NH_ID).
const nexthopID = 30

func decodeRoute(data []byte) (r route, err error) {
	if len(data) < unix.SizeofRtMsg {
		return r, errors.New("a route is cut short")
	}
	r.header = data[:unix.SizeofRtMsg:unix.SizeofRtMsg]
	r.kernel, r.heard = r.header[5] == unix.RTPROT_KERNEL, r.header[0] == unix.AF_INET6 && r.header[5] == unix.RTPROT_RA
	to := netip.IPv4Unspecified()
	if r.header[0] == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	ad, err := netlink.NewAttributeDecoder(data[unix.SizeofRtMsg:])
	if err != nil {
		return r, err
	}
	for ad.Next() {
		b := ad.Bytes()
		switch ad.Type() {
		case unix.RTA_DST:
			if addr, ok := netip.AddrFromSlice(b); ok {
				to = addr
			}
		case unix.RTA_PREFSRC:
			r.source, _ = netip.AddrFromSlice(b)
		case unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH:
			r.via = true
		case nexthopID:
			r.object = true
		case unix.RTA_PRIORITY:
			r.metric = ad.Uint32()
		case unix.RTA_CACHEINFO:
			if len(b) >= 12 { // in ticks of 10 ms
				r.expire = uint32(max(0, int32(binary.NativeEndian.Uint32(b[8:])))+99) / 100
			}
		}
		r.raw = append(r.raw, netlink.Attribute{Type: ad.Type(), Data: b})
	}
	r.to = netip.PrefixFrom(to, int(r.header[1]))
	return r, ad.Err()
}

// sendRoute makes or removes the route r, with link in the place of the link was. One that was learnt from a router is made a bit worse, and with an
// end: the kernel would take its like for an obstacle, and learn no more from that router.
func (c *call) sendRoute(ctx context.Context, kind netlink.HeaderType, flags netlink.HeaderFlags, r route, link, was uint32) error {
	header := append([]byte(nil), r.header...)
	binary.NativeEndian.PutUint32(header[8:], binary.NativeEndian.Uint32(header[8:])&unix.RTNH_F_ONLINK)
	_, err := c.route(ctx, kind, flags, header, func(ae *netlink.AttributeEncoder) {
		for _, attribute := range r.raw {
			switch attribute.Type {
			case unix.RTA_OIF:
				ae.Uint32(unix.RTA_OIF, link)
			case unix.RTA_MULTIPATH:
				ae.Bytes(unix.RTA_MULTIPATH, replaceHops(attribute.Data, was, link))
			case unix.RTA_CACHEINFO: // what the kernel counts
			case unix.RTA_PRIORITY:
				metric := r.metric
				if r.heard && kind == unix.RTM_NEWROUTE {
					metric++
				}
				ae.Uint32(unix.RTA_PRIORITY, metric)
			default:
				ae.Bytes(attribute.Type, attribute.Data)
			}
		}
		if r.heard && r.expire > 0 && kind == unix.RTM_NEWROUTE {
			ae.Uint32(unix.RTA_EXPIRES, r.expire)
		}
	})
	return err
}

// replaceHops puts a link in the place of another in a list of struct rtnexthop.
func replaceHops(hops []byte, was, link uint32) []byte {
	hops = append([]byte(nil), hops...)
	for at := 0; at+unix.SizeofRtNexthop <= len(hops); {
		hop := hops[at:]
		hop[2] &= unix.RTNH_F_ONLINK
		if binary.NativeEndian.Uint32(hop[4:]) == was {
			binary.NativeEndian.PutUint32(hop[4:], link)
		}
		size := int(binary.NativeEndian.Uint16(hop)+3) &^ 3
		if size < unix.SizeofRtNexthop {
			break
		}
		at += size
	}
	return hops
}
