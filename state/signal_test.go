package state_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

type signalRec struct{ ID, Kind, Told, Rest string }

// signalStore opens a store of two tables, and returns what puts a record into the first.
func signalStore(t *testing.T, table, other *state.Table[signalRec]) (s *state.Store, put func(signalRec)) {
	t.Helper()
	s, err := state.Open(t.Context(), state.Config{Log: memstate.New(memstate.Config{}), Schema: []state.Schema{table, other}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, func(r signalRec) {
		t.Helper()
		require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error { return table.Put(tx, r) }))
	}
}

func TestSignalsEndTheWaitForWhatTheyWatch(t *testing.T) {
	table := state.NewTable("signal", func(r signalRec) string { return r.ID }, state.Index("kind", func(r signalRec) []string { return []string{r.Kind} }).
		Telling(func(r signalRec) string { return r.Told }))
	other := state.NewTable("signal-other", func(r signalRec) string { return r.ID })
	s, put := signalStore(t, table, other)
	put(signalRec{ID: "1", Kind: "a"})
	put(signalRec{ID: "2", Kind: "b"})
	put(signalRec{ID: "4", Kind: "a"})
	for name, c := range map[string]struct {
		index, value string
		change       signalRec
	}{
		"all, a new one":            {"", "", signalRec{ID: "3", Kind: "c"}},
		"all, a changed one":        {"", "", signalRec{ID: "2", Kind: "d"}},
		"a value, a new one":        {"kind", "a", signalRec{ID: "6", Kind: "a"}},
		"a value that is new":       {"kind", "z", signalRec{ID: "5", Kind: "z"}},
		"a key, that changes":       {"id", "2", signalRec{ID: "2", Kind: "e"}},
		"a value, what it tells of": {"kind", "a", signalRec{ID: "1", Kind: "a", Told: "other"}},
		"a value, one leaves":       {"kind", "a", signalRec{ID: "4", Kind: "x"}},
	} {
		signals := &state.Signals{}
		require.NoError(t, s.View(func(v *state.View) error { table.Signal(v, signals, c.index, c.value); return nil }))
		put(c.change)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		require.NoError(t, signals.Wait(ctx), name)
		cancel()
		_ = s.Update(t.Context(), func(tx *state.Tx) error { return table.Put(tx, signalRec{ID: "4", Kind: "a"}) })
	}
	signals, bell := &state.Signals{}, make(chan struct{})
	signals.Also(bell)
	close(bell)
	require.NoError(t, signals.Wait(t.Context()))
	signals = &state.Signals{}
	require.NoError(t, s.View(func(v *state.View) error { table.Signal(v, signals, "", ""); return nil }))
	require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error { return other.Insert(tx, signalRec{ID: "1", Kind: "a"}) }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, signals.Wait(ctx), context.DeadlineExceeded, "another table")
}

// Who waits for a value hears of what comes and goes there and of what the index tells of, and of nothing else: not of the rest of its records,
// nor, for a value that no record has, of other indexes.
func TestSignalsLeaveAloneWhoWaitsForSomethingElse(t *testing.T) {
	by := func(f func(signalRec) string) func(signalRec) []string {
		return func(r signalRec) []string { return []string{f(r)} }
	}
	table := state.NewTable("signal", func(r signalRec) string { return r.ID },
		state.Index("kind", by(func(r signalRec) string { return r.Kind })).Telling(func(r signalRec) string { return r.Told }),
		state.Index("rest", by(func(r signalRec) string { return r.Rest })))
	empty := state.NewTable("signal-empty", func(r signalRec) string { return r.ID }, state.Index("kind", by(func(r signalRec) string { return r.Kind })))
	s, put := signalStore(t, table, empty)
	put(signalRec{ID: "1", Kind: "a"})
	put(signalRec{ID: "2", Kind: "b"})
	waits := map[string]*state.Signals{"a value": {}, "no value": {}}
	require.NoError(t, s.View(func(v *state.View) error {
		table.Signal(v, waits["a value"], "kind", "a")
		empty.Signal(v, waits["no value"], "kind", "a")
		return nil
	}))
	put(signalRec{ID: "1", Kind: "a", Rest: "changed"})
	put(signalRec{ID: "3", Kind: "c", Rest: "new"})
	require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error { return table.Delete(tx, "2") }))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, signals := range waits {
		for range 50 { // of two reasons to return, any
			require.Error(t, signals.Wait(over), name)
		}
	}
}

