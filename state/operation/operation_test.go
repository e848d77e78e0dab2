package operation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/state/operation/optest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// thing is what the operations of these tests make: on a pretended host it has parts, in the store a record.
type thing struct {
	ID, State, Why string
}

var things = state.NewTable("thing", func(t thing) string { return t.ID })

type job struct{ ID string }

// host is the world outside the store: it outlives workers.
type host struct {
	mu    sync.Mutex
	parts map[string]bool
	fail  map[string]error // by step: what doing it returns, after its effect
	did   []string
	block chan struct{} // doing "two" waits for it, or for its context
}

func (h *host) do(name string) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		h.mu.Lock()
		h.did = append(h.did, "do "+name)
		h.parts[name] = true
		err, block := h.fail[name], h.block
		h.mu.Unlock()
		if name == "two" && block != nil {
			select {
			case <-block:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return err
	}
}

func (h *host) undo(name string) func(context.Context, *job) error {
	return func(context.Context, *job) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.did = append(h.did, "undo "+name)
		delete(h.parts, name)
		return nil
	}
}

func (h *host) set(step string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail[step] = err
}

// times returns how often something was done.
func (h *host) times(what string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, did := range h.did {
		if did == what {
			n++
		}
	}
	return n
}

func set(s string) func(tx *state.Tx, j *job) error {
	return func(tx *state.Tx, j *job) error { return things.Put(tx, thing{ID: j.ID, State: s}) }
}

func (h *host) kinds() []operation.Definition {
	steps := []operation.Step[job]{
		{Name: "one", Do: h.do("one"), Undo: h.undo("one")},
		{Name: "two", Do: h.do("two"), Undo: h.undo("two"), Then: set("half made")},
		{Name: "three", Do: h.do("three"), Undo: h.undo("three")},
	}
	return []operation.Definition{
		operation.Define(operation.Kind[job]{Name: "make", Steps: steps, Done: set("made"),
			Failed: func(tx *state.Tx, j *job, reason string) error {
				return things.Put(tx, thing{ID: j.ID, State: "failed", Why: reason})
			}}),
		operation.Define(operation.Kind[job]{Name: "remove", Persist: true,
			Steps: []operation.Step[job]{{Name: "three", Do: h.undo("three")}, {Name: "two", Do: h.undo("two")}, {Name: "one", Do: h.undo("one")}},
			Done:  func(tx *state.Tx, j *job) error { return things.Delete(tx, j.ID) }}),
	}
}

func newHost() *host { return &host{parts: map[string]bool{}, fail: map[string]error{}} }

func openStore(t *testing.T, log state.Log) *state.Store {
	t.Helper()
	s, err := state.Open(t.Context(), state.Config{Log: log, Schema: append(operation.Schema(), things)})
	require.NoError(t, err)
	return s
}

func begin(t *testing.T, s *state.Store, kind string, deadline time.Duration) {
	t.Helper()
	require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
		if kind == "make" {
			if err := things.Put(tx, thing{ID: "x", State: "wanted"}); err != nil {
				return err
			}
		}
		_, err := operation.Begin(tx, operation.Intent{Kind: kind, Owner: "me", Object: "thing/x", Data: job{"x"}, Deadline: deadline})
		return err
	}))
}

func look(s *state.Store) (th thing, open int) {
	_ = s.View(func(v *state.View) error {
		th, _ = things.Get(v, "x")
		open = len(operation.Open(v, "thing/x"))
		return nil
	})
	return th, open
}

// world runs a store, a host and a worker in a bubble of their own.
func world(t *testing.T, h *host, f func(t *testing.T, s *state.Store, ring func())) {
	synctest.Test(t, func(t *testing.T) {
		log := memstate.New(memstate.Config{})
		s := openStore(t, log)
		r, err := operation.NewRunner(operation.Config{Store: s, Owner: "me", Kinds: h.kinds()})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		f(t, s, r.Ring)
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, s.Close())
		require.NoError(t, log.Close())
	})
}

func TestAnOperationDoesItsStepsInOrder(t *testing.T) {
	h := newHost()
	world(t, h, func(t *testing.T, s *state.Store, ring func()) {
		begin(t, s, "make", 0)
		ring()
		synctest.Wait()
		th, open := look(s)
		require.Equal(t, thing{ID: "x", State: "made"}, th)
		require.Zero(t, open)
		require.Equal(t, []string{"do one", "do two", "do three"}, h.did)
	})
}

func TestAFailureThatIsPermanentUndoesWhatWasDone(t *testing.T) {
	h := newHost()
	h.fail["two"] = fmt.Errorf("the shelf is full: %w", errdefs.ErrResourceExhausted)
	world(t, h, func(t *testing.T, s *state.Store, ring func()) {
		begin(t, s, "make", 0)
		ring()
		synctest.Wait()
		th, open := look(s)
		require.Equal(t, "failed", th.State)
		require.Equal(t, "two: the shelf is full: resource exhausted", th.Why)
		require.Zero(t, open)
		require.Empty(t, h.parts)
		require.Equal(t, []string{"do one", "do two", "undo two", "undo one"}, h.did)
	})
}

func TestAFailureThatMayPassIsTriedAgain(t *testing.T) {
	h := newHost()
	h.fail["two"] = errdefs.ErrUnavailable
	world(t, h, func(t *testing.T, s *state.Store, ring func()) {
		begin(t, s, "make", 0)
		ring()
		synctest.Wait()
		require.Equal(t, []string{"do one", "do two"}, h.did)
		h.set("two", nil)
		time.Sleep(time.Minute)
		th, _ := look(s)
		require.Equal(t, "made", th.State)
	})
}

