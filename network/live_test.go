package network_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// running starts the stage's agent, which looks for drift once an hour, and ends it with the test.
func (s *stage) running() (stop func()) {
	s.t.Helper()
	var err error
	s.agent, err = network.NewAgent(network.AgentConfig{Store: s.store, HostID: "h1", Manager: fakenetwork.New(fakenetwork.Config{Node: s.node}),
		DHCP: s.dhcp, Repair: time.Hour})
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error)
	go func() { ended <- s.agent.Run(ctx) }()
	return func() { cancel(); require.NoError(s.t, <-ended) }
}

// OSSA 2015-021: what changes of groups is in force on machines that run, without anybody looking for drift.
func TestGroupsChangeLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		defer func() { require.NoError(t, s.store.Close()) }()
		defer s.running()()
		p, q := s.port(), s.port()
		for _, id := range []string{p.ID, q.ID} {
			_, err := s.agent.Plug(t.Context(), id)
			require.NoError(t, err)
		}
		from := func(o network.Port, port int) bool {
			time.Sleep(time.Second)
			synctest.Wait()
			return s.node.Passes(p.TapName(), network.Packet{Direction: network.Ingress, Protocol: network.TCP, Port: port, Remote: o.Addrs[0]})
		}
		stranger := network.Port{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		require.True(t, from(q, 22))
		require.False(t, from(stranger, 22))

		g, err := s.service.AddRules(as("p"), network.DefaultGroup, ssh)
		require.NoError(t, err)
		require.True(t, from(stranger, 22))
		g, err = s.service.RemoveRules(as("p"), g.ID, g.Rules[2].ID, g.Rules[1].ID)
		require.NoError(t, err)
		require.False(t, from(stranger, 22))
		require.False(t, from(q, 22))

		web, err := s.service.CreateSecurityGroup(as("p"), "web", "")
		require.NoError(t, err)
		admins, err := s.service.CreateSecurityGroup(as("p"), "admins", "")
		require.NoError(t, err)
		r := ssh
		r.RemoteGroup = admins.ID
		_, err = s.service.AddRules(as("p"), web.ID, r)
		require.NoError(t, err)
		_, err = s.service.SetSecurityGroups(as("p"), p.ID, "web")
		require.NoError(t, err)
		require.False(t, from(q, 22))
		_, err = s.service.SetSecurityGroups(as("p"), q.ID, "admins", "default")
		require.NoError(t, err)
		require.True(t, from(q, 22), "the other is a member now")

		// A member on another node that comes and goes.
		var other network.Port
		require.NoError(t, s.store.Update(t.Context(), func(tx *state.Tx) (err error) {
			other, err = s.service.Addresses.Allocate(tx, network.PortRequest{NetworkID: s.lan.ID, ProjectID: "p", HostID: "h2", SecurityGroups: []string{"admins"}})
			return err
		}))
		require.True(t, from(other, 22))
		require.NoError(t, s.store.Update(t.Context(), func(tx *state.Tx) error { return s.service.Addresses.Release(tx, other.ID) }))
		require.False(t, from(other, 22))
		require.Equal(t, 1, s.node.Calls(fakenetwork.MethodApply), "none of this took a look at the whole node")
	})
}

// OSSA 2015-021 again, while a machine starts: its groups are on the node before its tap is, and a driver that fails to set them gets no tap.
func TestGroupsAreThereBeforeTheTap(t *testing.T) {
	s := newStage(t)
	p := s.port()
	fault := s.node.Inject(fakenetwork.Fault{Method: fakenetwork.MethodSetGroups, Err: context.DeadlineExceeded})
	_, err := s.agent.Plug(t.Context(), p.ID)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, s.node.Desired().Taps)
	fault.Remove()
	_, err = s.agent.Plug(t.Context(), p.ID)
	require.NoError(t, err)
	d := s.node.Desired()
	require.Len(t, d.Groups, 1)
	require.Len(t, d.Groups[0].Rules, 2)
	require.True(t, slices.Contains(d.Groups[0].Members, p.Addrs[0]))
	_, err = s.agent.Plug(t.Context(), s.port().ID)
	require.NoError(t, err)
	require.Equal(t, 2, s.node.Calls(fakenetwork.MethodSetGroups), "a further tap of the group needs none")
	changes, err := s.agent.Sync(t.Context())
	require.NoError(t, err)
	require.Len(t, changes, 1, "the link-local address of the second: %q", changes)
	s.settled()
}
