package state

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	memdb "github.com/hashicorp/go-memdb"
)

// change is one record's change within a revision.
type change struct {
	table, key string
	old, new   *entry
}

// follow applies what the log yields until the store is closed. It answers loaded once, when the first snapshot is in or
// can't be had. A follow that ends with an error is begun again where it stopped, with back-off, unless the log is closed.
func (s *Store) follow(loaded chan<- error) {
	answered := false
	wait := 10 * time.Millisecond
	for {
		var err error
		for b, ferr := range s.log.Follow(s.ctx, s.Revision()) {
			if ferr == nil {
				ferr = s.apply(b)
			}
			if err = ferr; err != nil {
				break
			}
			wait = 10 * time.Millisecond
			if !answered {
				answered = true
				loaded <- nil
			}
		}
		switch {
		case s.ctx.Err() != nil:
			s.end(ErrClosed)
			if !answered {
				loaded <- ErrClosed
			}
			return
		case !answered:
			if err == nil {
				err = ErrClosed
			}
			s.end(err)
			loaded <- err
			return
		}
		s.logger.Warn("state: following the log was interrupted", "error", err, "again in", wait)
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// apply is the one way into the tables.
func (s *Store) apply(b Batch) error {
	if b.Rev <= s.Revision() && !b.Snapshot {
		return nil
	}
	a := &applier{s: s, base: s.db.Txn(false), rows: s.db.Txn(true)}
	defer a.rows.Abort()
	var list []change
	if b.Snapshot {
		gone, err := s.missing(a.base, b)
		if err != nil {
			return err
		}
		for _, key := range gone {
			b.Ops = append(b.Ops, Op{Key: key, Delete: true})
		}
	}
	// Records first: they change the amounts of the sums whose keys come after them.
	for _, records := range []bool{true, false} {
		for _, op := range b.Ops {
			if strings.HasPrefix(op.Key, "r/") != records {
				continue
			}
			if op.Rev == 0 {
				op.Rev = b.Rev
			}
			ch, err := a.apply(op)
			if err != nil {
				return fmt.Errorf("state: revision %d, key %q: %w", b.Rev, op.Key, err)
			}
			if ch != nil {
				list = append(list, *ch)
			}
		}
	}
	if err := a.move(); err != nil {
		return fmt.Errorf("state: revision %d: %w", b.Rev, err)
	}
	for key, e := range a.sums {
		if err := setRow(a.rows, sumRows, first(a.base, sumRows, key), e); err != nil {
			return fmt.Errorf("state: revision %d, key %q: %w", b.Rev, key, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.rows.Commit()
	if b.Snapshot && s.applied == 0 {
		s.feed.Reset(uint64(b.Rev)) // the state that watchers begin with, not a change
	} else {
		s.feed.Append(uint64(b.Rev), Changes{Rev: b.Rev, list: list})
	}
	s.applied = max(s.applied, b.Rev)
	s.move()
	return nil
}

// applier is one batch on its way into the tables. A batch has one operation on a key, so what was there before is read where
// it began, not from the tables as they change, which would make go-memdb copy more; but records change sums.
type applier struct {
	s     *Store
	base  *memdb.Txn
	rows  *memdb.Txn
	sums  map[string]*entry // those that changed; nil for one that is gone
	moves []refiling
}

// apply applies one operation; it returns the change if it is one of a record.
func (a *applier) apply(op Op) (*change, error) {
	kind, name, key := splitKey(op.Key)
	switch kind {
	case "u":
		var e *entry
		if !op.Delete {
			e = &entry{op.Key, op.Rev, string(op.Value)}
		}
		return nil, setRow(a.rows, uniqueRows, first(a.base, uniqueRows, op.Key), e)
	case "s":
		// The amount was changed with the records; here is its revision.
		var e *entry
		if !op.Delete {
			e = &entry{op.Key, op.Rev, oldValue(a.sum(op.Key))}
		}
		a.setSum(op.Key, e)
		return nil, nil
	case "r":
	default:
		return nil, fmt.Errorf("not a key of this version of the store")
	}
	t := a.s.schema.tables[name]
	if t == nil {
		a.s.logger.Debug("state: a record of a table that this program does not use", "table", name, "key", key)
		return nil, nil
	}
	old := first(a.base, name, key)
	if op.Delete {
		if old == nil {
			return nil, nil
		}
		if err := a.rows.Delete(name, old); err != nil {
			return nil, err
		}
		a.refile(t, key, old.val, nil)
		return &change{name, key, old, nil}, a.addUp(t, old.val, nil)
	}
	if old != nil && old.rev == op.Rev {
		return nil, nil // a snapshot of what is known
	}
	val, err := t.decode(op.Value)
	if err != nil {
		return nil, err
	}
	row := &entry{key, op.Rev, val}
	if err := a.rows.Insert(name, row); err != nil {
		return nil, err
	}
	a.refile(t, key, oldValue(old), val)
	return &change{name, key, old, row}, a.addUp(t, oldValue(old), val)
}

// refile notes what a record's change does to filedRows.
func (a *applier) refile(t table, key string, old, val any) {
	for r := range a.s.schema.refile(t, key, old, val) {
		a.moves = append(a.moves, r)
	}
	for r := range a.s.schema.tell(t, key, old, val) {
		a.moves = append(a.moves, r)
	}
}

// move does what was noted, in the order of the rows: of very many, go-memdb copies least so.
func (a *applier) move() error {
	slices.SortFunc(a.moves, func(r, o refiling) int { return bytes.Compare(r.row.key, o.row.key) })
	for _, r := range a.moves {
		if err := r.in(a.rows); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) sum(key string) *entry {
	if e, changed := a.sums[key]; changed {
		return e
	}
	return first(a.base, sumRows, key)
}

func (a *applier) setSum(key string, e *entry) {
	if a.sums == nil {
		a.sums = map[string]*entry{}
	}
	a.sums[key] = e
}

// addUp keeps the amounts; the revisions of the rows come with the operations on the sums' own keys.
func (a *applier) addUp(t table, old, val any) error {
	return changeSums(a.s.schema, t, old, val, func(sm sum, group string, plus, minus any) error {
		key := sumKey(sm.sumName(), group)
		e := a.sum(key)
		total := sm.add(oldValue(e), plus, minus)
		rev := Revision(0)
		if e != nil {
			rev = e.rev
		}
		if total == nil && e == nil {
			return nil
		}
		a.setSum(key, &entry{key, rev, total})
		return nil
	})
}

// missing returns the keys that the tables have and a snapshot has not.
func (s *Store) missing(rows *memdb.Txn, b Batch) ([]string, error) {
	has := make(map[string]struct{}, len(b.Ops))
	for _, op := range b.Ops {
		has[op.Key] = struct{}{}
	}
	var gone []string
	look := func(table string, logKey func(*entry) string) {
		for e := range from(rows, table, "") {
			if _, ok := has[logKey(e)]; !ok {
				gone = append(gone, logKey(e))
			}
		}
	}
	for name := range s.schema.tables {
		look(name, func(e *entry) string { return recordKey(name, e.key) })
	}
	look(uniqueRows, func(e *entry) string { return e.key })
	look(sumRows, func(e *entry) string { return e.key })
	return gone, nil
}
