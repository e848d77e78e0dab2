package state_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

type signalRec struct{ ID, Kind string }

func TestSignalsEndTheWaitForWhatTheyWatch(t *testing.T) {
	table := state.NewTable("signal", func(r signalRec) string { return r.ID }, state.Index("kind", func(r signalRec) []string { return []string{r.Kind} }))
	other := state.NewTable("signal-other", func(r signalRec) string { return r.ID })
	s, err := state.Open(t.Context(), state.Config{Log: memstate.New(memstate.Config{}), Schema: []state.Schema{table, other}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	put := func(r signalRec) {
		require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error { return table.Put(tx, r) }))
	}
	put(signalRec{"1", "a"})
	put(signalRec{"2", "b"})
	put(signalRec{"4", "a"})
	for name, c := range map[string]struct {
		index, value string
		change       signalRec
	}{
		"all, a new one":      {"", "", signalRec{"3", "c"}},
		"all, a changed one":  {"", "", signalRec{"2", "d"}},
		"a value, a new one":  {"kind", "a", signalRec{"6", "a"}},
		"a value that is new": {"kind", "z", signalRec{"5", "z"}},
		"a key, that changes": {"id", "2", signalRec{"2", "e"}},
		"a value, one leaves": {"kind", "a", signalRec{"4", "x"}},
	} {
		signals := &state.Signals{}
		require.NoError(t, s.View(func(v *state.View) error { table.Signal(v, signals, c.index, c.value); return nil }))
		put(c.change)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		require.NoError(t, signals.Wait(ctx), name)
		cancel()
		_ = s.Update(t.Context(), func(tx *state.Tx) error { return table.Put(tx, signalRec{"4", "a"}) })
	}
	signals, bell := &state.Signals{}, make(chan struct{})
	signals.Also(bell)
	close(bell)
	require.NoError(t, signals.Wait(t.Context()))
	signals = &state.Signals{}
	require.NoError(t, s.View(func(v *state.View) error { table.Signal(v, signals, "", ""); return nil }))
	require.NoError(t, s.Update(t.Context(), func(tx *state.Tx) error { return other.Insert(tx, signalRec{"1", "a"}) }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, signals.Wait(ctx), context.DeadlineExceeded, "another table")
}
