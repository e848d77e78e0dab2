package state

import (
	"context"

	"github.com/hashicorp/go-memdb"
)

// Signals wait for changes of parts of tables, at a cost that does not grow with the changes of all else, as [Store.Watch] does. The zero
// value waits for nothing. It is for one goroutine.
type Signals struct {
	set memdb.WatchSet
}

// Signal adds to s the records that index files under value, as they are in v: [Signals.Wait] returns when one of them changed, came or went
// since then; now and then without a reason. An index "" is all records of the table; "id" has the record with the key value.
func (t *Table[T]) Signal(v *View, s *Signals, index, value string) {
	args := []any{value}
	if index == "" {
		index, args = "id", nil
	}
	it, err := v.rows.Get(t.name, index, args...)
	if err != nil {
		panic(err) // an index that is not there, as in By
	}
	if s.set == nil {
		s.set = memdb.NewWatchSet()
	}
	s.set.Add(it.WatchCh())
}

// Also adds a channel to s: [Signals.Wait] returns, too, when it is closed.
func (s *Signals) Also(c <-chan struct{}) {
	if s.set == nil {
		s.set = memdb.NewWatchSet()
	}
	s.set.Add(c)
}

// Wait returns nil when something changed, and otherwise with ctx's error.
func (s *Signals) Wait(ctx context.Context) error { return s.set.WatchCtx(ctx) }
