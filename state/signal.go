package state

import (
	"context"
	"fmt"

	"github.com/hashicorp/go-memdb"
)

// Signals wait for changes of parts of tables, at a cost that does not grow with the changes of all else, as [Store.Watch] does. The zero
// value waits for nothing. It is for one goroutine.
type Signals struct {
	set memdb.WatchSet
}

// Signal adds to s the records that index files under value, as they are in v: [Signals.Wait] returns when one came or went since then, or
// changed in what the index tells of ([TableOption.Telling]); now and then without a reason. An index "" is all records of the table, and
// "id" the record with the key value: their signals tell of every change.
func (t *Table[T]) Signal(v *View, s *Signals, index, value string) {
	var it memdb.ResultIterator
	var err error
	switch index {
	case "":
		it, err = v.rows.Get(t.name, "id")
	case "id":
		it, err = v.rows.Get(t.name, "id", value)
	default:
		if at := t.index(index); t.indexes[at].unique {
			it, err = v.rows.Get(uniqueRows, "id", uniqueKey(t.name, index, value))
		} else {
			it, err = v.rows.Get(filedRows, "id_prefix", v.schema.filedUnder(t.name, at, value))
		}
	}
	if err != nil {
		panic(fmt.Sprintf("state: %v: the store was opened without this table", err))
	}
	s.Also(it.WatchCh())
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
