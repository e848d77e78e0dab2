package network_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
)

// A node that comes back under another id leaves the taps of the guests that it has, with their filters, says so, and removes them when
// their records say that they are to go.
func TestANodeUnderAnotherIDKeepsTaps(t *testing.T) {
	s := newStage(t)
	first, second := s.port(), s.port()
	_, err := s.agent.Sync(t.Context())
	require.NoError(t, err)
	before := s.node.Desired()
	require.Len(t, before.Taps, 2)
	agent, err := network.NewAgent(network.AgentConfig{Store: s.store, HostID: "h2", Manager: fakenetwork.New(fakenetwork.Config{Node: s.node}),
		DHCP: s.dhcp, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	require.NoError(t, err)
	for range 2 {
		changes, err := agent.Sync(t.Context())
		require.NoError(t, err)
		require.Empty(t, changes)
		require.Equal(t, before, s.node.Desired())
		require.Len(t, s.dhcp.taps, 2, "DHCP goes on to answer them")
		path, err := agent.DataPath(t.Context())
		require.NoError(t, err)
		require.Empty(t, path.Difference())
	}
	require.Contains(t, s.log.String(), first.ID)
	require.Contains(t, s.log.String(), "node=h1")
	s.unplug(first)
	_, err = agent.Sync(t.Context())
	require.NoError(t, err)
	require.Len(t, s.node.Desired().Taps, 1)
	require.Equal(t, second.ID, s.node.Desired().Taps[0].Port)
	s.unplug(second)
	_, err = agent.Sync(t.Context())
	require.NoError(t, err)
	require.Empty(t, s.node.Desired().Taps)
	require.Empty(t, s.node.Desired().Bridges)
}
