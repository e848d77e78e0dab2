package linux

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// More taps than the kernel is asked to remove at once go one after the other; each is gone when Unplug returns, and its name is free.
func TestTapsAreGoneWhenUnplugReturns(t *testing.T) {
	ns, m := live(t)
	var d network.Desired
	for n := range maxRemovals + 4 {
		d.Taps = append(d.Taps, tap(n+1))
	}
	for range 3 {
		for _, one := range d.Taps {
			require.NoError(t, m.Plug(t.Context(), bridge(), one))
		}
		for _, one := range d.Taps {
			require.NoError(t, m.Unplug(t.Context(), one.Name))
			_, err := run(ns, "ip link show "+one.Name)
			require.ErrorContains(t, err, "does not exist")
			require.NoError(t, m.Unplug(t.Context(), one.Name), "again")
		}
	}
	report, err := m.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{bridge()}})
	require.NoError(t, err)
	require.Empty(t, report.Changes)
}
