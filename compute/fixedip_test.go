package compute_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// addresses returns those of an instance's first card, in their order.
func (c *cloud) addresses(id string) (all []netip.Addr) {
	_ = c.store.View(func(v *state.View) error {
		i, err := compute.Instances.Get(v, id)
		if err != nil {
			return err
		}
		p, err := network.Ports.Get(v, i.Ports[0])
		all = p.Addrs
		return err
	})
	return all
}

// withTwo has an instance that runs with two addresses, and no agent.
func withTwo(t *testing.T, w *crashing) {
	launched(t, w)
	stop := w.start(t)
	_, err := w.service.AddFixedIP(w.ctx, w.id, "lan", netip.Addr{})
	require.NoError(t, err)
	w.waitRest(t, w.id)
	require.Len(t, w.addresses(w.id), 2)
	stop()
}

// NET-06: a card has the fixed IP that the request names, or the error names the field and why not.
func TestRequestedFixedIPs(t *testing.T) {
	c := newCloud(t, 1)
	c.enlist(t)
	c.update(t, func(tx *state.Tx) error {
		return network.Networks.Put(tx, network.Network{ID: "other", Name: "other", Mode: network.VLAN, MultiHost: true, VLAN: 7,
			CIDR: netip.MustParsePrefix("192.0.2.0/29"), Gateway: netip.MustParseAddr("192.0.2.1"), Router: netip.MustParseAddr("192.0.2.1"), Bridge: "br7",
			DNS: []netip.Addr{netip.MustParseAddr("192.0.2.5")}})
	})
	run := func(change func(*compute.RunRequest), addrs ...string) error {
		req := one()
		req.Networks, req.FixedIPs = []string{"lan", "other"}, nil
		for _, a := range addrs {
			addr, _ := netip.ParseAddr(a)
			req.FixedIPs = append(req.FixedIPs, addr)
		}
		if change != nil {
			change(&req)
		}
		made, err := c.service.Run(c.ctx, req)
		if err != nil {
			return err
		}
		return c.store.View(func(v *state.View) error {
			for card, port := range made[0].Ports {
				p, err := network.Ports.Get(v, port)
				require.NoError(t, err)
				if card < len(req.FixedIPs) && req.FixedIPs[card].IsValid() {
					require.Equal(t, req.FixedIPs[card:card+1], p.Addrs)
				}
			}
			return nil
		})
	}
	// The node's own address on a network with MultiHost, which would be the lowest, makes way.
	require.NoError(t, run(nil, "10.1.2.3", "192.0.2.2"))
	require.NoError(t, run(nil, "", "192.0.2.4"))
	for _, bad := range []struct {
		addr, says string
		class      error
	}{
		{"192.0.3.2", "FixedIPs[1]: fixed IP 192.0.3.2 is not an address of 192.0.2.0/29, the subnet of network \"other\"", errdefs.ErrInvalidArgument},
		{"10.9.9.9", "is not an address of 192.0.2.0/29", errdefs.ErrInvalidArgument}, // the other network's
		{"fd00::1", "is not an address of 192.0.2.0/29", errdefs.ErrInvalidArgument},
		{"192.0.2.0", "must be 192.0.2.1 to 192.0.2.6", errdefs.ErrInvalidArgument},
		{"192.0.2.7", "must be 192.0.2.1 to 192.0.2.6", errdefs.ErrInvalidArgument},
		{"192.0.2.1", "is reserved", errdefs.ErrInvalidArgument},
		{"192.0.2.5", "is reserved", errdefs.ErrInvalidArgument},
		{"192.0.2.2", "fixed IP 192.0.2.2 of network \"other\" is taken", errdefs.ErrAlreadyExists},
		{"192.0.2.3", "is taken", errdefs.ErrAlreadyExists}, // by the node
	} {
		err := run(nil, "", bad.addr)
		require.ErrorIs(t, err, bad.class, bad.addr)
		require.ErrorContains(t, err, bad.says)
	}
	err := run(nil, "", "", "10.0.0.9")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "FixedIPs has 3 addresses, at most 2")
	err = run(func(r *compute.RunRequest) { r.MaxCount = 2 }, "10.0.0.9")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "MaxCount is 2, must be 1")
	require.NoError(t, c.close())
}

