package fakenetwork_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bridge() network.Bridge {
	return network.Bridge{Name: "br100", Gateway: netip.MustParsePrefix("10.0.0.1/24"), Domain: "novalocal"}
}

func tap(n int) network.Tap {
	return network.Tap{
		Name: fmt.Sprint("dp", n), Bridge: "br100", Port: fmt.Sprint("port-", n), MAC: []byte{0x52, 0x54, 0, 0, 0, byte(n)},
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + n)})}, Hostname: "h",
	}
}

func desired(taps ...int) network.Desired {
	d := network.Desired{Bridges: []network.Bridge{bridge()}}
	for _, n := range taps {
		d.Taps = append(d.Taps, tap(n))
	}
	return d
}

func TestNodeOutlivesItsManager(t *testing.T) {
	node, ctx := fakenetwork.NewNode(), t.Context()
	first := fakenetwork.New(fakenetwork.Config{Node: node})
	_, err := first.Apply(ctx, desired(1))
	require.NoError(t, err)
	require.NoError(t, first.Close())
	require.NoError(t, fakenetwork.New(fakenetwork.Config{Node: node}).Plug(ctx, bridge(), tap(2)))
	want := desired(1, 2)
	want.Bridges[0].MTU = network.DefaultMTU
	require.Equal(t, want, node.Desired())
	got, ok := node.Tap("dp2")
	require.True(t, ok)
	require.Equal(t, tap(2), got)
}

func TestFaultBeforeAndAfter(t *testing.T) {
	boom := errors.New("boom")
	for _, after := range []bool{false, true} {
		m := fakenetwork.New(fakenetwork.Config{})
		f := m.Node().Inject(fakenetwork.Fault{Method: fakenetwork.MethodPlug, Call: 2, After: after, Err: boom})
		require.NoError(t, m.Plug(t.Context(), bridge(), tap(1)))
		require.NoError(t, m.Unplug(t.Context(), "dp1"))
		require.ErrorIs(t, m.Plug(t.Context(), bridge(), tap(2)), boom)
		require.NoError(t, m.Plug(t.Context(), bridge(), tap(3)))
		require.Equal(t, after, m.Node().Index("dp2") != 0, "the call had its effect")
		require.Equal(t, 1, f.Hits())
		require.Equal(t, 3, m.Node().Calls(fakenetwork.MethodPlug))
		require.Equal(t, 4, m.Node().Calls(""))
	}
}

func TestFaultOfOneTap(t *testing.T) {
	m := fakenetwork.New(fakenetwork.Config{})
	m.Node().Inject(fakenetwork.Fault{Tap: "dp2", Err: errdefs.ErrUnavailable})
	require.NoError(t, m.Plug(t.Context(), bridge(), tap(1)))
	require.ErrorIs(t, m.Plug(t.Context(), bridge(), tap(2)), errdefs.ErrUnavailable)
	require.ErrorIs(t, m.Unplug(t.Context(), "dp2"), errdefs.ErrUnavailable)
}

func TestHangAndDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := fakenetwork.New(fakenetwork.Config{})
		f := m.Node().Inject(fakenetwork.Fault{Hang: true, Delay: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { _, err := m.Apply(ctx, desired(1)); result <- err }()
		<-f.Struck()
		cancel()
		require.Equal(t, context.Canceled, <-result)
		go func() { result <- m.Plug(t.Context(), bridge(), tap(1)) }()
		time.Sleep(time.Minute)
		require.Empty(t, result)
		f.Remove()
		f.Remove()
		require.NoError(t, <-result)
	})
}

func TestDriftByHand(t *testing.T) {
	m, ctx := fakenetwork.New(fakenetwork.Config{}), t.Context()
	node := m.Node()
	for _, drift := range []func(){
		func() { node.RemoveTap("dp1") },
		func() { node.RemoveBridge("br100") },
		func() { node.Change("dp1", func(t *network.Tap) { t.IPs[0] = netip.MustParseAddr("10.0.0.99") }) },
	} {
		_, err := m.Apply(ctx, desired(1))
		require.NoError(t, err)
		drift()
		node.Change("unknown", nil)
		report, err := m.Apply(ctx, desired(1))
		require.NoError(t, err)
		require.NotEmpty(t, report.Changes)
		require.Equal(t, desired(1).Taps, node.Desired().Taps)
	}
}

func TestLinks(t *testing.T) {
	m, ctx := fakenetwork.New(fakenetwork.Config{}), t.Context()
	m.Node().AddLink("eth1")
	d := desired()
	d.Bridges[0].Uplink = "eth1"
	_, err := m.Apply(ctx, d)
	require.NoError(t, err)
	require.Equal(t, []string{"eth1"}, m.Node().Links())
	m.Node().RemoveLink("eth1")
	require.Empty(t, m.Node().Desired().Bridges[0].Uplink)
	_, err = m.Apply(ctx, d)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}
