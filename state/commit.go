package state

import (
	"context"
	"errors"
	"fmt"
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

// Limits of one group of updates. A log with a smaller limit for a batch says so by a method Limits.
const (
	maxGroup      = 512
	maxGroupOps   = 4096
	commitTimeout = 30 * time.Second
)

// Limited is a log that refuses batches over a size: the store then makes smaller groups of updates. A single update over
// the limit is still handed to the log, to be refused with the log's own words.
type Limited interface {
	// Limits returns the most operations and guards together that one batch may have.
	Limits() (ops int)
}

// commit takes the updates that wait, runs them one after the other on one private copy, commits what they changed as
// one batch, and answers them when it is applied. So many small updates cost one write to the disk.
func (s *Store) commit() {
	limit := maxGroupOps
	if l, ok := s.log.(Limited); ok {
		limit = l.Limits()
	}
	var next *update // taken from the queue but left for the next group
	for {
		var group []*update
		if next != nil {
			group, next = append(group, next), nil
		} else {
			select {
			case u := <-s.submit:
				group = append(group, u)
			case <-s.ctx.Done():
				return
			}
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
		next = s.commitGroup(group, limit)
	}
}

// batch is a group of updates as it grows.
type batch struct {
	head   *memdb.MemDB // the state with the group's changes so far
	guards map[string]Revision
	ops    map[string]Op
	ran    []*update
	errs   []error
}

// commitGroup commits a group, running it again as long as another writer was faster. Updates that no longer fit are
// committed in a group of their own.
func (s *Store) commitGroup(group []*update, limit int) *update {
	for len(group) > 0 {
		b := &batch{head: s.db.Snapshot(), guards: map[string]Revision{}, ops: map[string]Op{}}
		rest := group
		for len(rest) > 0 && (len(b.ran) == 0 || len(b.ops)+len(b.guards) < limit/2) {
			s.run(b, rest[0])
			rest = rest[1:]
		}
		err := s.commitBatch(b)
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
	return nil
}

// run runs one update on top of the group's head and keeps what it changed unless it failed.
func (s *Store) run(b *batch, u *update) {
	b.ran = append(b.ran, u)
	if err := u.ctx.Err(); err != nil {
		b.errs = append(b.errs, err)
		return
	}
	head := b.head.Snapshot()
	tx := &Tx{schema: s.schema, rows: head.Txn(true), guards: map[string]Revision{}, ops: map[string]Op{}, earlier: b.ops}
	err := u.call(tx)
	b.errs = append(b.errs, err)
	if err != nil {
		tx.rows.Abort()
		return
	}
	tx.rows.Commit()
	for key, rev := range tx.guards {
		b.guards[key] = rev
	}
	if len(tx.ops) == 0 {
		return
	}
	for key, op := range tx.ops {
		b.ops[key] = op
	}
	b.head = head
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
		return s.reached(rev)
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
