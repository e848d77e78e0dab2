package operation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// faultyLog fails commits: before they are made, or after.
type faultyLog struct {
	state.Log
	before, after atomic.Pointer[error]
	commits       atomic.Int64
}

func (l *faultyLog) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	l.commits.Add(1)
	if err := l.before.Load(); err != nil {
		return 0, *err
	}
	rev, err := l.Log.Commit(ctx, b)
	if after := l.after.Load(); after != nil && err == nil {
		return 0, *after
	}
	return rev, err
}

// inBubble runs f with a log, a store over it and a function that runs a worker.
func inBubble(t *testing.T, h *host, cfg operation.Config, f func(t *testing.T, log *faultyLog, s *state.Store, work func() (ring func(), stop func()))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := &faultyLog{Log: memstate.New(memstate.Config{})}
		s := openStore(t, log)
		cfg := cfg
		if cfg.Kinds == nil {
			cfg.Kinds = h.kinds()
		}
		cfg.Store, cfg.Owner = s, "me"
		f(t, log, s, func() (ring, stop func()) {
			r, err := operation.NewRunner(cfg)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			return r.Ring, func() {
				cancel()
				require.NoError(t, <-done)
			}
		})
		require.NoError(t, s.Close())
		require.NoError(t, log.Close())
	})
}

func TestARecordThatTheStoreRefusesIsTriedAgainWithBackOff(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		for _, cause := range []error{errdefs.ErrUnavailable, state.ErrUnknown, errdefs.ErrResourceExhausted, errors.New("disk on fire")} {
			t.Run(when+" "+cause.Error(), func(t *testing.T) {
				h := newHost()
				inBubble(t, h, operation.Config{}, func(t *testing.T, log *faultyLog, s *state.Store, work func() (func(), func())) {
					h.block = make(chan struct{})
					begin(t, s, "make", 0)
					_, stop := work()
					defer stop()
					synctest.Wait() // it does "two"
					if when == "before" {
						log.before.Store(&cause)
					} else {
						log.after.Store(&cause)
					}
					before := log.commits.Load()
					close(h.block)
					time.Sleep(time.Minute)
					require.Less(t, log.commits.Load()-before, int64(30), "commits in a minute of failures")
					log.before.Store(nil)
					log.after.Store(nil)
					time.Sleep(time.Minute)
					th, open := look(s)
					require.Equal(t, thing{ID: "x", State: "made"}, th)
					require.Zero(t, open)
				})
			})
		}
	}
}

func TestCancelEndsTheWaitForARetry(t *testing.T) {
	h := newHost()
	h.fail["two"] = errdefs.ErrUnavailable
	inBubble(t, h, operation.Config{}, func(t *testing.T, _ *faultyLog, s *state.Store, work func() (func(), func())) {
		begin(t, s, "make", 0)
		ring, stop := work()
		defer stop()
		synctest.Wait()
		require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
			_, err := operation.Cancel(tx, "thing/x", "make")
			return err
		}))
		ring()
		synctest.Wait()
		th, open := look(s)
		require.Equal(t, thing{ID: "x", State: "failed", Why: "cancelled"}, th)
		require.Zero(t, open)
		require.Empty(t, h.parts)
	})
}

func TestTheDeadlineEndsTheWaitForARetry(t *testing.T) {
	h := newHost()
	kinds := []operation.Definition{operation.Define(operation.Kind[job]{Name: "make", Attempts: 100,
		Steps: []operation.Step[job]{{Name: "two", Do: h.do("two"), Undo: h.undo("two")}}, Failed: func(tx *state.Tx, j *job, reason string) error {
			return things.Put(tx, thing{ID: j.ID, State: "failed", Why: reason})
		}})}
	h.fail["two"] = errdefs.ErrUnavailable
	inBubble(t, h, operation.Config{Kinds: kinds, Tick: time.Hour}, func(t *testing.T, _ *faultyLog, s *state.Store, work func() (func(), func())) {
		begin(t, s, "make", 65*time.Second) // between two retries
		_, stop := work()
		defer stop()
		time.Sleep(66 * time.Second)
		th, _ := look(s)
		require.Equal(t, thing{ID: "x", State: "failed", Why: "two: deadline passed"}, th)
	})
}

