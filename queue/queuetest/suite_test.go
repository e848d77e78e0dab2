package queuetest

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is how the suite's own tests set a bus.
func small() memqueue.Config {
	return memqueue.Config{Workers: 4, Backlog: 8, Async: 6, CallTimeout: time.Minute}
}

func envOf(buses ...queue.Bus) Env {
	return Env{
		Buses: buses, Workers: 4, Backlog: 8, Async: 6, CallTimeout: time.Minute, Quiet: 5 * time.Millisecond,
		Knows: Knows{Lost: true, CastBacklog: true, CallBacklog: true, FanoutBacklog: true, Gone: true},
	}
}

func TestGoodBus(t *testing.T) {
	TestBusInBubble(t, func(t *testing.T) Env { return envOf(memqueue.New(small())) })
}

func TestGoodBusWithUsers(t *testing.T) {
	TestBusInBubble(t, func(t *testing.T) Env { return barred(func(*broken) {})() })
}

// TestBareEnv runs the suite over a bus of which nothing is known.
func TestBareEnv(t *testing.T) {
	left := map[string]bool{}
	for _, r := range rows() {
		synctest.Test(t, func(t *testing.T) {
			bus := memqueue.New(small())
			err := r.run(t.Context(), Env{Buses: []queue.Bus{bus}, Knows: Knows{Lost: true}})
			if left[r.name] = errors.Is(err, errLeftOut); !left[r.name] {
				require.NoError(t, err, r.name)
			}
			require.ErrorIs(t, bus.Cast(t.Context(), queue.Message{Topic: "a"}), queue.ErrClosed, "the suite closes buses")
		})
	}
	require.True(t, left["workers"] && left["other buses go on"] && left["a caller that has gone"])
}

func TestNoBusIsNoSuccess(t *testing.T) {
	for _, r := range rows() {
		require.Error(t, r.run(t.Context(), Env{}), r.name)
	}
}

func TestRulesAreInTheContract(t *testing.T) {
	contract := ""
	for _, file := range []string{"bus.go", "message.go", "failure.go"} {
		source, err := os.ReadFile("../" + file)
		require.NoError(t, err)
		contract += " " + strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), " ")), " ")
	}
	names := map[string]bool{}
	for _, r := range rows() {
		require.Contains(t, contract, strings.Join(strings.Fields(r.rule), " "), r.name)
		require.False(t, names[r.name], "two rows are named %q", r.name)
		names[r.name] = true
	}
}

func TestSuiteFindsBrokenBuses(t *testing.T) {
	all := map[string]row{}
	for _, r := range rows() {
		all[r.name] = r
	}
	found := map[string]bool{}
	for _, f := range faults() {
		t.Run(f.fault, func(t *testing.T) {
			for _, name := range f.rows {
				r, ok := all[name]
				require.True(t, ok, "no row is named %q", name)
				found[name] = true
				synctest.Test(t, func(t *testing.T) {
					env := f.env()
					env.Patience = time.Second
					require.Error(t, r.run(t.Context(), env), "row %q does not find it", name)
				})
			}
		})
	}
	for name := range all {
		require.True(t, found[name], "no broken bus shows that the row %q finds anything", name)
	}
}
