package linux

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
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

// reader counts how often the whole packet filter is read.
type reader struct {
	wire
	filters int
}

func (r *reader) filter() (filter, error) {
	r.filters++
	return r.wire.filter()
}

// TestPlugReadsNoOthers checks that the first port with some groups, whose rules are not there yet, comes without a look at what others have.
func TestPlugReadsNoOthers(t *testing.T) {
	_, m := live(t)
	d := guarded(t, map[string][]string{"web": {"ingress tcp 80-80 any"}}, []string{"web"})
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	r := &reader{wire: m.wire}
	m.wire = r
	more := tap(2)
	more.Guarded, more.Groups = true, []string{"db", "web"}
	require.NoError(t, m.Plug(t.Context(), bridge(), more))
	require.Zero(t, r.filters)
	got, err := m.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, more.Groups, got.Taps[1].Groups)
}

// TestNoRoomForATap fills the set that a tap would be in.
func TestNoRoomForATap(t *testing.T) {
	_, m := live(t)
	_, err := m.Apply(t.Context(), desired(1))
	require.NoError(t, err)
	var others filterChange
	for n := range maxTaps - 1 {
		others.add = append(others.add, element{set: open, key: string(padded(fmt.Append(nil, "other", n), 16))})
	}
	require.NoError(t, m.wire.commit(others))
	err = m.Plug(t.Context(), bridge(), tap(2))
	require.True(t, errdefs.IsResourceExhausted(err), err)
	require.NoError(t, m.wire.commit(filterChange{remove: others.add[:1]}))
	require.NoError(t, m.Plug(t.Context(), bridge(), tap(2)))
}