// NET-06: what can't be is refused at the call, and changes nothing.
func TestFixedIPsThatCanNotBe(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		id := c.run(t, one())[0].ID
		_, err := c.service.WaitActive(c.ctx, id)
		require.NoError(t, err)
		other := c.run(t, one())[0].ID
		_, err = c.service.WaitActive(c.ctx, other)
		require.NoError(t, err)
		has := c.addresses(id)
		c.update(t, func(tx *state.Tx) error {
			return network.Networks.Put(tx, network.Network{ID: "other", Name: "other", Mode: network.FlatDHCP, Bridge: "br7",
				CIDR: netip.MustParsePrefix("192.0.2.0/24")})
		})
		add := func(net, addr string) error {
			_, err := c.service.AddFixedIP(c.ctx, id, net, netip.MustParseAddr(addr))
			return err
		}
		require.ErrorIs(t, add("lan", "192.0.2.9"), errdefs.ErrInvalidArgument)
		require.ErrorIs(t, add("lan", "10.0.0.1"), errdefs.ErrInvalidArgument)
		require.ErrorIs(t, add("lan", c.addresses(other)[0].String()), errdefs.ErrAlreadyExists)
		require.ErrorIs(t, add("lan", has[0].String()), errdefs.ErrAlreadyExists)
		require.ErrorIs(t, add("none", "10.0.0.9"), errdefs.ErrNotFound)
		require.ErrorIs(t, add("other", "192.0.2.9"), errdefs.ErrFailedPrecondition)
		remove := func(addr netip.Addr) error { return c.service.RemoveFixedIP(c.ctx, id, "lan", addr) }
		require.ErrorIs(t, remove(has[0]), errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, remove(has[0]), "is the only one")
		stranger := auth.NewContext(context.Background(), auth.Caller{UserID: "eve", ProjectID: "other", Roles: []string{auth.SysAdmin}})
		_, err = c.service.AddFixedIP(stranger, id, "lan", netip.Addr{})
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		require.Equal(t, has, c.addresses(id))
		for range network.MaxFixedIPs - 1 {
			hang := n.net.Inject(fakenetwork.Fault{Method: fakenetwork.MethodPlug, Hang: true})
			_, err := c.service.AddFixedIP(c.ctx, id, "lan", netip.Addr{})
			require.NoError(t, err)
			require.ErrorIs(t, remove(has[0]), errdefs.ErrFailedPrecondition, "while another comes")
			hang.Remove()
			require.Equal(t, compute.StateActive, c.waitRest(t, id).State)
		}
		_, err = c.service.AddFixedIP(c.ctx, id, "lan", netip.Addr{})
		require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
		require.ErrorContains(t, err, "at most 8")
		require.ErrorIs(t, remove(netip.MustParseAddr("10.9.9.9")), errdefs.ErrNotFound)
		require.NoError(t, remove(has[0]))
		require.Empty(t, c.waitRest(t, id).Fault)
		require.NotContains(t, c.addresses(id), has[0])
		require.NoError(t, c.audit())
		require.NoError(t, c.service.Terminate(c.ctx, id))
		require.NoError(t, c.service.WaitGone(c.ctx, id))
		require.NoError(t, c.audit())
	})
}

// Where the node can't do it, the records are as before, the instance says why, and its agents may die meanwhile.
func TestCrashesOfFixedIPsThatFail(t *testing.T) {
	broken := fmt.Errorf("broken: %w", errdefs.ErrFailedPrecondition)
	for _, after := range []bool{false, true} {
		once := fakenetwork.Fault{Method: fakenetwork.MethodPlug, Err: broken, Call: 1, After: after}
		for name, begin := range map[string]func(t *testing.T, w *crashing){
			"add": func(t *testing.T, w *crashing) {
				launched(t, w)
				_, err := w.service.AddFixedIP(w.ctx, w.id, "lan", netip.Addr{})
				require.NoError(t, err)
			},
			"remove": func(t *testing.T, w *crashing) {
				withTwo(t, w)
				require.NoError(t, w.service.RemoveFixedIP(w.ctx, w.id, "lan", w.addresses(w.id)[0]))
			},
		} {
			t.Run(fmt.Sprint(name, after), func(t *testing.T) {
				crash(t, crashing{want: compute.StateActive, begin: func(t *testing.T, w *crashing) {
					begin(t, w)
					w.nodes[0].net.Inject(once)
				}})
			})
		}
	}
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		id := c.run(t, one())[0].ID
		_, err := c.service.WaitActive(c.ctx, id)
		require.NoError(t, err)
		has := c.addresses(id)
		once := fakenetwork.Fault{Method: fakenetwork.MethodPlug, Err: broken, Call: 1}
		n.net.Inject(once)
		_, err = c.service.AddFixedIP(c.ctx, id, "lan", netip.Addr{})
		require.NoError(t, err)
		require.Contains(t, c.waitRest(t, id).Fault, "broken")
		require.Equal(t, has, c.addresses(id))
		more, err := c.service.AddFixedIP(c.ctx, id, "lan", netip.Addr{})
		require.NoError(t, err)
		require.Empty(t, c.waitRest(t, id).Fault)
		n.net.Inject(once)
		require.NoError(t, c.service.RemoveFixedIP(c.ctx, id, "lan", has[0]))
		require.Contains(t, c.waitRest(t, id).Fault, "broken")
		require.Equal(t, []netip.Addr{more, has[0]}, c.addresses(id))
		require.NoError(t, c.audit())
	})
}
