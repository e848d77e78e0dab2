package dewpointtest

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// SeedVariable is the environment variable that has [Run] and [Histories] repeat one seed.
const SeedVariable = "DEWPOINT_SEED"

// repeats is how often a seed is repeated: goroutines take turns differently each time, and some failures need theirs.
const repeats = 100

// Run simulates one cloud, in a bubble of its own, and fails the test if an invariant does not hold; the failure names the seed.
// With DEWPOINT_SEED in the environment it takes the seed from there, and repeats it up to 100 times, until it fails.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if seed, set := fromEnvironment(t); set {
		repeat(t, seed, cfg)
		return
	}
	report(t, cfg.Seed, Simulate(t, cfg))
}

// Histories simulates n small clouds, with the seeds from cfg.Seed on, on all processors at once. It stops at the first that
// fails. With DEWPOINT_SEED in the environment it repeats that seed alone, up to 100 times, until it fails:
//
//	DEWPOINT_SEED=4711 go test -run TestHistories .
func Histories(t *testing.T, n int, cfg Config) {
	t.Helper()
	if seed, set := fromEnvironment(t); set {
		repeat(t, seed, cfg)
		return
	}
	var next atomic.Int64
	for worker := range runtime.GOMAXPROCS(0) {
		t.Run(fmt.Sprint("worker ", worker), func(t *testing.T) {
			t.Parallel()
			for at := next.Add(1) - 1; at < int64(n); at = next.Add(1) - 1 {
				c := cfg
				c.Seed += uint64(at)
				if report(t, c.Seed, Simulate(t, c)) {
					next.Store(int64(n)) // one is enough to look at
				}
			}
		})
	}
}

// Simulate simulates one cloud and returns what invariants it broke, a line each: it is for tests that want them broken.
func Simulate(t *testing.T, cfg Config) (violations []string) {
	t.Helper()
	cfg = cfg.complete()
	named := func() {
		if p := recover(); p != nil {
			panic(fmt.Sprintf("dewpointtest: seed %d: %v", cfg.Seed, p))
		}
	}
	defer named() // a deadlock
	synctest.Test(t, func(*testing.T) {
		defer named() // a panic of the script
		violations = simulate(cfg)
	})
	slices.Sort(violations)
	return slices.Compact(violations)
}

func report(t *testing.T, seed uint64, violations []string) (failed bool) {
	t.Helper()
	if len(violations) == 0 {
		return false
	}
	t.Errorf("seed %d (again: %s=%d go test -run '^%s$'):\n\t%s", seed, SeedVariable, seed,
		strings.Split(t.Name(), "/")[0], strings.Join(violations, "\n\t"))
	return true
}

func repeat(t *testing.T, seed uint64, cfg Config) {
	t.Helper()
	cfg.Seed = seed
	for range repeats {
		if report(t, seed, Simulate(t, cfg)) {
			return
		}
	}
}

func fromEnvironment(t *testing.T) (seed uint64, set bool) {
	t.Helper()
	text := os.Getenv(SeedVariable)
	if text == "" {
		return 0, false
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s is %.40q, must be a number from 0 to 2^64-1", SeedVariable, text)
	}
	return seed, true
}
