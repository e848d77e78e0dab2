package compute_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/network"
)

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
