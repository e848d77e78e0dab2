package state_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type box struct {
	ID, Owner, Label string
	Weight           int
}

type weight struct{ N, Boxes int }

func (w weight) Plus(o weight) weight  { return weight{w.N + o.N, w.Boxes + o.Boxes} }
func (w weight) Minus(o weight) weight { return weight{w.N - o.N, w.Boxes - o.Boxes} }

var (
	boxes = state.NewTable("box", func(b box) string { return b.ID },
		state.Index("owner", func(b box) []string { return []string{b.Owner} }),
		state.Unique("label", func(b box) []string {
			if b.Label == "" {
				return nil
			}
			return []string{b.Label}
		}))
	weights = state.NewSum("weight", boxes, func(b box) (string, weight) { return b.Owner, weight{b.Weight, 1} })
	schema  = []state.Schema{boxes, weights}
)

func open(t *testing.T, log state.Log) *state.Store {
	t.Helper()
	s, err := state.Open(t.Context(), state.Config{Log: log, Schema: schema})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func put(t *testing.T, s *state.Store, recs ...box) {
	t.Helper()
	require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
		for _, b := range recs {
			if err := boxes.Put(tx, b); err != nil {
				return err
			}
		}
		return nil
	}))
}

func TestUpdateIsAllOrNothingAndReadsItsOwnWrites(t *testing.T) {
	s := open(t, memstate.New(memstate.Config{}))
	boom := errors.New("boom")
	err := s.Update(t.Context(), func(tx *state.Tx) error {
		require.NoError(t, boxes.Insert(tx, box{ID: "a", Owner: "x", Weight: 3}))
		got, err := boxes.Get(tx, "a")
		require.NoError(t, err)
		require.Equal(t, 3, got.Weight)
		require.Equal(t, weight{3, 1}, weights.Get(tx, "x"))
		return boom
	})
	require.ErrorIs(t, err, boom)
	require.NoError(t, s.View(func(v *state.View) error {
		require.False(t, boxes.Has(v, "a"))
		require.Zero(t, weights.Get(v, "x"))
		require.Zero(t, v.Revision())
		return nil
	}))
}

func TestTableErrorsNameWhatTheyAreAbout(t *testing.T) {
	s := open(t, memstate.New(memstate.Config{}))
	put(t, s, box{ID: "a", Label: "red"})
	for name, row := range map[string]struct {
		do    func(tx *state.Tx) error
		class error
		says  string
	}{
		"get":          {func(tx *state.Tx) error { _, err := boxes.Get(tx, "b"); return err }, errdefs.ErrNotFound, `box "b"`},
		"insert":       {func(tx *state.Tx) error { return boxes.Insert(tx, box{ID: "a"}) }, errdefs.ErrAlreadyExists, `box "a"`},
		"unique":       {func(tx *state.Tx) error { return boxes.Put(tx, box{ID: "b", Label: "red"}) }, errdefs.ErrAlreadyExists, `label "red"`},
		"delete":       {func(tx *state.Tx) error { return boxes.Delete(tx, "b") }, errdefs.ErrNotFound, `box "b"`},
		"empty key":    {func(tx *state.Tx) error { return boxes.Put(tx, box{}) }, errdefs.ErrInvalidArgument, "1 to 512 bytes"},
		"one":          {func(tx *state.Tx) error { _, err := boxes.One(tx, "label", "blue"); return err }, errdefs.ErrNotFound, `label "blue"`},
		"unique moves": {func(tx *state.Tx) error { return boxes.Put(tx, box{ID: "a", Label: "blue"}) }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			undo := errors.New("undo")
			err := s.Update(t.Context(), func(tx *state.Tx) error {
				if err := row.do(tx); err != nil {
					return err
				}
				return undo
			})
			if row.class == nil {
				require.ErrorIs(t, err, undo)
				return
			}
			require.ErrorIs(t, err, row.class)
			require.ErrorContains(t, err, row.says)
		})
	}
}

