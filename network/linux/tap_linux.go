package linux

import (
	"context"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// ensureTap makes the tap, or mends what is wrong with it; have is the link with its name.
func (c *call) ensureTap(ctx context.Context, t network.Tap, have, bridge *nic, mtu int) error {
	if have != nil && !have.isTap() {
		return foreign("tap", t.Name)
	}
	if have == nil {
		return c.makeTap(ctx, t, bridge, mtu)
	}
	change := linkChange{index: have.index, up: !have.up}
	var wrong []string
	if !have.up {
		wrong = append(wrong, "it was down")
	}
	if alias := markOf(t).String(); have.alias != alias {
		change.alias = &alias
		wrong = append(wrong, "its mark was another")
	}
	if have.group != tapGroup {
		change.group = tapGroup
		wrong = append(wrong, "it had left the group of taps")
	}
	if have.mtu != mtu {
		change.mtu = mtu
		wrong = append(wrong, "its MTU was another")
	}
	if have.master != bridge.index {
		change.master = &bridge.index
		wrong = append(wrong, "it was not on bridge "+bridge.name)
	}
	if len(wrong) == 0 {
		return nil
	}
	if have.master != 0 && have.master != bridge.index && have.mtu != mtu {
		// A bridge whose MTU nobody set follows its ports: the one that the tap leaves must not see the new one.
		none := uint32(0)
		if err := c.change(ctx, linkChange{index: have.index, master: &none}); err != nil {
			return failed("tap "+t.Name, err)
		}
	}
	if err := c.change(ctx, change); err != nil {
		return failed("tap "+t.Name, err)
	}
	c.changed("tap %s mended, as %s", t.Name, strings.Join(wrong, ", "))
	return nil
}

// makeTap makes a tap that is marked before it is kept: if the process dies between, the kernel removes it. That it is in the
// group of taps, for which the packet filter is, is in the same request as that it joins the bridge.
func (c *call) makeTap(ctx context.Context, t network.Tap, bridge *nic, mtu int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := c.wire.openTap(t.Name)
	if err != nil {
		return failed("tap "+t.Name, err)
	}
	defer func() { _ = file.close() }()
	alias := markOf(t).String()
	change := linkChange{name: t.Name, mtu: mtu, group: tapGroup, alias: &alias, master: &bridge.index, up: true}
	if err := c.change(ctx, change); err != nil {
		return failed("tap "+t.Name, err)
	}
	if err := file.keep(); err != nil {
		return failed("tap "+t.Name, err)
	}
	c.changed("tap %s made on bridge %s", t.Name, bridge.name)
	return nil
}
