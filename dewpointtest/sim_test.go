package dewpointtest_test

import (
	"context"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/dewpointtest"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/image/blobtest"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // small heaps, much garbage
	goleak.VerifyTestMain(m)
}

func TestBlobs(t *testing.T) {
	blobtest.Test(t, func(*testing.T) image.Blobs { return dewpointtest.NewBlobs() })
}

func TestNothingGoesWrong(t *testing.T) {
	dewpointtest.Run(t, dewpointtest.Config{Clean: true})
}

// Small clouds of four sizes, each in a storm. Every eighth is emptied in the end.
func TestHistories(t *testing.T) {
	n := 160
	if os.Getenv("DEWPOINT_REQUIRE") == "all" {
		n = 10_000
	}
	for _, c := range []struct {
		name               string
		controllers, hosts int
		clean              bool
		share              int // of 16
	}{
		{"one controller and one host", 1, 1, false, 6},
		{"two controllers and one host", 2, 1, false, 4},
		{"one controller and two hosts", 1, 2, false, 4},
		{"two controllers and two hosts, emptied", 2, 2, true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			dewpointtest.Histories(t, n*c.share/16, dewpointtest.Config{Controllers: c.controllers, Hosts: c.hosts, Clean: c.clean, Steps: 3,
				Faults: dewpointtest.Storm()})
		})
	}
}

// Larger clouds, for longer.
func TestLongHistories(t *testing.T) {
	n := 2
	if os.Getenv("DEWPOINT_REQUIRE") == "all" {
		n = 40
	}
	faults := dewpointtest.Storm()
	faults.Kills, faults.Cuts, faults.PowerCuts, faults.GuestFalls, faults.Over = 12, 4, 4, 4, time.Minute
	dewpointtest.Histories(t, n, dewpointtest.Config{Controllers: 3, Hosts: 4, Steps: 60, Faults: faults, Clean: true})
}

// What a script finds fails the test, and so does a wrong configuration.
func TestAViolationIsReported(t *testing.T) {
	found := dewpointtest.Simulate(t, dewpointtest.Config{Script: func(_ context.Context, s *dewpointtest.Sim) { s.Violated("rule %d", 7) }})
	require.Equal(t, []string{"rule 7"}, found)
	require.PanicsWithValue(t, "dewpointtest: Config.Faults.Cuts and Kills must be 0 where Shared is set", func() {
		dewpointtest.Simulate(t, dewpointtest.Config{Shared: true, Faults: dewpointtest.Storm()})
	})
}

// A seed asks the same of the cloud each time.
func TestASeedAsksTheSame(t *testing.T) {
	asked := func(seed uint64) string {
		var names []string
		require.Empty(t, dewpointtest.Simulate(t, dewpointtest.Config{Seed: seed, Script: func(ctx context.Context, s *dewpointtest.Sim) {
			for range 20 {
				names = append(names, strings.Repeat("x", s.Dice.IntN(9)), s.Hosts[0].ID)
			}
		}}))
		return strings.Join(names, " ")
	}
	require.Equal(t, asked(1), asked(1))
	require.NotEqual(t, asked(1), asked(2))
}
