package state

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"time"

	memdb "github.com/hashicorp/go-memdb"
)

// update is one call of Update on its way.
type update struct {
	ctx      context.Context // the caller's; looked at until the update has its turn
	fn       func(*Tx) error
	result   chan error
	panicked any
}

// Limits of one group of updates. A log with smaller limits for a batch is a [Limited].
const (
	maxGroup      = 512
	maxGroupOps   = 4096 // and as many guards
	commitTimeout = 30 * time.Second
)

// Limits is the most that one batch may have. A field that is 0 is no limit.
type Limits struct {
	Ops    int
	Guards int
	Bytes  int // of all keys and values, and Each more for every operation and guard
	Each   int
}

// Limited is a log that refuses batches over a size: the store then makes smaller groups of updates. A single update over
// the limits is still handed to the log, to be refused with the log's own words.
type Limited interface{ Limits() Limits }

// limits are those of a store's groups.
func limits(log Log) Limits {
	var l Limits
	if limited, ok := log.(Limited); ok {
		l = limited.Limits()
	}
	if l.Ops == 0 {
		l.Ops = maxGroupOps
	}
	if l.Guards == 0 {
		l.Guards = maxGroupOps
	}
	return l
}

// commit takes the updates that wait, runs them one after the other on one private copy, commits what they changed as
// one batch, and answers them when it is applied. So many small updates cost one write to the disk.
func (s *Store) commit() {
	limit := limits(s.log)
	for {
		var group []*update
		select {
		case u := <-s.submit:
			group = append(group, u)
		case <-s.ctx.Done():
			return
		}
	more:
		for len(group) < maxGroup {
			select {
			case u := <-s.submit:
				group = append(group, u)
			default:
				break more
			}
		}
		s.commitGroup(group, limit)
	}
}

// batch is a group of updates as it grows.
type batch struct {
	head    *memdb.MemDB     // the state before the group
	base    *memdb.Txn       // reads it
	changed map[rowID]*entry // the rows that the group has changed so far; nil for one that is gone

	// The tables with the group's changes, for those who ask for rows by an index or in order. Most updates ask for single rows only, so
	// that the changes wait until a table is asked for.
	rows   *memdb.Txn       // nil: no table with changes was asked for
	behind []rowID          // of which rows may not have what changed says
	moves  []refiling       // that rows may not have yet
	inRows map[rowID]*entry // what rows have that differs from base

	guards map[string]Revision
	ops    map[string]Op
	bytes  int // of both, as Limits counts them
	ran    []*update
	errs   []error
}

// add adds what an update changed and read, or returns false if the group has something and would be over the limits with it.
func (b *batch) add(tx *Tx, limit Limits) bool {
	ops, guards, bytes := len(b.ops), len(b.guards), b.bytes
	for key := range tx.guards {
		if _, has := b.guards[key]; !has {
			guards++
			bytes += len(key) + limit.Each
		}
	}
	for key, op := range tx.ops {
		if old, has := b.ops[key]; has {
			bytes += len(op.Value) - len(old.Value)
		} else {
			ops++
			bytes += len(key) + len(op.Value) + limit.Each
		}
	}
	over := ops > limit.Ops || guards > limit.Guards || (limit.Bytes > 0 && bytes > limit.Bytes)
	if over && len(b.ops)+len(b.guards) > 0 {
		return false
	}
	b.bytes = bytes
	if len(b.guards)+len(b.ops) == 0 {
		b.guards, b.ops = tx.guards, tx.ops
		return true
	}
	maps.Copy(b.guards, tx.guards)
	maps.Copy(b.ops, tx.ops)
	return true
}

// rowID names a row of the tables in memory.
type rowID struct{ table, key string }

func (s *Store) newBatch() *batch {
	head := s.db.Snapshot()
	return &batch{head: head, base: head.Txn(false), changed: map[rowID]*entry{}}
}

// look returns a row as it is so far.
func (b *batch) look(id rowID) *entry {
	if e, changed := b.changed[id]; changed {
		return e
	}
	return first(b.base, id.table, id.key)
}

// leave leaves a row that has changed for when its table is asked for.
func (b *batch) leave(id rowID) { b.behind = append(b.behind, id) }

// table returns tables in memory, of which one is as the updates have left it.
func (b *batch) table(name string) *memdb.Txn {
	others := b.behind[:0]
	for _, id := range b.behind {
		if id.table != name {
			others = append(others, id)
			continue
		}
		b.write()
		was, differs := b.inRows[id]
		if !differs {
			was = first(b.base, name, id.key)
		}
		now := b.look(id)
		if err := setRow(b.rows, name, was, now); err != nil {
			panic(fmt.Sprintf("state: %s %q: %v", name, id.key, err)) // an index that can't be made of a record that could be put
		}
		b.inRows[id] = now
	}
	b.behind = others
	if b.rows == nil {
		return b.base
	}
	return b.rows
}