// An index is as the records are, whatever an update that reads by it has done to them before, and whether it succeeds.
func TestIndexesWithinAnUpdate(t *testing.T) {
	type rec struct {
		ID    string
		Tags  string // one for each letter, some twice
		Label string
	}
	letters := func(r rec) (all []string) {
		for _, l := range r.Tags {
			all = append(all, string(l))
		}
		return all
	}
	table := state.NewTable("tagged", func(r rec) string { return r.ID }, state.Index("tag", letters),
		state.Unique("label", func(r rec) []string {
			if r.Label == "" {
				return nil
			}
			return []string{r.Label}
		}))
	s, err := state.Open(t.Context(), state.Config{Log: memstate.New(memstate.Config{}), Schema: []state.Schema{table}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	rapid.Check(t, func(rt *rapid.T) {
		want := map[string]rec{}
		check := func(r state.Reader, want map[string]rec) {
			for _, tag := range []string{"a", "b", "c"} {
				var ids, found []string
				for id, r := range want {
					if slices.Contains(letters(r), tag) {
						ids = append(ids, id)
					}
				}
				for r := range table.By(r, "tag", tag) {
					require.Equal(rt, want[r.ID], r)
					found = append(found, r.ID)
				}
				slices.Sort(ids)
				require.Equal(rt, ids, found, tag)
			}
			for _, label := range []string{"x", "y"} {
				got, err := table.One(r, "label", label)
				held := slices.ContainsFunc(slices.Collect(maps.Values(want)), func(r rec) bool { return r.Label == label })
				require.Equal(rt, held, err == nil, label)
				if held {
					require.Equal(rt, want[got.ID], got)
				}
			}
		}
		boom := errors.New("boom")
		view := func() {
			require.NoError(rt, s.View(func(v *state.View) error { check(v, want); return nil }))
		}
		require.NoError(rt, s.Update(context.Background(), func(tx *state.Tx) error {
			for r := range table.All(tx) {
				if err := table.Delete(tx, r.ID); err != nil {
					return err
				}
			}
			return nil
		}))
		view()
		for range rapid.IntRange(1, 4).Draw(rt, "updates") {
			fails, now := rapid.Bool().Draw(rt, "fails"), maps.Clone(want)
			err := s.Update(context.Background(), func(tx *state.Tx) error {
				for range rapid.IntRange(1, 6).Draw(rt, "changes") {
					r := rec{rapid.SampledFrom([]string{"1", "2", "12"}).Draw(rt, "id"), rapid.StringOfN(rapid.SampledFrom([]rune("abc")), 0, 4, -1).Draw(rt, "tags"),
						rapid.SampledFrom([]string{"", "x", "y"}).Draw(rt, "label")}
					if r.Tags == "" {
						if _, there := now[r.ID]; there {
							require.NoError(rt, table.Delete(tx, r.ID))
						}
						delete(now, r.ID)
					} else if err := table.Put(tx, r); err == nil {
						now[r.ID] = r
					} else if !errdefs.IsAlreadyExists(err) {
						return err
					}
					if rapid.Bool().Draw(rt, "look") {
						check(tx, now)
						check(tx.Unguarded(), now)
					}
				}
				if fails {
					return boom
				}
				return nil
			})
			if fails {
				require.ErrorIs(rt, err, boom)
			} else {
				require.NoError(rt, err)
				want = now
			}
			view()
		}
	})
}
