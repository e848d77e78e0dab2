package linux

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func mtu(b network.Bridge) int {
	if b.MTU == 0 {
		return network.DefaultMTU
	}
	return b.MTU
}

// noLearning makes a bridge learn nothing from frames to the addresses that bridges keep to themselves
// (BR_BOOLOPT_NO_LL_LEARN): they don't all pass the packet filter.
const noLearning = 1 << 0

// bridgeData is how our bridges are set up: there are no loops to look for, so a port forwards at once. A bridge that looks for
// loops refuses such a delay: that it does not is a request of its own, before.
func bridgeData(ae *netlink.AttributeEncoder) error {
	ae.Uint32(unix.IFLA_BR_FORWARD_DELAY, 0)
	return withoutSTP(ae)
}

func withoutSTP(ae *netlink.AttributeEncoder) error {
	ae.Uint32(unix.IFLA_BR_STP_STATE, 0)
	options := binary.NativeEndian.AppendUint32(nil, noLearning)
	ae.Bytes(unix.IFLA_BR_MULTI_BOOLOPT, binary.NativeEndian.AppendUint32(options, noLearning)) // value, mask
	return nil
}

func (l *nic) hasBridgeData() bool {
	return l.number(unix.IFLA_BR_STP_STATE) == 0 && l.number(unix.IFLA_BR_FORWARD_DELAY) == 0 &&
		uint32(l.number(unix.IFLA_BR_MULTI_BOOLOPT))&noLearning != 0 // the value is in the first half, in native order
}

// ensureBridge makes the bridge or mends what is wrong with it; have is the link with its name, uplink the one it names. A
// bridge that is there but not as it should be, because of its uplink, is returned with the error.
func (c *call) ensureBridge(ctx context.Context, b network.Bridge, have, uplink *nic) (*nic, error) {
	if have != nil && !have.isBridge() {
		return nil, foreign("bridge", b.Name)
	}
	var problem error
	switch {
	case b.Uplink == "":
	case uplink == nil:
		problem = fmt.Errorf("network: bridge %s: uplink %s: %w", b.Name, b.Uplink, errdefs.ErrNotFound)
	case uplink.ours(), uplink.master != 0 && (have == nil || uplink.master != have.index):
		problem = fmt.Errorf("network: bridge %s: uplink %s is a port of another link: %w", b.Name, b.Uplink, errdefs.ErrFailedPrecondition)
		uplink = nil
	}
	l, was := have, "made"
	if have == nil {
		var err error
		if l, err = c.makeBridge(ctx, b.Name); err != nil {
			return nil, failed("bridge "+b.Name, err)
		}
		c.changed("bridge %s made", b.Name)
	} else {
		was = "mended"
	}
	if err := c.setBridge(ctx, b, l, uplink, was == "made"); err != nil {
		return nil, failed("bridge "+b.Name, err)
	}
	return l, problem
}

// makeBridge makes a bridge that is in our group from the beginning. It has a MAC address of its own: one that it would take
// from its ports changes with them.
func (c *call) makeBridge(ctx context.Context, name string) (*nic, error) {
	err := c.change(ctx, linkChange{make: true, name: name, kind: "bridge", data: bridgeData, mac: randomMAC(), group: bridgeGroup})
	if err != nil {
		return nil, err
	}
	l, err := c.link(ctx, name)
	if err == nil && l == nil {
		err = unix.ENODEV
	}
	return l, err
}

