package linux

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func (l *nic) isVLAN() bool { return l.ours() && l.kind == "vlan" }

// vlan is the id of a VLAN's link.
func (l *nic) vlan() int { return int(l.number(unix.IFLA_VLAN_ID)) }

// mark is what the alias of a bridge says; l may be nil.
func (l *nic) mark() bridgeMark {
	if l == nil {
		return bridgeMark{}
	}
	return parseBridgeMark(l.alias)
}

// tapMTU is the MTU of taps on the bridge l, which is as b says.
func (l *nic) tapMTU(b network.Bridge) int {
	if b.External {
		return l.mtu
	}
	return mtu(b)
}

// enslaved is the card that is itself a port of the bridge, "" for none: of a VLAN its sub-interface is.
func enslaved(b network.Bridge) string {
	if b.VLAN != 0 {
		return ""
	}
	return b.Uplink
}

// ensureSegment makes the bridge with what joins it to other nodes, or mends what is wrong with it; find returns the link of a name,
// nil if there is none. A bridge that is there but not as it should be is returned with the error.
func (c *call) ensureSegment(ctx context.Context, b network.Bridge, find func(name string) (*nic, error)) (*nic, error) {
	have, err := find(b.Name)
	if err != nil {
		return nil, err
	}
	if b.External {
		if have == nil || have.kind != "bridge" || have.ours() {
			return nil, fmt.Errorf("network: bridge %s: an administrator has to make it, and there is none: %w", b.Name, errdefs.ErrNotFound)
		}
		return have, nil
	}
	if said := have.mark(); said.vlan != 0 && said.vlan != b.VLAN && have.isBridge() {
		if err := c.dropVLAN(ctx, network.Bridge{VLAN: said.vlan}.VLANLink(), have, find); err != nil {
			return nil, err
		}
	}
	var uplink *nic
	if b.Uplink != "" {
		if uplink, err = find(b.Uplink); err != nil {
			return nil, err
		}
	}
	if b.VLAN == 0 {
		return c.ensureBridge(ctx, b, have, uplink)
	}
	plain := b
	plain.Uplink = ""
	l, err := c.ensureBridge(ctx, plain, have, nil)
	if err != nil {
		return l, err
	}
	vlan, err := find(b.VLANLink())
	if err != nil {
		return l, err
	}
	return l, c.ensureVLAN(ctx, b, vlan, uplink, l)
}

// dropVLAN removes the sub-interface that a bridge is to have no more.
func (c *call) dropVLAN(ctx context.Context, name string, bridge *nic, find func(name string) (*nic, error)) error {
	l, err := find(name)
	if err != nil || l == nil || !l.isVLAN() || l.master != bridge.index {
		return err
	}
	if err := c.remove(ctx, l); err != nil {
		return failed("VLAN "+name, err)
	}
	c.changed("VLAN %s removed", name)
	return nil
}

// ensureVLAN makes the sub-interface of the uplink for the VLAN of b a port of the bridge, or mends what is wrong with it; have is the link
// with its name. It is in a group of ours from the beginning, and a port of the bridge before it is up.
func (c *call) ensureVLAN(ctx context.Context, b network.Bridge, have, uplink, bridge *nic) error {
	name := b.VLANLink()
	what := "VLAN " + name + " of bridge " + b.Name
	switch {
	case have != nil && !have.isVLAN():
		return foreign("VLAN", name)
	case uplink == nil:
		return fmt.Errorf("network: bridge %s: uplink %s: %w", b.Name, b.Uplink, errdefs.ErrNotFound)
	case uplink.ours():
		return fmt.Errorf("network: bridge %s: uplink %s is a link of ours: %w", b.Name, b.Uplink, errdefs.ErrFailedPrecondition)
	case mtu(b) > uplink.mtu:
		return fmt.Errorf("network: bridge %s: MTU %d is more than the %d of its uplink %s: %w", b.Name, mtu(b), uplink.mtu, b.Uplink,
			errdefs.ErrFailedPrecondition)
	}
	if have != nil && (have.vlan() != b.VLAN || have.parent != uplink.index) {
		if err := c.remove(ctx, have); err != nil {
			return failed(what, err)
		}
		c.changed("VLAN %s removed, as it was of another id or uplink", name)
		have = nil
	}
	if !uplink.up {
		if err := c.change(ctx, linkChange{index: uplink.index, up: true}); err != nil {
			return failed("uplink "+uplink.name, err)
		}
		uplink.up = true
		c.changed("uplink %s is up", uplink.name)
	}
	isNew := have == nil
	if isNew {
		id := func(ae *netlink.AttributeEncoder) error { ae.Uint16(unix.IFLA_VLAN_ID, uint16(b.VLAN)); return nil }
		err := c.change(ctx, linkChange{make: true, name: name, kind: "vlan", data: id, parent: uplink.index, group: vlanGroup, mtu: mtu(b)})
		if err != nil {
			return failed(what, err)
		}
		if have, err = c.link(ctx, name); err != nil {
			return err
		}
		if have == nil {
			return failed(what, unix.ENODEV)
		}
		c.changed("VLAN %s made on %s for bridge %s", name, uplink.name, b.Name)
	}
	return c.mendVLAN(ctx, b, have, bridge, isNew)
}

func (c *call) mendVLAN(ctx context.Context, b network.Bridge, have, bridge *nic, isNew bool) error {
	change := linkChange{index: have.index, up: !have.up}
	var wrong []string
	if !have.up {
		wrong = append(wrong, "it was down")
	}
	if alias := mark + "vlan"; have.alias != alias {
		change.alias = &alias
		wrong = append(wrong, "its mark was another")
	}
	if have.group != vlanGroup {
		change.group = vlanGroup
		wrong = append(wrong, "it had left its group")
	}
	if have.mtu != mtu(b) {
		change.mtu = mtu(b)
		wrong = append(wrong, "its MTU was another")
	}
	if have.master != bridge.index {
		change.master = &bridge.index
		wrong = append(wrong, "it was not on bridge "+bridge.name)
	}
	if len(wrong) == 0 {
		return nil
	}
	if err := c.change(ctx, change); err != nil {
		return failed("VLAN "+have.name, err)
	}
	if !isNew {
		c.changed("VLAN %s mended, as %s", have.name, strings.Join(wrong, ", "))
	}
	return nil
}
