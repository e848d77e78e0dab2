package network_test

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/state"
)

func (s *stage) node2() (*fakenetwork.Node, *network.Agent) {
	node := fakenetwork.NewNode()
	a, err := network.NewAgent(network.AgentConfig{Store: s.store, HostID: "h2", Manager: fakenetwork.New(fakenetwork.Config{Node: node}),
		Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	require.NoError(s.t, err)
	return node, a
}

func (s *stage) update(f func(tx *state.Tx) error) {
	s.t.Helper()
	require.NoError(s.t, s.store.Update(s.t.Context(), f))
}

// While an instance moves both nodes have its port's tap; afterwards one of them, and a look at the other does not bring it back.
func TestAPortMoves(t *testing.T) {
	for _, to := range []string{"h1", "h2"} {
		for _, restarted := range []bool{false, true} {
			s := newStage(t)
			second, there := s.node2()
			s.node.AddLink("eth1")
			second.AddLink("eth1")
			p, a := s.port(), &s.service.Addresses
			pool(t, s.service, "203.0.113.0/29")
			f, err := s.service.AllocateFloatingIP(as("p"), "outside")
			require.NoError(t, err)
			_, err = s.service.AssociateFloatingIP(as("p"), f.Addr, p.ID, netip.Addr{})
			require.NoError(t, err)
			_, err = s.agent.Plug(t.Context(), p.ID)
			require.NoError(t, err)
			_, err = there.Plug(t.Context(), p.ID)
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			s.update(func(tx *state.Tx) error { return a.Extend(tx, p.ID, "h2") })
			_, err = there.Plug(t.Context(), p.ID)
			require.NoError(t, err)
			agents := map[string]*network.Agent{"h1": s.agent, "h2": there}
			nodes := map[string]*fakenetwork.Node{"h1": s.node, "h2": second}
			for host, agent := range agents {
				_, err = agent.Sync(t.Context())
				require.NoError(t, err)
				require.Len(t, nodes[host].Desired().Taps, 1, host)
				require.ErrorIs(t, agent.Unplug(t.Context(), p.ID), errdefs.ErrFailedPrecondition)
				require.Len(t, nodes[host].Desired().Floating, map[string]int{"h1": 1}[host], "a floating IP is answered where the machine runs")
			}

			s.update(func(tx *state.Tx) error { return a.Settle(tx, p.ID, to) })
			left := map[string]string{"h1": "h2", "h2": "h1"}[to]
			if restarted {
				agents[left], err = network.NewAgent(network.AgentConfig{Store: s.store, HostID: left, Manager: fakenetwork.New(fakenetwork.Config{Node: nodes[left]})})
				require.NoError(t, err)
				_, err = agents[left].Sync(t.Context())
				require.NoError(t, err)
			}
			require.NoError(t, agents[left].Unplug(t.Context(), p.ID))
			require.ErrorIs(t, agents[to].Unplug(t.Context(), p.ID), errdefs.ErrFailedPrecondition)
			for range 2 {
				for host, agent := range agents {
					_, err = agent.Sync(t.Context())
					require.NoError(t, err)
					want := map[bool]int{true: 1}[host == to]
					require.Len(t, nodes[host].Desired().Taps, want, "%s, restarted %v", host, restarted)
					require.Len(t, nodes[host].Desired().Bridges, want)
					require.Len(t, nodes[host].Desired().Floating, want)
				}
			}
		}
	}
}

func TestPortsThatCanNotMove(t *testing.T) {
	s := newStage(t)
	multi := lan()
	multi.Name, multi.MultiHost, multi.Bridge, multi.CIDR = "multi", true, "br7", netip.MustParsePrefix("10.7.0.0/24")
	p := mustAllocate(t, s.store, &s.service.Addresses, create(t, s.service, multi).ID)
	err := s.store.Update(t.Context(), func(tx *state.Tx) error { return s.service.Addresses.Extend(tx, p.ID, "h2") })
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, `network "multi" has a gateway on each node`)
	err = s.store.Update(t.Context(), func(tx *state.Tx) error { return s.service.Addresses.Extend(tx, "none", "h2") })
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	s.update(func(tx *state.Tx) error { return s.service.Addresses.Settle(tx, "none", "h2") })
}