// What was begun between a step and the next, while the worker looked elsewhere.
func TestCancelBetweenTwoStepsIsSeenAtOnce(t *testing.T) {
	h := newHost()
	var store *state.Store
	asked := false
	hooks := operation.Hooks{Point: func(r operation.Record, where string) error {
		if where == "before do two" && !asked {
			asked = true
			err := store.Update(context.Background(), func(tx *state.Tx) error {
				_, err := operation.Cancel(tx, r.Object, "make")
				return err
			})
			time.Sleep(20 * time.Second) // ticks pass: the runner has seen it
			return err
		}
		return nil
	}}
	inBubble(t, h, operation.Config{Hooks: hooks}, func(t *testing.T, _ *faultyLog, s *state.Store, work func() (func(), func())) {
		store = s
		h.block = make(chan struct{}) // "two" would wait for ever
		begin(t, s, "make", 0)
		_, stop := work()
		defer stop()
		time.Sleep(21 * time.Second)
		th, open := look(s)
		require.Equal(t, "cancelled", th.Why)
		require.Zero(t, open)
	})
}

func TestAnOperationThatOnlyGoesForwardKeepsItsBackOffWhenItIsCancelled(t *testing.T) {
	h := newHost()
	var tries atomic.Int64
	kinds := []operation.Definition{operation.Define(operation.Kind[job]{Name: "remove", Persist: true, Steps: []operation.Step[job]{{Name: "one",
		Do: func(context.Context, *job) error { tries.Add(1); return errdefs.ErrNotFound }}}})}
	inBubble(t, h, operation.Config{Kinds: kinds}, func(t *testing.T, _ *faultyLog, s *state.Store, work func() (func(), func())) {
		begin(t, s, "remove", time.Second)
		ring, stop := work()
		defer stop()
		synctest.Wait()
		require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
			_, err := operation.Cancel(tx, "thing/x", "remove")
			return err
		}))
		for range 300 {
			ring()
			time.Sleep(time.Second)
		}
		_, open := look(s)
		require.Equal(t, 1, open, "it goes on, though permanently refused, cancelled and late")
		require.Greater(t, tries.Load(), int64(8))
		require.Less(t, tries.Load(), int64(25))
	})
}

func TestWhatAStepsTransactionRefusesIsAFailedAttempt(t *testing.T) {
	for name, row := range map[string]struct {
		then  func(n int) error
		tries int
		why   string
	}{
		"may pass":       {func(n int) error { return errdefs.ErrUnavailable }, 3, "one: unavailable"},
		"does pass":      {func(n int) error { return map[bool]error{true: errdefs.ErrUnavailable}[n < 2] }, 2, ""},
		"permanent":      {func(n int) error { return errdefs.ErrAlreadyExists }, 1, "one: already exists"},
		"panics":         {func(n int) error { panic("oops") }, 3, "one: panic in step one: oops"},
		"context's own":  {func(n int) error { return context.DeadlineExceeded }, 3, "one: context deadline exceeded"},
		"lost its sense": {func(n int) error { return errdefs.ErrAborted }, 3, "one: aborted"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost()
			n := 0
			kinds := []operation.Definition{operation.Define(operation.Kind[job]{Name: "make", Attempts: 3,
				Steps: []operation.Step[job]{{Name: "one", Do: h.do("one"), Undo: h.undo("one"), Then: func(*state.Tx, *job) error { n++; return row.then(n) }}},
				Failed: func(tx *state.Tx, j *job, reason string) error {
					return things.Put(tx, thing{ID: j.ID, State: "failed", Why: reason})
				}, Done: set("made")})}
			inBubble(t, h, operation.Config{Kinds: kinds}, func(t *testing.T, _ *faultyLog, s *state.Store, work func() (func(), func())) {
				begin(t, s, "make", 0)
				_, stop := work()
				defer stop()
				time.Sleep(time.Minute)
				th, open := look(s)
				require.Zero(t, open)
				require.Equal(t, row.why, th.Why)
				require.Equal(t, row.tries, h.times("do one"))
			})
		})
	}
}

