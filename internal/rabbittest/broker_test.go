package rabbittest_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/internal/rabbittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestTwoBrokers start beside each other, are killed and come back, and are gone in the end.
func TestTwoBrokers(t *testing.T) {
	rabbittest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	started := make(chan *rabbittest.Broker, 2)
	for range 2 {
		dir := t.TempDir()
		go func() {
			b, err := rabbittest.Start(ctx, rabbittest.Config{Dir: dir})
			if err != nil {
				t.Error(err)
			}
			started <- b
		}()
	}
	one, two := <-started, <-started
	defer func() {
		for _, b := range []*rabbittest.Broker{one, two} {
			if b != nil {
				b.Stop()
			}
		}
	}()
	require.NotNil(t, one)
	require.NotNil(t, two)
	require.NotEqual(t, one.URL(), two.URL())

	_, err := one.Control(ctx, "add_vhost", "kept")
	require.NoError(t, err)
	one.Kill()
	require.False(t, reachable(t, one.URL()))
	require.True(t, reachable(t, two.URL()), "the other one goes on")
	require.NoError(t, one.Restart(ctx))
	vhosts, err := one.Control(ctx, "list_vhosts")
	require.NoError(t, err)
	require.Contains(t, strings.Fields(vhosts), "kept")

	one.Stop()
	two.Stop()
	require.False(t, reachable(t, one.URL()))
	require.False(t, reachable(t, two.URL()))
}

// TestABrokerThatCannotStart says why.
func TestABrokerThatCannotStart(t *testing.T) {
	rabbittest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	_, err := rabbittest.Start(ctx, rabbittest.Config{Dir: t.TempDir(), Lines: []string{"no.such.setting = 1"}})
	require.ErrorContains(t, err, "no.such.setting")
	_, err = rabbittest.Start(ctx, rabbittest.Config{Dir: "/nonexistent"})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func reachable(t *testing.T, address string) bool {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	conn, err := net.DialTimeout("tcp", u.Host, 10*time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}