func TestARetryEndsWithTheAttempts(t *testing.T) {
	h := newHost()
	h.fail["two"] = errdefs.ErrUnavailable
	world(t, h, func(t *testing.T, s *state.Store, ring func()) {
		begin(t, s, "make", 0)
		ring()
		time.Sleep(time.Minute)
		th, open := look(s)
		require.Equal(t, "failed", th.State)
		require.Zero(t, open)
		require.Empty(t, h.parts)
	})
}

func TestADeadlineEndsAStepThatHangs(t *testing.T) {
	h := newHost()
	world(t, h, func(t *testing.T, s *state.Store, ring func()) {
		h.block = make(chan struct{}) // in the bubble, where waiting for it counts as idle
		begin(t, s, "make", time.Minute)
		ring()
		time.Sleep(2 * time.Minute)
		th, _ := look(s)
		require.Equal(t, thing{ID: "x", State: "failed", Why: "two: deadline passed"}, th)
		require.Empty(t, h.parts)
	})
}

func TestCancelEndsAStepThatHangsAndTheNextOperationFollows(t *testing.T) {
	h := newHost()
	world(t, h, func(t *testing.T, s *state.Store, ring func()) {
		h.block = make(chan struct{}) // in the bubble, where waiting for it counts as idle
		begin(t, s, "make", 0)
		ring()
		synctest.Wait()
		require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
			n, err := operation.Cancel(tx, "thing/x", "make")
			require.Equal(t, 1, n)
			return err
		}))
		begin(t, s, "remove", 0)
		ring()
		synctest.Wait()
		th, open := look(s)
		require.Zero(t, th)
		require.Zero(t, open)
		require.Empty(t, h.parts)
		require.Equal(t, []string{"do one", "do two", "undo two", "undo one", "undo three", "undo two", "undo one"}, h.did)
	})
}

func TestAWorkerThatLostItsLeaseRecordsNothingMore(t *testing.T) {
	h := newHost()
	synctest.Test(t, func(t *testing.T) {
		h.block = make(chan struct{})
		log := memstate.New(memstate.Config{})
		s := openStore(t, log)
		runner := func() *operation.Runner {
			r, err := operation.NewRunner(operation.Config{Store: s, Owner: "me", Kinds: h.kinds(), Lease: time.Hour})
			require.NoError(t, err)
			return r
		}
		begin(t, s, "make", 0)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = runner().Run(ctx) })
		synctest.Wait() // it hangs in "two"
		// Someone takes the operation under a higher epoch, as after a lease that ran out.
		require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
			for rec := range operation.Table.All(tx) {
				rec.Epoch++
				rec.Holder = "another"
				rec.Lease = time.Now().Add(2 * time.Hour)
				return operation.Table.Put(tx, rec)
			}
			return errors.New("no operation")
		}))
		close(h.block)
		time.Sleep(time.Minute)
		th, open := look(s)
		require.Equal(t, "wanted", th.State)
		require.Equal(t, 1, open)
		require.False(t, slices.Contains(h.did, "do three"))
		cancel()
		wg.Wait()
		require.NoError(t, s.Close())
		require.NoError(t, log.Close())
	})
}

// crashWorld is the thing's host and store, for the generated crash test.
type crashWorld struct {
	log  *memstate.Log
	s    *state.Store
	host *host
	fail string
	kind string
}

func (w *crashWorld) Begin(t *testing.T) { begin(t, w.s, w.kind, 0) }

func (w *crashWorld) Work(ctx context.Context, hooks operation.Hooks) error {
	r, err := operation.NewRunner(operation.Config{Store: w.s, Owner: "me", Kinds: w.host.kinds(), Hooks: hooks, Exclusive: true})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

func (w *crashWorld) Settled() bool { _, open := look(w.s); return open == 0 }

func (w *crashWorld) Check() error {
	th, _ := look(w.s)
	parts := len(w.host.parts)
	switch {
	case w.kind == "remove" && th == (thing{}) && parts == 0:
	case w.kind == "make" && w.fail == "" && th.State == "made" && parts == 3:
	case w.kind == "make" && w.fail != "" && th.State == "failed" && parts == 0:
	default:
		return fmt.Errorf("the record is %+v and the host has %d parts", th, parts)
	}
	return nil
}

func (w *crashWorld) Close() error { return errors.Join(w.s.Close(), w.log.Close()) }

func TestCrashes(t *testing.T) {
	for _, c := range []struct{ kind, fail string }{{"make", ""}, {"make", "one"}, {"make", "two"}, {"make", "three"}, {"remove", ""}} {
		t.Run(c.kind+" "+c.fail, func(t *testing.T) {
			optest.Crash(t, func(t *testing.T) optest.World {
				w := &crashWorld{log: memstate.New(memstate.Config{}), host: newHost(), fail: c.fail, kind: c.kind}
				w.s = openStore(t, w.log)
				if c.fail != "" {
					w.host.fail[c.fail] = errdefs.ErrFailedPrecondition
				}
				if c.kind == "remove" {
					require.NoError(t, w.s.Update(t.Context(), func(tx *state.Tx) error { return things.Put(tx, thing{ID: "x"}) }))
					w.host.parts = map[string]bool{"one": true, "two": true, "three": true}
				}
				return w
			})
		})
	}
}