// setBridge makes a bridge of ours as b says. Its mark is written before what the mark speaks of, and what an older mark
// speaks of is gone before it is overwritten.
func (c *call) setBridge(ctx context.Context, b network.Bridge, l, uplink *nic, isNew bool) error {
	said := parseBridgeMark(l.alias)
	has, err := c.addressesOf(ctx, b, l, said)
	if err != nil {
		return err
	}
	var uplinkHas addresses
	if uplink != nil {
		if uplinkHas, err = c.addresses(ctx, uplink, unix.AF_UNSPEC); err != nil {
			return err
		}
	}
	want := bridgeMark{gateway: b.Gateway, vlan: b.VLAN, gateway6: b.Gateway6, opened: c.opened && b.Gateway6.IsValid()}
	if uplink != nil || said.uplink == b.Uplink {
		want.uplink = b.Uplink // one that is away for now may come back
	}
	shared := func(gateway, before netip.Prefix, was bool) bool {
		return want.uplink != "" && gateway.IsValid() && (uplinkHas.has(gateway) || (before == gateway && was) ||
			(before != gateway && said.uplink == want.uplink && has.has(gateway)))
	}
	want.shared, want.shared6 = shared(b.Gateway, said.gateway, said.shared), shared(b.Gateway6, said.gateway6, said.shared6)
	for _, a := range has {
		if want.isGateway(a.prefix) || !a.permanent || (want.uplink != "" && !said.owns(a.prefix)) {
			continue // a gateway, what the kernel made of router advertisements, or the uplink's
		}
		if err := c.removeAddress(ctx, l, a); err != nil {
			return err
		}
		c.changed("bridge %s: address %v removed", b.Name, a.prefix)
	}
	if err := c.setBridgeLink(ctx, b, want, l, uplink, isNew); err != nil {
		return err
	}
	c.ok(c.hearRouters(ctx, b, l, uplink, isNew))
	for _, gateway := range []netip.Prefix{b.Gateway, b.Gateway6} {
		if !gateway.IsValid() || has.has(gateway) {
			continue
		}
		if err := c.addAddress(ctx, l, gateway); err != nil {
			return err
		}
		if !isNew {
			c.changed("bridge %s: address %v added", b.Name, gateway)
		}
	}
	if uplink == nil {
		return nil
	}
	return c.take(ctx, l, uplink, uplinkHas, mtu(b))
}

// addressesOf lists the addresses of a bridge that matter: all, or where no uplink can have brought any, of the gateway's family alone.
func (c *call) addressesOf(ctx context.Context, b network.Bridge, l *nic, said bridgeMark) (addresses, error) {
	family := uint8(unix.AF_UNSPEC)
	if b.Uplink == "" && said.uplink == "" && said.gateway == b.Gateway && !b.Gateway6.IsValid() && !said.gateway6.IsValid() && b.Gateway.Addr().Is4() {
		family = unix.AF_INET
	}
	return c.addresses(ctx, l, family)
}

// setBridgeLink changes what differs of the link itself.
func (c *call) setBridgeLink(ctx context.Context, b network.Bridge, want bridgeMark, l, uplink *nic, isNew bool) error {
	change := linkChange{index: l.index, up: !l.up}
	var wrong []string
	if !l.up {
		wrong = append(wrong, "it was down")
	}
	if alias := want.String(); l.alias != alias {
		change.alias = &alias
		wrong = append(wrong, "its mark was another")
		l.alias = alias
	}
	if l.group != bridgeGroup {
		change.group = bridgeGroup
		wrong = append(wrong, "it had left its group")
	}
	if l.mtu != mtu(b) {
		change.mtu = mtu(b)
		wrong = append(wrong, "its MTU was another")
	}
	if !l.hasBridgeData() {
		if err := c.change(ctx, linkChange{index: l.index, kind: "bridge", data: withoutSTP}); err != nil {
			return err
		}
		change.kind, change.data = "bridge", bridgeData
		wrong = append(wrong, "its options were others")
	}
	// The rest of the network knows the node by its uplink's MAC address.
	if uplink != nil && len(uplink.mac) == 6 && l.mac.String() != uplink.mac.String() {
		change.mac = uplink.mac
		wrong = append(wrong, "it had not the MAC address of its uplink")
	}
	if len(wrong) == 0 {
		return nil
	}
	if err := c.change(ctx, change); err != nil {
		return err
	}
	if !isNew {
		c.changed("bridge %s mended, as %s", b.Name, strings.Join(wrong, ", "))
	}
	return nil
}

// randomMAC returns a locally administered unicast address (IEEE 802-2014 §8.4).
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails (crypto/rand)
	mac[0] = mac[0]&^1 | 2
	return mac
}
