package libvirt_test

import (
	"context"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// TestNothingComesBackAfterCallsThatWereCutShort makes machines and ends them from five goroutines, with contexts that end at
// any moment, and then once more without a deadline. libvirtd goes on with a call whose client is gone, so what a cut Create
// asked for may come true late: a Destroy that returned must have seen it.
func TestNothingComesBackAfterCallsThatWereCutShort(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	r := newRig(t)
	h := r.driver()
	long := 6 * time.Second
	if text := os.Getenv("DEWPOINT_STRESS"); text != "" { // for hunting
		var err error
		long, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	end := time.Now().Add(long)
	type tally struct{ rounds, cutCreates, cutDestroys int }
	var mu sync.Mutex
	var sum tally
	var group sync.WaitGroup
	for worker := range uint64(5) {
		group.Go(func() {
			dice := rand.New(rand.NewPCG(worker, uint64(end.UnixNano())))
			within := func(most time.Duration, f func(context.Context) error) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(dice.Int64N(int64(most))))
				defer cancel()
				err := f(ctx)
				if err != nil && err != context.DeadlineExceeded {
					t.Errorf("got error %v, want exactly %v", err, context.DeadlineExceeded)
				}
				return err
			}
			for time.Now().Before(end) {
				m := r.machine()
				m.MemoryMiB = 32
				most := 1500 * time.Millisecond
				if dice.IntN(4) > 0 {
					most = 30 * time.Millisecond // which hits the definition, before the start
				}
				created := within(most, func(ctx context.Context) error { return h.Create(ctx, m) })
				var destroyed error
				if dice.IntN(2) > 0 {
					destroyed = within(600*time.Millisecond, func(ctx context.Context) error { return h.Destroy(ctx, m.ID, m.Epoch) })
				}
				if err := h.Destroy(t.Context(), m.ID, m.Epoch); err != nil {
					t.Errorf("the last Destroy: %v", err)
				}
				all, err := h.List(t.Context())
				if err != nil {
					t.Errorf("List: %v", err)
				}
				for _, d := range all {
					if d.ID == m.ID {
						t.Errorf("a domain is %s after Destroy returned (Create: %v, Destroy: %v)", d.Power, created, destroyed)
					}
				}
				mu.Lock()
				sum.rounds++
				if created != nil {
					sum.cutCreates++
				}
				if destroyed != nil {
					sum.cutDestroys++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%+v", sum)
	require.Empty(t, strings.TrimSpace(r.virsh("list", "--all", "--name")))
	all, err := h.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
}