// end lets go of the tables.
func (b *batch) end() {
	if b.rows != nil {
		b.rows.Abort()
	}
}

// refile leaves a row of filedRows for when they are asked for.
func (b *batch) refile(r refiling) { b.moves = append(b.moves, r) }

// filed returns tables in memory, of which filedRows is as the updates have left it.
func (b *batch) filed() *memdb.Txn {
	for _, r := range b.moves {
		b.write()
		if err := r.in(b.rows); err != nil {
			panic(fmt.Sprintf("state: index row %q: %v", r.row.key, err)) // it comes where it was not and goes where it was
		}
	}
	b.moves = b.moves[:0]
	if b.rows == nil {
		return b.base
	}
	return b.rows
}

// write makes rows something that can be written.
func (b *batch) write() {
	if b.rows == nil {
		b.rows, b.inRows = b.head.Txn(true), map[rowID]*entry{}
	}
}

func (b *batch) from(table, key string) iter.Seq[*entry] {
	return func(yield func(*entry) bool) { from(b.table(table), table, key)(yield) }
}

// commitGroup commits a group, running it again as long as another writer was faster. Updates that no longer fit are
// committed in a group of their own.
func (s *Store) commitGroup(group []*update, limit Limits) {
	for len(group) > 0 {
		b := s.newBatch()
		rest := group
		for len(rest) > 0 {
			if !s.run(b, rest[0], limit) {
				break
			}
			rest = rest[1:]
		}
		err := s.commitBatch(b)
		b.end()
		if errors.Is(err, ErrConflict) {
			continue
		}
		for i, u := range b.ran {
			if err != nil && b.errs[i] == nil {
				b.errs[i] = err
			}
			u.result <- b.errs[i]
		}
		group = rest
	}
}

// run runs one update on top of what the group has changed so far, and takes back what it did if it fails. It returns false, and has
// changed nothing, if the group is too large with it.
func (s *Store) run(b *batch, u *update, limit Limits) bool {
	err := u.ctx.Err()
	if err == nil {
		tx := &Tx{schema: s.schema, group: b, guards: map[string]Revision{}, ops: map[string]Op{}}
		err = u.call(tx)
		full := err == nil && !b.add(tx, limit)
		if full || err != nil {
			tx.takeBack()
		}
		if full {
			return false
		}
	}
	b.ran, b.errs = append(b.ran, u), append(b.errs, err)
	return true
}

// call runs the caller's function; a panic in it is the caller's too.
func (u *update) call(tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			u.panicked, err = p, fmt.Errorf("state: panic in update: %v", p)
		}
	}()
	return u.fn(tx)
}

// commitBatch commits the group's batch and waits until it is applied. What ran against data that is stale is not
// answered yet: after ErrConflict the store has caught up and the group can run again.
func (s *Store) commitBatch(b *batch) error {
	if len(b.ops) == 0 {
		return nil
	}
	out := Batch{Guards: make([]Guard, 0, len(b.guards)), Ops: make([]Op, 0, len(b.ops))}
	for key, rev := range b.guards {
		out.Guards = append(out.Guards, Guard{key, rev})
	}
	for _, op := range b.ops {
		out.Ops = append(out.Ops, op)
	}
	ctx, cancel := context.WithTimeout(s.ctx, commitTimeout)
	defer cancel()
	before := s.Revision()
	rev, err := s.log.Commit(ctx, out)
	switch {
	case err == nil:
		return s.reached(ctx, rev)
	case errors.Is(err, ErrConflict):
		return s.catchUp(before, err)
	case isContext(err) && s.ctx.Err() != nil:
		return s.ended()
	case isContext(err):
		return fmt.Errorf("%w: the log did not answer within %v", ErrUnknown, commitTimeout)
	}
	return err
}

// catchUp waits, after a conflict, for the change that caused it; the wait is bounded because the change may have
// been applied just before the batch was made.
func (s *Store) catchUp(before Revision, conflict error) error {
	s.mu.Lock()
	applied, moved := s.applied, s.moved
	s.mu.Unlock()
	if applied > before {
		return conflict
	}
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-moved:
	case <-timer.C:
	case <-s.ctx.Done():
		return s.ended()
	}
	return conflict
}
