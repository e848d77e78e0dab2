package state_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// heldLog is a log whose commits wait, and whose followers can be made blind.
type heldLog struct {
	state.Log
	hold    chan struct{} // a commit takes one from it
	commits atomic.Int64
	blind   atomic.Bool // followers see nothing new
}

func (l *heldLog) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	l.commits.Add(1)
	if l.hold != nil {
		select {
		case <-l.hold:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return l.Log.Commit(ctx, b)
}

func (l *heldLog) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		for b, err := range l.Log.Follow(ctx, from) {
			if l.blind.Load() {
				<-ctx.Done()
				return
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// Updates that run in one group: some fail after they changed something, some panic, and none of that is seen by the others.
func TestFailuresInAGroupLeaveNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type plan struct{ Keys, Fate, Delete int }
		plans := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) plan {
			return plan{rapid.IntRange(1, 6).Draw(rt, "keys"), rapid.IntRange(0, 5).Draw(rt, "fate"), rapid.IntRange(0, 9).Draw(rt, "delete")}
		}), 2, 24).Draw(rt, "plans")
		log := &heldLog{Log: memstate.New(memstate.Config{}), hold: make(chan struct{})}
		s, err := state.Open(context.Background(), state.Config{Log: log, Schema: schema})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		boom := errors.New("boom")
		want := make([]bool, len(plans)) // whether the update succeeded
		var wg sync.WaitGroup
		for i, p := range plans {
			wg.Go(func() {
				defer func() {
					if x := recover(); x != nil && p.Fate != 1 {
						rt.Error("panic of another: ", x)
					}
				}()
				err := s.Update(context.Background(), func(tx *state.Tx) error {
					for k := range p.Keys {
						if err := boxes.Put(tx, box{ID: fmt.Sprint(i, "-", k), Owner: fmt.Sprint("o", k%2), Label: fmt.Sprint("l", i, "-", k%3, "-", k), Weight: k + 1}); err != nil {
							return err
						}
					}
					shared, _ := boxes.Get(tx, "shared")
					shared.ID, shared.Weight = "shared", shared.Weight+1
					if err := boxes.Put(tx, shared); err != nil {
						return err
					}
					if p.Delete < p.Keys {
						if err := boxes.Delete(tx, fmt.Sprint(i, "-", p.Delete)); err != nil {
							return err
						}
					}
					for _, owner := range []string{"o0", "o1"} {
						n := len(slices.Collect(boxes.By(tx.Unguarded(), "owner", owner)))
						if sum := weights.Get(tx, owner); n != sum.Boxes {
							rt.Errorf("%d records are filed under %s, %d are there", n, owner, sum.Boxes)
						}
					}
					switch p.Fate {
					case 0:
						return boom
					case 1:
						panic("mine")
					}
					return nil
				})
				want[i] = err == nil
				if (err != nil) != (p.Fate < 2) || (err != nil && !errors.Is(err, boom)) {
					rt.Error("fate ", p.Fate, " returned ", err)
				}
			})
		}
		done := make(chan struct{})
		go func() {
			for {
				select {
				case log.hold <- struct{}{}:
				case <-done:
					return
				}
			}
		}()
		wg.Wait()
		close(done)
		ok, sums := 0, map[string]weight{}
		for i, p := range plans {
			if !want[i] {
				continue
			}
			ok++
			for k := range p.Keys {
				if k != p.Delete {
					owner := fmt.Sprint("o", k%2)
					sums[owner] = sums[owner].Plus(weight{k + 1, 1})
				}
			}
		}
		_ = s.View(func(v *state.View) error {
			shared, _ := boxes.Get(v, "shared")
			if shared.Weight != ok {
				rt.Errorf("%d updates succeeded, the shared record counts %d", ok, shared.Weight)
			}
			n := 0
			for b := range boxes.All(v) {
				n++
				if b.Label != "" {
					if got, err := boxes.One(v, "label", b.Label); err != nil || got != b {
						rt.Errorf("%v is filed as %v, %v", b, got, err)
					}
				}
			}
			for owner, sum := range sums {
				if got := weights.Get(v, owner); got != sum {
					rt.Errorf("the sum of %s is %v, want %v", owner, got, sum)
				}
			}
			if total := sums["o0"].Boxes + sums["o1"].Boxes; n != total && n != total+1 {
				rt.Errorf("there are %d records, want %d and the shared one", n, total)
			}
			return nil
		})
	})
}

