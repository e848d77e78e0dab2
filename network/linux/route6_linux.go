package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Linux forwards IPv6 between all links or none (net.ipv6.conf.all.forwarding). A link that forwards hears router advertisements only if its accept_ra
// is 2, and loses the routes that it had from them. So where nothing was forwarded before there is a bridge with a Gateway6, cards that hear
// advertisements are told to go on first; the table of forwarded packets lets the node forward for such bridges alone, and remembers the cards; and the marks
// of the bridges say that the node did not forward. They are there before it does, and until it does not any more.

// The sysctls of IPv6 that are read and set here, and where they are in what the kernel says of a link (linux/ipv6.h).
const (
	forwardingConf = "forwarding"
	acceptRAConf   = "accept_ra"
	acceptRAIndex  = 3
)

// What a link does with router advertisements, as accept_ra says.
const (
	hearsNone   = 0
	hearsAsHost = 1 // unless it forwards
	hearsAlways = 2
	hearsNoIPv6 = -1 // it has no IPv6
)

// hears returns what the link does with router advertisements.
func (l *nic) hears() int {
	families, err := netlink.NewAttributeDecoder(l.family)
	if err != nil {
		return hearsNoIPv6
	}
	for families.Next() {
		if families.Type() != unix.AF_INET6 {
			continue
		}
		six, err := netlink.NewAttributeDecoder(families.Bytes())
		if err != nil {
			return hearsNoIPv6
		}
		for six.Next() {
			if conf := six.Bytes(); six.Type() == unix.IFLA_INET6_CONF && len(conf) >= 4*(acceptRAIndex+1) {
				return int(int32(binary.NativeEndian.Uint32(conf[4*acceptRAIndex:])))
			}
		}
	}
	return hearsNoIPv6
}

// forwards6 tells whether the node forwards IPv6.
func (c *call) forwards6(ctx context.Context) (bool, error) {
	const (
		ofIndex, ofForwarding = 1, 2 // NETCONFA_IFINDEX, NETCONFA_FORWARDING
		ofAll                 = -1   // NETCONFA_IFINDEX_ALL
	)
	replies, err := c.route(ctx, unix.RTM_GETNETCONF, netlink.Request, []byte{unix.AF_INET6, 0, 0, 0}, func(ae *netlink.AttributeEncoder) {
		ae.Int32(ofIndex, ofAll)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil // a kernel without IPv6
	}
	for _, reply := range replies {
		if len(reply.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(reply.Data[4:])
		if err != nil {
			return false, failed("whether IPv6 is forwarded", err)
		}
		for ad.Next() {
			if ad.Type() == ofForwarding {
				return ad.Int32() != 0, ad.Err()
			}
		}
	}
	return false, failed("whether IPv6 is forwarded", err)
}

func (c *call) setConf6(ctx context.Context, link, name string, value int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return failed(fmt.Sprintf("net.ipv6.conf.%s.%s", link, name), c.wire.setConf6(link, name, value))
}

// hearRouters makes a bridge do with router advertisements what its uplink does, whose addresses it has, and ignore them where it has none: what is
// advertised there is for guests.
func (c *call) hearRouters(ctx context.Context, b network.Bridge, l, uplink *nic, isNew bool) error {
	if l.hears() == hearsNoIPv6 && mtu(b) >= network.MinMTU6 { // it had a smaller MTU before
		again, err := c.link(ctx, b.Name)
		if err != nil || again == nil {
			return err
		}
		l = again
	}
	want, have := hearsNone, l.hears()
	if uplink != nil {
		want = uplink.hears()
	}
	if want == hearsAsHost && c.opened {
		want = hearsAlways
	}
	if have == want || have == hearsNoIPv6 || want == hearsNoIPv6 {
		return nil
	}
	if err := c.setConf6(ctx, l.name, acceptRAConf, want); err != nil {
		return err
	}
	if !isNew {
		c.changed("bridge %s: accept_ra is %d, was %d", l.name, want, have)
	}
	return nil
}

// routedBridges are the names of those that IPv6 is to be routed for, sorted.
func routedBridges(bridges []network.Bridge) (names []string) {
	for _, b := range bridges {
		if b.Gateway6.IsValid() {
			names = append(names, b.Name)
		}
	}
	slices.Sort(names)
	return names
}

// prepare6 completes what the table of forwarded packets is to say, and stops forwarding if no bridge is left that wants it.
func (c *call) prepare6(ctx context.Context, have forwards, want *forwards, links map[string]*nic) error {
	c.opened = have.opened
	for _, l := range links {
		c.opened = c.opened || (l.isBridge() && l.mark().opened)
	}
	if len(want.routed) == 0 {
		if c.opened && !c.ok(c.close6(ctx, have.raised, links)) {
			want.opened, want.raised = true, have.raised // for the next try
		}
		c.opened = want.opened
		return nil
	}
	if !c.opened {
		on, err := c.forwards6(ctx)
		if err != nil {
			return err
		}
		c.opened = !on
	}
	if want.opened = c.opened; !c.opened {
		return nil
	}
	for name, l := range links {
		if !l.ours() && !l.loop && (l.hears() == hearsAsHost || slices.Contains(have.raised, name)) {
			want.raised = append(want.raised, name)
		}
	}
	slices.Sort(want.raised)
	return nil
}

// open6 makes the node forward, once the table and the bridges are there.
func (c *call) open6(ctx context.Context, f forwards, links map[string]*nic) error {
	if len(f.routed) == 0 {
		return nil
	}
	for _, name := range f.raised {
		if l := links[name]; l.hears() == hearsAsHost {
			if err := gone(c.setConf6(ctx, name, acceptRAConf, hearsAlways)); err != nil {
				return err
			}
			c.changed("link %s goes on hearing router advertisements", name)
		}
	}
	on, err := c.forwards6(ctx)
	if err != nil || on {
		return err
	}
	if err := c.setConf6(ctx, "all", forwardingConf, 1); err != nil {
		return err
	}
	c.changed("IPv6 is forwarded")
	return nil
}

// close6 is the opposite of open6.
func (c *call) close6(ctx context.Context, raised []string, links map[string]*nic) error {
	on, err := c.forwards6(ctx)
	if err != nil {
		return err
	}
	if on {
		if err := c.setConf6(ctx, "all", forwardingConf, 0); err != nil {
			return err
		}
		c.changed("IPv6 is not forwarded any more")
	}
	for _, name := range raised {
		if l := links[name]; l != nil && l.hears() == hearsAlways {
			if err := gone(c.setConf6(ctx, name, acceptRAConf, hearsAsHost)); err != nil {
				return err
			}
		}
	}
	// What bridges then do like their uplinks depends on what these do now.
	now, err := c.links(ctx)
	if err == nil {
		maps.Copy(links, now)
	}
	return err
}

// gone is for links that may have gone meanwhile.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