// A kind whose Failed or Problem refuses is tried again for ever, and says so; it does not spin.
func TestWhatRefusesToFailIsToldAndTriedAgain(t *testing.T) {
	h := newHost()
	h.fail["one"] = errdefs.ErrFailedPrecondition
	var refuse atomic.Bool
	refuse.Store(true)
	var tries atomic.Int32
	kinds := []operation.Definition{operation.Define(operation.Kind[job]{Name: "make",
		Steps:   []operation.Step[job]{{Name: "one", Do: h.do("one"), Undo: h.undo("one")}},
		Problem: func(*state.Tx, *job, string) error { return errdefs.ErrNotFound },
		Failed: func(tx *state.Tx, j *job, reason string) error {
			if tries.Add(1); refuse.Load() {
				return errdefs.ErrNotFound
			}
			return set("failed")(tx, j)
		}})}
	inBubble(t, h, operation.Config{Kinds: kinds}, func(t *testing.T, _ *faultyLog, s *state.Store, work func() (func(), func())) {
		begin(t, s, "make", 0)
		_, stop := work()
		defer stop()
		time.Sleep(5 * time.Minute)
		require.NoError(t, s.View(func(v *state.View) error {
			rec := operation.Open(v, "thing/x")[0]
			require.Equal(t, "one: not found", rec.Problem)
			require.Equal(t, "one: failed precondition", rec.Reason)
			return nil
		}))
		require.Less(t, tries.Load(), int32(25))
		refuse.Store(false)
		time.Sleep(time.Minute)
		th, open := look(s)
		require.Equal(t, "failed", th.State)
		require.Zero(t, open)
	})
}

func TestKindsThatAreNotKnownTakeNoRoom(t *testing.T) {
	h := newHost()
	inBubble(t, h, operation.Config{Parallel: 1}, func(t *testing.T, _ *faultyLog, s *state.Store, work func() (func(), func())) {
		require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
			for i := range 5 {
				if _, err := operation.Begin(tx, operation.Intent{Kind: "of the future", Owner: "me", Object: fmt.Sprint("o", i), Data: job{}}); err != nil {
					return err
				}
			}
			// What follows it on its object waits.
			_, err := operation.Begin(tx, operation.Intent{Kind: "remove", Owner: "me", Object: "o1", Data: job{"y"}})
			return err
		}))
		begin(t, s, "make", 0)
		_, stop := work()
		defer stop()
		synctest.Wait()
		th, _ := look(s)
		require.Equal(t, "made", th.State)
		require.Zero(t, h.times("undo one"))
	})
}

func TestTheOldestComesFirst(t *testing.T) {
	var order []string
	kinds := []operation.Definition{operation.Define(operation.Kind[job]{Name: "note", Steps: []operation.Step[job]{{Name: "note",
		Do: func(_ context.Context, j *job) error { order = append(order, j.ID); return nil }}}})}
	inBubble(t, newHost(), operation.Config{Kinds: kinds, Parallel: 1}, func(t *testing.T, log *faultyLog, s *state.Store, work func() (func(), func())) {
		var want []string
		for i := range 50 {
			id := fmt.Sprint("n", (i*7)%50)
			want = append(want, id)
			require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
				_, err := operation.Begin(tx, operation.Intent{Kind: "note", Owner: "me", Object: id, Data: job{id}})
				return err
			}))
			time.Sleep(time.Millisecond)
		}
		before := log.commits.Load()
		_, stop := work()
		defer stop()
		synctest.Wait()
		require.Equal(t, want, order)
		require.LessOrEqual(t, log.commits.Load()-before, int64(100), "one to take each, one for its step and end")
	})
}

// A worker that can't write for longer than its lease lets go of what it does, so that the next one is alone.
func TestAWorkerWhoseLeaseRunsOutLetsGo(t *testing.T) {
	h := newHost()
	var stopped atomic.Pointer[time.Time]
	kinds := []operation.Definition{operation.Define(operation.Kind[job]{Name: "make", Steps: []operation.Step[job]{{Name: "one",
		Do: func(ctx context.Context, _ *job) error {
			<-ctx.Done()
			now := time.Now()
			stopped.CompareAndSwap(nil, &now)
			return ctx.Err()
		}}}})}
	inBubble(t, h, operation.Config{Kinds: kinds, Lease: 9 * time.Second}, func(t *testing.T, log *faultyLog, s *state.Store, work func() (func(), func())) {
		begin(t, s, "make", 0)
		_, stop := work()
		defer stop()
		time.Sleep(time.Minute)
		require.Nil(t, stopped.Load(), "the lease was not renewed")
		cause := error(errdefs.ErrUnavailable)
		log.before.Store(&cause)
		cut := time.Now()
		time.Sleep(time.Minute)
		require.NotNil(t, stopped.Load())
		require.LessOrEqual(t, stopped.Load().Sub(cut), 9*time.Second)
	})
}