// Two stores over one log, random records: at every moment unique values have one owner and limits hold, and in the end both are
// what the records say.
func TestTwoStoresKeepTheRules(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := memstate.New(memstate.Config{History: 4})
		stores := make([]*state.Store, 2)
		for i := range stores {
			s, err := state.Open(context.Background(), state.Config{Log: log, Schema: schema})
			if err != nil {
				rt.Fatal(err)
			}
			defer s.Close()
			stores[i] = s
		}
		const limit = 12
		full := errors.New("full")
		type act struct{ ID, Owner, Label, Weight int }
		plans := make([][]act, 4)
		for w := range plans {
			plans[w] = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) act {
				return act{rapid.IntRange(0, 7).Draw(rt, "id"), rapid.IntRange(0, 1).Draw(rt, "owner"), rapid.IntRange(0, 4).Draw(rt, "label"), rapid.IntRange(0, 6).Draw(rt, "weight")}
			}), 1, 12).Draw(rt, "plan")
		}
		var wg sync.WaitGroup
		for w, plan := range plans {
			wg.Go(func() {
				for _, a := range plan {
					err := stores[w%2].Update(context.Background(), func(tx *state.Tx) error {
						if a.Weight == 0 {
							return boxes.Delete(tx, fmt.Sprint(a.ID))
						}
						b := box{ID: fmt.Sprint(a.ID), Owner: fmt.Sprint("o", a.Owner), Label: fmt.Sprint("l", a.Label), Weight: a.Weight}
						if err := boxes.Put(tx, b); err != nil {
							return err
						}
						if weights.Get(tx, b.Owner).N > limit {
							return full
						}
						return nil
					})
					if err != nil && !errors.Is(err, full) && !errdefs.IsAlreadyExists(err) && !errdefs.IsNotFound(err) {
						rt.Error(err)
					}
				}
			})
		}
		wg.Wait()
		last := max(stores[0].Revision(), stores[1].Revision())
		for _, s := range stores {
			for s.Revision() < last {
				time.Sleep(100 * time.Microsecond)
			}
			_ = s.View(func(v *state.View) error {
				labels, sums := map[string]string{}, map[string]weight{}
				for b := range boxes.All(v) {
					if other := labels[b.Label]; other != "" {
						rt.Errorf("%s and %s both have %s", other, b.ID, b.Label)
					}
					labels[b.Label] = b.ID
					sums[b.Owner] = sums[b.Owner].Plus(weight{b.Weight, 1})
				}
				for _, owner := range []string{"o0", "o1"} {
					if got := weights.Get(v, owner); got != sums[owner] || got.N > limit {
						rt.Errorf("the sum of %s is %v, want %v and at most %d", owner, got, sums[owner], limit)
					}
				}
				return nil
			})
		}
	})
}

func TestWritesWithinAnUpdateAreSeenInIt(t *testing.T) {
	s := open(t, memstate.New(memstate.Config{}))
	put(t, s, box{ID: "a", Owner: "x", Label: "la", Weight: 1}, box{ID: "b", Owner: "x", Label: "lb", Weight: 2})
	require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error {
		var ids []string
		for b := range boxes.By(tx, "owner", "x") { // changed while it is read
			ids = append(ids, b.ID)
			b.Owner = "y"
			if err := boxes.Put(tx, b); err != nil {
				return err
			}
		}
		require.Equal(t, []string{"a", "b"}, ids)
		require.Equal(t, weight{3, 2}, weights.Get(tx, "y"))
		require.Equal(t, weight{3, 2}, weights.Get(tx.Unguarded(), "y"))
		require.Zero(t, weights.Get(tx, "x"))
		// A label is handed on, and comes back.
		require.NoError(t, boxes.Delete(tx, "a"))
		require.NoError(t, boxes.Insert(tx, box{ID: "c", Owner: "y", Label: "la"}))
		require.True(t, errdefs.IsAlreadyExists(boxes.Put(tx, box{ID: "b", Owner: "y", Label: "la"})))
		got, err := boxes.One(tx, "label", "lb")
		require.NoError(t, err)
		require.Equal(t, "b", got.ID)
		require.False(t, boxes.Has(tx.Unguarded(), "a"))
		require.NoError(t, boxes.Delete(tx, "c"))
		return boxes.Insert(tx, box{ID: "a", Owner: "y", Label: "la", Weight: 5})
	}))
	for _, v := range []*state.Store{s} {
		require.NoError(t, v.View(func(v *state.View) error {
			require.Equal(t, weight{7, 2}, weights.Get(v, "y"))
			got, err := boxes.One(v, "label", "la")
			require.NoError(t, err)
			require.Equal(t, box{"a", "y", "la", 5}, got)
			return nil
		}))
	}
}

