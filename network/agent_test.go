package network_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// fakeDHCP notes what an agent tells a DHCP server.
type fakeDHCP struct {
	taps map[string]network.Tap
	err  error
}

func (f *fakeDHCP) Apply(_ context.Context, d network.Desired) error {
	f.taps = map[string]network.Tap{}
	for _, t := range d.Taps {
		f.taps[t.Name] = t
	}
	return f.err
}

func (f *fakeDHCP) Plug(_ context.Context, _ network.Bridge, t network.Tap) error {
	f.taps[t.Name] = t
	return f.err
}

func (f *fakeDHCP) Unplug(_ context.Context, tap string) error { delete(f.taps, tap); return f.err }

func (f *fakeDHCP) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// stage is a node with an agent, and a network with the ports that a test makes.
type stage struct {
	t       *testing.T
	store   *state.Store
	service *network.Service
	lan     network.Network
	node    *fakenetwork.Node
	dhcp    *fakeDHCP
	other   *fakeDHCP // another server of the node
	agent   *network.Agent
	log     bytes.Buffer
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, store: stores(t, 1)[0], node: fakenetwork.NewNode(), dhcp: &fakeDHCP{taps: map[string]network.Tap{}},
		other: &fakeDHCP{taps: map[string]network.Tap{}}}
	s.service = newService(t, s.store)
	s.lan = create(t, s.service, lan())
	var err error
	s.agent, err = network.NewAgent(network.AgentConfig{Store: s.store, HostID: "h1", Manager: fakenetwork.New(fakenetwork.Config{Node: s.node}),
		DHCP: s.dhcp, Servers: []network.Server{s.other}, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	require.NoError(t, err)
	return s
}

func (s *stage) port() network.Port {
	return mustAllocate(s.t, s.store, &s.service.Addresses, s.lan.ID)
}

func (s *stage) unplug(p network.Port) {
	s.t.Helper()
	require.NoError(s.t, s.store.Update(s.t.Context(), func(tx *state.Tx) error { return s.service.Addresses.Unplug(tx, p.ID) }))
}

// settled checks that node and DHCP server have what the records say.
func (s *stage) settled() {
	s.t.Helper()
	var want network.Desired
	require.NoError(s.t, s.store.View(func(v *state.View) error { want = network.Plan(v, "h1"); return nil }))
	got := s.node.Desired()
	require.Len(s.t, got.Bridges, len(want.Bridges))
	require.Len(s.t, got.Taps, len(want.Taps))
	require.Len(s.t, s.dhcp.taps, len(want.Taps))
	require.Equal(s.t, s.dhcp.taps, s.other.taps, "every server is told the same")
	for i, tap := range want.Taps {
		require.Equal(s.t, tap.Name, got.Taps[i].Name)
		require.Equal(s.t, tap.MAC, got.Taps[i].MAC)
		require.Equal(s.t, tap.IPs, got.Taps[i].IPs)
		require.Equal(s.t, tap, s.dhcp.taps[tap.Name])
	}
}

func TestNewAgentNamesWhatIsMissing(t *testing.T) {
	store := stores(t, 1)[0]
	manager := fakenetwork.New(fakenetwork.Config{})
	for field, cfg := range map[string]network.AgentConfig{
		"Store":   {HostID: "h", Manager: manager},
		"HostID":  {Store: store, Manager: manager},
		"Manager": {Store: store, HostID: "h"},
		"Repair":  {Store: store, HostID: "h", Manager: manager, Repair: -1},
	} {
		_, err := network.NewAgent(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, "AgentConfig."+field)
	}
}

func TestPlanIsTheNodesPluggedPorts(t *testing.T) {
	s := newStage(t)
	mine, gone := s.port(), s.port()
	s.unplug(gone)
	require.NoError(t, s.store.Update(t.Context(), func(tx *state.Tx) error {
		_, err := s.service.Addresses.Allocate(tx, network.PortRequest{NetworkID: s.lan.ID, ProjectID: "p", HostID: "h2"})
		return err
	}))
	require.NoError(t, s.store.View(func(v *state.View) error {
		d := network.Plan(v, "h1")
		require.NoError(t, d.Validate())
		require.Len(t, d.Bridges, 1)
		require.Equal(t, "10.0.0.1/24", d.Bridges[0].Gateway.String())
		require.Equal(t, s.lan.Router, d.Bridges[0].Router)
		require.Len(t, d.Taps, 1)
		require.Equal(t, network.Tap{Name: mine.TapName(), Bridge: "br100", Port: mine.ID, MAC: mine.HardwareAddr(), IPs: mine.Addrs, Hostname: "vm",
			Guarded: true, Groups: mine.SecurityGroups}, d.Taps[0])
		require.Empty(t, network.Plan(v, "h3"))
		require.Len(t, d.Groups, 1)
		require.Equal(t, mine.SecurityGroups[0], d.Groups[0].ID)
		require.Len(t, d.Groups[0].Rules, 2)
		require.Len(t, d.Groups[0].Members, 6, "on all nodes, plugged or not: two addresses each")
		return nil
	}))
}

// MD-01: guests that route through another reach the node's metadata by a route of their own.
func TestPlanLeadsToTheMetadata(t *testing.T) {
	store := stores(t, 1)[0]
	service := newService(t, store)
	metadata, gateway := netip.MustParsePrefix("169.254.169.254/32"), netip.MustParseAddr("10.0.0.1")
	own := network.Route{To: netip.MustParsePrefix("172.16.0.0/12"), Via: netip.MustParseAddr("10.0.0.9")}
	for i, one := range []struct {
		router       string
		routes, want []network.Route
	}{
		{"10.0.0.1", []network.Route{own}, []network.Route{own}},
		{"10.0.0.254", []network.Route{own}, []network.Route{own, {To: metadata, Via: gateway}}},
		{"10.0.0.254", nil, []network.Route{{To: metadata, Via: gateway}}},
		{"10.0.0.254", []network.Route{{To: metadata, Via: own.Via}}, []network.Route{{To: metadata, Via: own.Via}}},
	} {
		n := lan()
		n.Name, n.Bridge, n.Router, n.Routes = fmt.Sprint("n", i), fmt.Sprint("br", i), netip.MustParseAddr(one.router), one.routes
		n = create(t, service, n)
		p := mustAllocate(t, store, &service.Addresses, n.ID)
		require.NoError(t, store.View(func(v *state.View) error {
			for _, b := range network.Plan(v, p.HostID).Bridges {
				if b.Name == n.Bridge {
					require.Equal(t, one.want, b.Routes)
					return nil
				}
			}
			return errors.New("no bridge")
		}))
		release(t, store, &service.Addresses, p.ID)
		require.NoError(t, service.Delete(as("p"), n.ID)) // the next has its subnet
	}
}

func TestPlugAndUnplugFollowTheRecord(t *testing.T) {
	s := newStage(t)
	ctx := t.Context()
	p, q := s.port(), s.port()
	for range 2 {
		tap, err := s.agent.Plug(ctx, p.ID)
		require.NoError(t, err)
		require.Equal(t, p.TapName(), tap)
	}
	_, err := s.agent.Plug(ctx, q.ID)
	require.NoError(t, err)
	s.settled()

	require.True(t, errdefs.IsFailedPrecondition(s.agent.Unplug(ctx, p.ID)), "the record says that it is plugged")
	s.settled()
	s.unplug(p)
	_, err = s.agent.Plug(ctx, p.ID)
	require.True(t, errdefs.IsFailedPrecondition(err), "the record says that it is not")
	for range 2 {
		require.NoError(t, s.agent.Unplug(ctx, p.ID))
		s.settled()
	}
	require.NoError(t, s.agent.Unplug(ctx, "unknown"))
	_, err = s.agent.Plug(ctx, "unknown")
	require.True(t, errdefs.IsNotFound(err))

	s.unplug(q)
	require.NoError(t, s.agent.Unplug(ctx, q.ID))
	require.Empty(t, s.node.Desired().Bridges, "with the last tap goes the bridge")
	release(t, s.store, &s.service.Addresses, q.ID)
	require.NoError(t, s.agent.Unplug(ctx, q.ID))
}

func TestAPortOfAnotherNodeIsNotPlugged(t *testing.T) {
	s := newStage(t)
	var p network.Port
	require.NoError(t, s.store.Update(t.Context(), func(tx *state.Tx) (err error) {
		p, err = s.service.Addresses.Allocate(tx, network.PortRequest{NetworkID: s.lan.ID, ProjectID: "p", HostID: "h2"})
		return err
	}))
	_, err := s.agent.Plug(t.Context(), p.ID)
	require.True(t, errdefs.IsFailedPrecondition(err))
	require.NoError(t, s.agent.Unplug(t.Context(), p.ID), "and what this node has of it goes")
}

func TestDriversErrorsNameThePort(t *testing.T) {
	boom := errors.New("boom")
	s := newStage(t)
	p := s.port()
	fault := s.node.Inject(fakenetwork.Fault{Err: boom})
	_, err := s.agent.Plug(t.Context(), p.ID)
	require.ErrorIs(t, err, boom)
	require.ErrorContains(t, err, p.ID)
	_, err = s.agent.Sync(t.Context())
	require.ErrorIs(t, err, boom)
	require.Contains(t, s.dhcp.taps, p.TapName(), "who has a tap is answered, whatever else could not be made")
	s.unplug(p)
	require.ErrorIs(t, s.agent.Unplug(t.Context(), p.ID), boom)
	fault.Remove()
	require.NoError(t, s.agent.Unplug(t.Context(), p.ID))
	s.settled()
	q := s.port()
	s.dhcp.err = boom
	_, err = s.agent.Plug(t.Context(), q.ID)
	require.ErrorIs(t, err, boom)
	_, err = s.agent.Sync(t.Context())
	require.ErrorIs(t, err, boom)
	s.unplug(q)
	require.ErrorIs(t, s.agent.Unplug(t.Context(), q.ID), boom)
}

// TestAnothersMissingUplinkKeepsNoPort: one network's trouble is not another's.
func TestAnothersMissingUplinkKeepsNoPort(t *testing.T) {
	s := newStage(t)
	p := s.port()
	bad := lan()
	bad.Name, bad.Bridge, bad.Uplink, bad.CIDR = "bad", "br200", "eth9", netip.MustParsePrefix("10.1.0.0/24")
	bad = create(t, s.service, bad)
	mustAllocate(t, s.store, &s.service.Addresses, bad.ID)
	_, err := s.agent.Sync(t.Context())
	require.True(t, errdefs.IsNotFound(err), err)
	require.ErrorContains(t, err, "eth9")
	_, there := s.node.Tap(p.TapName())
	require.True(t, there)
	require.Contains(t, s.dhcp.taps, p.TapName())
	s.unplug(p)
	require.NoError(t, s.agent.Unplug(t.Context(), p.ID))
	_, there = s.node.Tap(p.TapName())
	require.False(t, there)
}

func TestWhoWaitsForTheAgentCanGiveUp(t *testing.T) {
	s := newStage(t)
	p := s.port()
	fault := s.node.Inject(fakenetwork.Fault{Method: fakenetwork.MethodApply, Hang: true})
	ended := make(chan error, 1)
	go func() { _, err := s.agent.Sync(context.Background()); ended <- err }()
	<-fault.Struck()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := s.agent.Plug(ctx, p.ID)
	require.Equal(t, context.DeadlineExceeded, err)
	require.Equal(t, context.DeadlineExceeded, s.agent.Unplug(ctx, p.ID))
	_, err = s.agent.Sync(ctx)
	require.Equal(t, context.DeadlineExceeded, err)
	fault.Remove()
	require.NoError(t, <-ended)
	s.settled()
}

func TestRunRepairsDriftAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		p, q := s.port(), s.port()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.agent.Run(ctx) }()
		synctest.Wait()
		s.settled()
		require.NotContains(t, s.log.String(), "drift")

		s.node.RemoveTap(p.TapName())
		time.Sleep(6 * time.Second)
		synctest.Wait()
		s.settled()
		require.Contains(t, s.log.String(), "drift repaired")
		require.Contains(t, s.log.String(), p.TapName())
		require.Equal(t, network.AgentStats{Looks: 2, Drifts: 1, Repairs: 1}, s.agent.Stats())

		s.node.RemoveBridge("br100")
		fault := s.node.Inject(fakenetwork.Fault{Method: fakenetwork.MethodApply, Err: errors.New("boom")})
		time.Sleep(6 * time.Second)
		synctest.Wait()
		require.Contains(t, s.log.String(), "boom")
		require.NotZero(t, s.agent.Stats().Failures)
		fault.Remove()
		s.unplug(q)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		s.settled()
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, s.store.Close())
	})
}