// Two stores over one log are two processes with stale views.
func TestTwoWritersCanNotBothHaveAUniqueValue(t *testing.T) {
	log := memstate.New(memstate.Config{})
	a, b := open(t, log), open(t, log)
	var wg sync.WaitGroup
	var mu sync.Mutex
	owners := map[string]int{}
	for w := range 8 {
		s := a
		if w%2 == 1 {
			s = b
		}
		wg.Go(func() {
			for i := range 50 {
				label := fmt.Sprint("label-", i)
				err := s.Update(t.Context(), func(tx *state.Tx) error {
					return boxes.Insert(tx, box{ID: fmt.Sprint(w, "-", i), Label: label})
				})
				if err == nil {
					mu.Lock()
					owners[label]++
					mu.Unlock()
				} else if !errdefs.IsAlreadyExists(err) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, owners, 50)
	for label, n := range owners {
		require.Equal(t, 1, n, label)
	}
}

func TestTwoWritersCanNotOversellASum(t *testing.T) {
	log := memstate.New(memstate.Config{})
	stores := []*state.Store{open(t, log), open(t, log), open(t, log)}
	const limit = 40
	full := errors.New("full")
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 30 {
				err := stores[w%3].Update(t.Context(), func(tx *state.Tx) error {
					if weights.Get(tx, "x").N+1 > limit {
						return full
					}
					return boxes.Insert(tx, box{ID: fmt.Sprint(w, "-", i), Owner: "x", Weight: 1})
				})
				if err != nil && !errors.Is(err, full) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, s := range stores {
		require.Eventually(t, func() bool {
			var n weight
			_ = s.View(func(v *state.View) error { n = weights.Get(v, "x"); return nil })
			return n == weight{limit, limit}
		}, time.Minute, time.Millisecond)
	}
}

func TestADecisionOnStaleDataIsMadeAgain(t *testing.T) {
	log := memstate.New(memstate.Config{})
	a, b := open(t, log), open(t, log)
	put(t, a, box{ID: "a", Weight: 1})
	runs := 0
	require.NoError(t, a.Update(t.Context(), func(tx *state.Tx) error {
		runs++
		got, err := boxes.Get(tx, "a")
		if err != nil {
			return err
		}
		if runs == 1 {
			put(t, b, box{ID: "a", Weight: 10})
		}
		return boxes.Put(tx, box{ID: "sum", Weight: got.Weight + 1})
	}))
	require.Equal(t, 2, runs)
	require.NoError(t, a.View(func(v *state.View) error {
		got, err := boxes.Get(v, "sum")
		require.NoError(t, err)
		require.Equal(t, 11, got.Weight)
		return nil
	}))
}

func TestUnguardedReadsAreNoReason(t *testing.T) {
	log := memstate.New(memstate.Config{})
	a, b := open(t, log), open(t, log)
	put(t, a, box{ID: "a", Weight: 1})
	runs := 0
	require.NoError(t, a.Update(t.Context(), func(tx *state.Tx) error {
		runs++
		_, err := boxes.Get(tx.Unguarded(), "a")
		require.NoError(t, err)
		if runs == 1 {
			put(t, b, box{ID: "a", Weight: 10})
		}
		return boxes.Put(tx, box{ID: "other", Owner: "someone else"})
	}))
	require.Equal(t, 1, runs)
}

// After any history, sums and unique values are what the records say, in the store that made it, in one that followed, and in one
// that is opened afterwards.
func TestSumsAndUniquesAreDerived(t *testing.T) {
	log := memstate.New(memstate.Config{History: 8})
	a, b := open(t, log), open(t, log)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := a
		if rng.IntN(2) == 0 {
			s = b
		}
		id, owner, label := fmt.Sprint(rng.IntN(20)), fmt.Sprint("o", rng.IntN(3)), fmt.Sprint("l", rng.IntN(10))
		kind, n := rng.IntN(3), rng.IntN(4)
		err := s.Update(t.Context(), func(tx *state.Tx) error {
			switch kind {
			case 0:
				return boxes.Delete(tx, id)
			case 1:
				label = ""
			}
			return boxes.Put(tx, box{id, owner, label, n})
		})
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	last := max(a.Revision(), b.Revision())
	for _, s := range []*state.Store{a, b, open(t, log)} {
		require.Eventually(t, func() bool { return s.Revision() == last }, time.Minute, time.Millisecond)
		require.NoError(t, s.View(func(v *state.View) error {
			want, labels := map[string]weight{}, map[string]string{}
			for rec := range boxes.All(v) {
				want[rec.Owner] = want[rec.Owner].Plus(weight{rec.Weight, 1})
				if rec.Label != "" {
					require.Empty(t, labels[rec.Label])
					labels[rec.Label] = rec.ID
				}
			}
			for i := range 3 {
				owner := fmt.Sprint("o", i)
				require.Equal(t, want[owner], weights.Get(v, owner))
				n := 0
				for range boxes.By(v, "owner", owner) {
					n++
				}
				require.Equal(t, want[owner].Boxes, n)
			}
			for i := range 10 {
				label := fmt.Sprint("l", i)
				got, err := boxes.One(v, "label", label)
				require.Equal(t, labels[label] == "", errdefs.IsNotFound(err))
				require.Equal(t, labels[label], got.ID)
			}
			return nil
		}))
	}
}

func TestViewAndWatchHasNoGap(t *testing.T) {
	s := open(t, memstate.New(memstate.Config{}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				put(t, s, box{ID: fmt.Sprint(w), Owner: "o", Weight: i + 1})
			}
		})
	}
	have := map[string]int{}
	for ch, err := range s.ViewAndWatch(ctx, func(v *state.View) error {
		clear(have)
		for b := range boxes.All(v) {
			have[b.ID] = b.Weight
		}
		return nil
	}) {
		require.NoError(t, err)
		for c := range boxes.Changes(ch) {
			if c.Old != nil {
				require.Equal(t, have[c.Key], c.Old.Weight)
			}
			have[c.Key] = c.New.Weight
		}
		if len(have) == 4 && have["0"]+have["1"]+have["2"]+have["3"] == 400 {
			break
		}
	}
	require.NoError(t, ctx.Err())
	wg.Wait()
}

func TestASlowWatcherIsToldToResync(t *testing.T) {
	s, err := state.Open(t.Context(), state.Config{Log: memstate.New(memstate.Config{}), Schema: schema, History: 4})
	require.NoError(t, err)
	defer s.Close()
	put(t, s, box{ID: "first"})
	from := s.Revision()
	for i := range 10 {
		put(t, s, box{ID: fmt.Sprint(i)})
	}
	for _, err := range s.Watch(t.Context(), from) {
		require.ErrorIs(t, err, state.ErrResync)
	}
}

func TestAwaitWakesOnChange(t *testing.T) {
	s := open(t, memstate.New(memstate.Config{}))
	done := make(chan error, 1)
	go func() {
		done <- boxes.Await(t.Context(), s, "a", func(b box, found bool) (bool, error) { return found && b.Weight == 2, nil })
	}()
	put(t, s, box{ID: "a", Weight: 1})
	put(t, s, box{ID: "b", Weight: 2})
	put(t, s, box{ID: "a", Weight: 2})
	require.NoError(t, <-done)
}

func TestAPanicIsTheCallers(t *testing.T) {
	s := open(t, memstate.New(memstate.Config{}))
	require.PanicsWithValue(t, "mine", func() { _ = s.Update(t.Context(), func(*state.Tx) error { panic("mine") }) })
	put(t, s, box{ID: "after"})
}

func TestACancelledUpdateLeavesNothing(t *testing.T) {
	s := open(t, memstate.New(memstate.Config{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Update(ctx, func(*state.Tx) error { return errors.New("ran") }), context.Canceled)
}

func TestRecordsAreCopies(t *testing.T) {
	type list struct {
		ID   string
		Tags []string
	}
	require.Panics(t, func() { state.NewTable("list", func(l list) string { return l.ID }) })
}

func BenchmarkUpdate(b *testing.B) {
	s, err := state.Open(b.Context(), state.Config{Log: memstate.New(memstate.Config{}), Schema: schema})
	require.NoError(b, err)
	defer s.Close()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := fmt.Sprint(rand.Int64())
			if err := s.Update(b.Context(), func(tx *state.Tx) error { return boxes.Put(tx, box{id, "o" + id[:2], id, 1}) }); err != nil {
				b.Error(err)
			}
		}
	})
}
