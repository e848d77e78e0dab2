package network_test

import (
	"context"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
)

// TestDriftOfARealNodeIsRepairedAndReported: what somebody's hand takes from a node comes back within an agent's usual pause, 4 s, and
// is told: in the log, and in the counts.
func TestDriftOfARealNodeIsRepairedAndReported(t *testing.T) {
	testneed.Root(t)
	testneed.Slow(t)
	testneed.Tools(t, "ip", "nft")
	s := newStage(t)
	ns := netnstest.New(t)
	m, err := linux.New(linux.Config{NetNS: ns.Path()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	p, _ := s.port(), s.port()
	var log lockedBuffer
	a, err := network.NewAgent(network.AgentConfig{Store: s.store, HostID: "h1", Manager: m, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() { stop(); require.NoError(t, <-ended) }()
	require.Eventually(t, func() bool { return a.Stats().Looks > 0 }, time.Minute, 10*time.Millisecond)
	agrees := func() {
		t.Helper()
		d, err := a.DataPath(t.Context())
		require.NoError(t, err)
		require.Empty(t, d.Difference())
		require.Len(t, d.Actual.Taps, 2)
		require.Len(t, d.Actual.Groups, 1)
	}
	agrees()
	for _, by := range []struct{ hand, told string }{
		{"nft delete table bridge dewpoint", "filter made, as it is missing"},
		{"ip addr flush dev br100", "br100"},
		{"ip link del " + p.TapName(), p.TapName()},
		{"ip link del br100", "br100"},
	} {
		before, said := a.Stats(), log.Len()
		require.NoError(t, ns.Do(func() error {
			words := strings.Fields(by.hand)
			out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
			require.NoError(t, err, "%s: %s", by.hand, out)
			return nil
		}))
		begun := time.Now()
		require.Eventually(t, func() bool { return a.Stats().Drifts > before.Drifts }, time.Minute, 10*time.Millisecond, by.hand)
		t.Logf("%s: repaired after %v", by.hand, time.Since(begun).Round(10*time.Millisecond))
		agrees()
		require.Greater(t, a.Stats().Repairs, before.Repairs)
		require.Contains(t, log.From(said), "drift repaired")
		require.Contains(t, log.From(said), by.told)
		require.Equal(t, before.Failures, a.Stats().Failures)
	}
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *lockedBuffer) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.text)
}

// From is what was written after the first n bytes.
func (b *lockedBuffer) From(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text[n:])
}