func TestAnUpdateThatWaitsForItsTurnEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &heldLog{Log: memstate.New(memstate.Config{}), hold: make(chan struct{})}
		s, err := state.Open(t.Context(), state.Config{Log: log, Schema: schema})
		require.NoError(t, err)
		first := make(chan error, 1)
		go func() {
			first <- s.Update(t.Context(), func(tx *state.Tx) error { return boxes.Put(tx, box{ID: "a"}) })
		}()
		synctest.Wait() // it is being committed
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, s.Update(ctx, func(tx *state.Tx) error { return boxes.Put(tx, box{ID: "b"}) }), context.DeadlineExceeded)
		log.hold <- struct{}{}
		require.NoError(t, <-first)
		require.NoError(t, s.View(func(v *state.View) error {
			require.True(t, boxes.Has(v, "a"))
			require.False(t, boxes.Has(v, "b"))
			return nil
		}))
		require.NoError(t, s.Close())
		require.NoError(t, log.Log.Close())
	})
}

// A log that does not answer, and one whose followers are stuck, must not hold an Update for ever.
func TestAnUpdateThatCanNotBeSettledIsUnknown(t *testing.T) {
	for _, stuck := range []string{"commit", "follow"} {
		t.Run(stuck, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &heldLog{Log: memstate.New(memstate.Config{})}
				s, err := state.Open(t.Context(), state.Config{Log: log, Schema: schema})
				require.NoError(t, err)
				if stuck == "commit" {
					log.hold = make(chan struct{})
				} else {
					log.blind.Store(true)
				}
				err = s.Update(t.Context(), func(tx *state.Tx) error { return boxes.Put(tx, box{ID: "a"}) })
				require.ErrorIs(t, err, state.ErrUnknown)
				require.NoError(t, s.Close())
				require.ErrorIs(t, s.Update(t.Context(), func(*state.Tx) error { return nil }), state.ErrClosed)
				require.NoError(t, log.Log.Close())
			})
		})
	}
}

// What changes nothing costs nothing.
func TestAnUpdateThatOnlyReadsCommitsNothing(t *testing.T) {
	log := &heldLog{Log: memstate.New(memstate.Config{})}
	s := open(t, log)
	put(t, s, box{ID: "a"})
	before := log.commits.Load()
	require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error { _, err := boxes.Get(tx, "a"); return err }))
	require.Equal(t, before, log.commits.Load())
}

// Many updates cost few commits.
func TestUpdatesAreCommittedInGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &heldLog{Log: memstate.New(memstate.Config{}), hold: make(chan struct{})}
		s, err := state.Open(t.Context(), state.Config{Log: log, Schema: schema})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if err := s.Update(t.Context(), func(tx *state.Tx) error { return boxes.Put(tx, box{ID: fmt.Sprint(i)}) }); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(log.hold)
		wg.Wait()
		require.LessOrEqual(t, log.commits.Load(), int64(3))
		require.NoError(t, s.Close())
		require.NoError(t, log.Log.Close())
	})
}

// A watcher that reads at its own pace, and is told to look again at the whole when it is too slow, knows in the end what
// there is.
func TestASlowWatcherCatchesUp(t *testing.T) {
	s, err := state.Open(t.Context(), state.Config{Log: memstate.New(memstate.Config{}), Schema: schema, History: 8})
	require.NoError(t, err)
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for i := range 400 {
			put(t, s, box{ID: fmt.Sprint(i % 30), Weight: i})
		}
		put(t, s, box{ID: "end"})
	}()
	have := map[string]int{}
	resyncs := 0
	for ch, err := range s.ViewAndWatch(ctx, func(v *state.View) error {
		resyncs++
		clear(have)
		for b := range boxes.All(v) {
			have[b.ID] = b.Weight
		}
		if _, end := have["end"]; end {
			cancel() // no change will come
		}
		return nil
	}) {
		require.NoError(t, err)
		for c := range boxes.Changes(ch) {
			have[c.Key] = c.New.Weight
		}
		if _, end := have["end"]; end {
			break
		}
		if rand.IntN(4) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	require.NotErrorIs(t, ctx.Err(), context.DeadlineExceeded)
	<-wrote
	require.NoError(t, s.View(func(v *state.View) error {
		n := 0
		for b := range boxes.All(v) {
			n++
			require.Equal(t, b.Weight, have[b.ID], b.ID)
		}
		require.Len(t, have, n)
		return nil
	}))
	t.Log("looked at the whole", resyncs, "times")
}
