package compute_test

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/state"
)

var slow = network.Limits{In: network.Rate{Bytes: 2000}, Out: network.Rate{Bytes: 3000, Burst: 4000}}

// cardLimits returns those on record of an instance's first card.
func (c *cloud) cardLimits(id string) (l network.Limits) {
	_ = c.store.View(func(v *state.View) error {
		i, err := compute.Instances.Get(v, id)
		if err != nil {
			return err
		}
		p, err := network.Ports.Get(v, i.Ports[0])
		l = p.Limits
		return err
	})
	return l
}

// The limits of a card change while its guest runs; what can't be is refused, or as before.
func TestLimitsChange(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		req := one()
		req.Limits.Out.Bytes = 5000
		_, err := c.service.Run(c.ctx, req)
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
		require.ErrorContains(t, err, "compute:limits:set")
		bad := req
		bad.Limits.Out.Bytes = 1
		_, err = c.service.Run(admin(), bad)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, "Limits.Out.Bytes is 1, must be 0 or 1000 to 10000000000")
		made, err := c.service.Run(admin(), req)
		require.NoError(t, err)
		id := made[0].ID
		_, err = c.service.WaitActive(admin(), id)
		require.NoError(t, err)
		require.Equal(t, req.Limits, n.net.Desired().Taps[0].Limits, "from the launch on")

		ask := func(ctx context.Context, net string, l network.Limits) error {
			return c.service.SetLimits(ctx, id, net, l)
		}
		require.ErrorIs(t, ask(c.ctx, "lan", slow), errdefs.ErrPermissionDenied)
		require.ErrorIs(t, ask(admin(), "none", slow), errdefs.ErrNotFound)
		require.ErrorIs(t, c.service.SetLimits(admin(), "none", "lan", slow), errdefs.ErrNotFound)
		err = ask(admin(), "lan", network.Limits{In: network.Rate{Burst: 1}})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, "Limits.In.Burst is 1, must be 0 without Bytes")
		require.Equal(t, req.Limits, c.cardLimits(id))

		hang := n.net.Inject(fakenetwork.Fault{Method: fakenetwork.MethodPlug, Hang: true})
		require.NoError(t, ask(admin(), "lan", slow))
		require.ErrorIs(t, ask(admin(), "lan", network.Limits{}), errdefs.ErrFailedPrecondition, "while it changes")
		hang.Remove()
		require.Empty(t, c.waitRest(t, id).Fault)
		require.Equal(t, slow, n.net.Desired().Taps[0].Limits)

		n.net.Inject(fakenetwork.Fault{Method: fakenetwork.MethodPlug, Err: errors.Join(errors.New("broken"), errdefs.ErrFailedPrecondition), Call: 1})
		require.NoError(t, ask(admin(), "lan", network.Limits{}))
		require.Contains(t, c.waitRest(t, id).Fault, "broken")
		require.Equal(t, slow, c.cardLimits(id))
		require.Equal(t, slow, n.net.Desired().Taps[0].Limits)
		require.NoError(t, ask(admin(), "lan", network.Limits{}))
		require.Empty(t, c.waitRest(t, id).Fault)
		require.Zero(t, n.net.Desired().Taps[0].Limits)
		require.NoError(t, c.audit())
	})
}

// Where the node can't change them, the card has those again that it had, and its agents may die meanwhile.
func TestCrashesOfLimitsThatFail(t *testing.T) {
	for _, after := range []bool{false, true} {
		crash(t, crashing{want: compute.StateActive, begin: func(t *testing.T, w *crashing) {
			launched(t, w)
			require.NoError(t, w.service.SetLimits(admin(), w.id, "lan", slow))
			w.nodes[0].net.Inject(fakenetwork.Fault{Method: fakenetwork.MethodPlug, Err: errdefs.ErrFailedPrecondition, Call: 1, After: after})
		}})
	}
}

// The cards of an instance have the limits of its flavor, on its node too.
func TestFlavorsLimitCards(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		f := compute.Flavor{Name: "slow", VCPUs: 1, MemoryMiB: 64, Limits: network.Limits{In: network.Rate{Bytes: 999}}}
		_, err := c.service.CreateFlavor(admin(), f)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, "flavor: Limits.In.Bytes is 999, must be 0 or 1000 to 10000000000 each second")
		f.Limits.In.Bytes = 1_000_000
		f, err = c.service.CreateFlavor(admin(), f)
		require.NoError(t, err)
		req := one()
		req.Flavor = f.ID
		id := c.run(t, req)[0].ID
		_, err = c.service.WaitActive(c.ctx, id)
		require.NoError(t, err)
		require.Equal(t, f.Limits, n.net.Desired().Taps[0].Limits)
	})
}