func TestAnIdleWorkerAndAnExclusiveOneWriteNothing(t *testing.T) {
	h := newHost()
	inBubble(t, h, operation.Config{Exclusive: true, Lease: time.Second}, func(t *testing.T, log *faultyLog, s *state.Store, work func() (func(), func())) {
		h.block = make(chan struct{})
		begin(t, s, "make", 0)
		_, stop := work()
		defer stop()
		synctest.Wait()
		before := log.commits.Load()
		time.Sleep(time.Hour)
		require.Equal(t, before, log.commits.Load())
		close(h.block)
	})
}

// Two workers of one owner, over two stores, share the work: each operation is done by one of them, in turn.
func TestTwoWorkersShareTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memstate.New(memstate.Config{})
		stores := []*state.Store{openStore(t, log), openStore(t, log)}
		var mu sync.Mutex
		at := map[string]int{}  // how many do a step on an object
		did := map[string]int{} // how often an operation was done
		by := map[int]int{}     // by worker
		order := map[string]string{}
		runners := make([]*operation.Runner, 2)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i, s := range stores {
			def := operation.Define(operation.Kind[job]{Name: "note", Steps: []operation.Step[job]{{Name: "note", Do: func(_ context.Context, j *job) error {
				object := j.ID[:2]
				mu.Lock()
				at[object]++
				if at[object] > 1 {
					t.Errorf("two at %s", object)
				}
				did[j.ID]++
				by[i]++
				order[object] += j.ID[2:]
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
				mu.Lock()
				at[object]--
				mu.Unlock()
				return nil
			}}}})
			var err error
			runners[i], err = operation.NewRunner(operation.Config{Store: s, Owner: "me", Kinds: []operation.Definition{def}, Parallel: 2})
			require.NoError(t, err)
			wg.Go(func() { _ = runners[i].Run(ctx) })
		}
		var ids []string
		for n := range 5 {
			for o := range 6 {
				id := fmt.Sprintf("o%d-%d", o, n)
				ids = append(ids, id)
				require.NoError(t, stores[(o+n)%2].Update(ctx, func(tx *state.Tx) error {
					_, err := operation.Begin(tx, operation.Intent{Kind: "note", Owner: "me", Object: id[:2], Data: job{id}})
					return err
				}))
			}
			runners[n%2].Ring()
		}
		time.Sleep(2 * time.Minute)
		mu.Lock()
		for _, id := range ids {
			require.Equal(t, 1, did[id], id)
		}
		for o := range 6 {
			require.Equal(t, "-0-1-2-3-4", order[fmt.Sprint("o", o)])
		}
		require.Len(t, by, 2, "one worker did all")
		mu.Unlock()
		cancel()
		wg.Wait()
		for _, s := range stores {
			require.NoError(t, s.Close())
		}
		require.NoError(t, log.Close())
	})
}

// Two processes that begin operations on one object at once don't give them the same turn.
func TestTurnsAreUnique(t *testing.T) {
	log := memstate.New(memstate.Config{})
	stores := []*state.Store{openStore(t, log), openStore(t, log)}
	var wg sync.WaitGroup
	for _, s := range stores {
		wg.Go(func() {
			for range 40 {
				if err := s.Update(t.Context(), func(tx *state.Tx) error {
					_, err := operation.Begin(tx, operation.Intent{Kind: "k", Owner: "me", Object: "o", Data: job{}})
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var turns []int
	require.NoError(t, laterStore(t, log).View(func(v *state.View) error {
		for _, rec := range operation.Open(v, "o") {
			turns = append(turns, rec.Seq)
		}
		return nil
	}))
	slices.Sort(turns)
	require.Len(t, slices.Compact(turns), 80)
	for _, s := range stores {
		require.NoError(t, s.Close())
	}
}

func laterStore(t *testing.T, log state.Log) *state.Store {
	s := openStore(t, log)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}
