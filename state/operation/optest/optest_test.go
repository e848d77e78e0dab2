package optest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a world whose operation puts up two boards, wrongly if it is told so.
type shelf struct {
	wrong string
	log   *memstate.Log
	store *state.Store

	mu     sync.Mutex
	boards map[string]int
}

type note struct{ ID string }

var notes = state.NewTable("note", func(n note) string { return n.ID })

func openShelf(t *testing.T, wrong string) *shelf {
	s := &shelf{wrong: wrong, log: memstate.New(memstate.Config{}), boards: map[string]int{}}
	var err error
	s.store, err = state.Open(t.Context(), state.Config{Log: s.log, Schema: append(operation.Schema(), notes)})
	require.NoError(t, err)
	return s
}

func (s *shelf) Begin(t *testing.T) {
	require.NoError(t, s.store.Update(t.Context(), func(tx *state.Tx) error {
		_, err := operation.Begin(tx, operation.Intent{Kind: "build", Owner: "me", Object: "shelf", Data: note{"x"}})
		return err
	}))
}

func (s *shelf) Work(ctx context.Context, hooks operation.Hooks) error {
	put := func(board string) func(context.Context, *note) error {
		return func(context.Context, *note) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch {
			case s.wrong == "counts what it did before" && board == "one":
				s.boards[board]++
			case s.wrong == "refuses what is there" && s.boards[board] > 0:
				return errdefs.ErrAlreadyExists
			default:
				s.boards[board] = 1
			}
			if board == "two" && s.wrong == "fails and forgets its half" {
				return errdefs.ErrFailedPrecondition
			}
			return nil
		}
	}
	take := func(board string) func(context.Context, *note) error {
		return func(context.Context, *note) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.boards, board)
			return nil
		}
	}
	kind := operation.Kind[note]{Name: "build",
		Steps: []operation.Step[note]{{Name: "one", Do: put("one"), Undo: take("one")}, {Name: "two", Do: put("two"), Undo: take("two")}},
		Done:  func(tx *state.Tx, n *note) error { return notes.Put(tx, *n) }}
	if s.wrong == "fails and forgets its half" {
		kind.Steps[1].Undo = nil
	}
	if s.wrong == "notes twice" {
		kind.Steps[1].Do = func(ctx context.Context, n *note) error {
			err := s.store.Update(ctx, func(tx *state.Tx) error { return notes.Insert(tx, note{"extra"}) })
			return errors.Join(err, put("two")(ctx, n))
		}
	}
	r, err := operation.NewRunner(operation.Config{Store: s.store, Owner: "me", Exclusive: true, Hooks: hooks, Kinds: []operation.Definition{operation.Define(kind)}})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

func (s *shelf) Settled() (settled bool) {
	_ = s.store.View(func(v *state.View) error { settled = len(operation.Open(v, "shelf")) == 0; return nil })
	return settled
}

func (s *shelf) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	noted := false
	_ = s.store.View(func(v *state.View) error { noted = notes.Has(v, "x"); return nil })
	if (noted && s.boards["one"] == 1 && s.boards["two"] == 1) || (!noted && len(s.boards) == 0) && s.wrong == "fails and forgets its half" {
		return nil
	}
	return fmt.Errorf("noted is %v, boards are %v", noted, s.boards)
}

func (s *shelf) Close() error { return errors.Join(s.store.Close(), s.log.Close()) }

func TestARightOperationPasses(t *testing.T) {
	Crash(t, func(t *testing.T) World { return openShelf(t, "") })
}

// The test finds what operations get wrong.
func TestWrongOperationsAreFound(t *testing.T) {
	for _, wrong := range []string{"counts what it did before", "refuses what is there", "fails and forgets its half", "notes twice"} {
		t.Run(wrong, func(t *testing.T) {
			var found []string
			for deaths := 1; deaths <= 2; deaths++ {
				for place := 0; ; place++ {
					where, err := "", error(nil)
					synctest.Test(t, func(t *testing.T) { where, err = crash(t, openShelf(t, wrong), place, deaths) })
					if err != nil {
						found = append(found, where)
					}
					if where == "" {
						break
					}
				}
			}
			require.NotEmpty(t, found)
		})
	}
}

// A worker that dies twice dies at one place, not at two.
func TestTheSecondDeathIsAtTheSamePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openShelf(t, "")
		died := map[string]int{}
		s := deathCounter{w, died}
		where, err := crash(t, s, 3, 2) // before take, after take, before do, after do
		require.NoError(t, err)
		require.Contains(t, where, "after do one")
		require.Equal(t, map[string]int{"after do one": 2}, died)
	})
}

type deathCounter struct {
	World
	died map[string]int
}

func (d deathCounter) Work(ctx context.Context, hooks operation.Hooks) error {
	var once sync.Once
	point := hooks.Point
	hooks.Point = func(r operation.Record, where string) error {
		err := point(r, where)
		if err != nil {
			once.Do(func() { d.died[where]++ })
		}
		return err
	}
	return d.World.Work(ctx, hooks)
}
