package linux

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// live returns a manager of a namespace that is gone with the test.
func live(t testing.TB) (*netnstest.NS, *Manager) {
	t.Helper()
	ns := netnstest.New(t)
	m, err := New(Config{NetNS: ns.Path()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return ns, m
}

func bridge() network.Bridge {
	return network.Bridge{Name: "br100", MTU: 1500, Gateway: netip.MustParsePrefix("10.0.0.1/16")}
}

func tapName(n int) string {
	return "dp" + netip.AddrFrom4([4]byte{0, 0, byte(n >> 8), byte(n)}).String()[4:]
}

// tap is the n-th tap, for n from 1 to 60000.
func tap(n int) network.Tap {
	return network.Tap{
		Name: tapName(n), Bridge: "br100", Port: "port-" + tapName(n), MAC: []byte{0x52, 0x54, 0, 0, byte(n >> 8), byte(n)},
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(n>>8) + 1, byte(n)})},
	}
}

func desired(taps ...int) network.Desired {
	d := network.Desired{Bridges: []network.Bridge{bridge()}}
	for _, n := range taps {
		d.Taps = append(d.Taps, tap(n))
	}
	return d
}

func TestApplyPlugUnplug(t *testing.T) {
	_, m := live(t)
	ctx := t.Context()
	report, err := m.Apply(ctx, desired(1))
	require.NoError(t, err)
	require.Equal(t, []string{"filter made, as it is missing", "table of forwarded packets made", "bridge br100 made", "tap dp0.1 made on bridge br100"}, report.Changes)
	report, err = m.Apply(ctx, desired(1))
	require.NoError(t, err)
	require.Empty(t, report.Changes)
	require.NoError(t, m.Plug(ctx, bridge(), tap(2)))
	report, err = m.Apply(ctx, desired(1, 2))
	require.NoError(t, err)
	require.Empty(t, report.Changes)
	require.NoError(t, m.Unplug(ctx, tapName(1)))
	got, err := m.Inspect(ctx)
	require.NoError(t, err)
	require.Equal(t, desired(2), got)
	report, err = m.Apply(ctx, network.Desired{})
	require.NoError(t, err)
	require.Equal(t, []string{"tap dp0.2 removed", "bridge br100 removed", "table of forwarded packets removed", "filter removed"}, report.Changes)
}
