package statetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// cell is a key's value and the revision that wrote it.
type cell struct {
	value string
	rev   state.Revision
}

// mirror is what a follower knows.
type mirror struct {
	rev   state.Revision
	cells map[string]cell
	known bool // it began with a snapshot or a known state
}

// apply checks a batch and takes it in.
func (m *mirror) apply(b state.Batch) error {
	switch {
	case len(b.Guards) > 0:
		return fmt.Errorf("batch %d has guards", b.Rev)
	case b.Snapshot && b.Rev < m.rev:
		return fmt.Errorf("a snapshot of revision %d came after revision %d", b.Rev, m.rev)
	case !b.Snapshot && !m.known:
		return fmt.Errorf("the first batch, %d, is no snapshot", b.Rev)
	case !b.Snapshot && b.Rev != m.rev+1:
		return fmt.Errorf("batch %d came after revision %d", b.Rev, m.rev)
	case !b.Snapshot && len(b.Ops) == 0:
		return fmt.Errorf("batch %d is empty", b.Rev)
	}
	if b.Snapshot || m.cells == nil {
		m.cells = map[string]cell{}
	}
	m.rev, m.known = b.Rev, true
	seen := map[string]bool{}
	for _, op := range b.Ops {
		switch {
		case seen[op.Key]:
			return fmt.Errorf("batch %d has two operations on %q", b.Rev, op.Key)
		case b.Snapshot && op.Delete:
			return fmt.Errorf("the snapshot of revision %d removes %q", b.Rev, op.Key)
		case !b.Snapshot && op.Rev != b.Rev, op.Rev == 0, op.Rev > b.Rev:
			return fmt.Errorf("batch %d, snapshot %v, says that %q was written by revision %d", b.Rev, b.Snapshot, op.Key, op.Rev)
		}
		seen[op.Key] = true
		if op.Delete {
			delete(m.cells, op.Key)
		} else {
			m.cells[op.Key] = cell{string(op.Value), op.Rev}
		}
	}
	return nil
}

// differs returns how the mirror is not what it should be.
func (m *mirror) differs(want mirror) error {
	if m.rev != want.rev {
		return fmt.Errorf("the follower is at revision %d, want %d", m.rev, want.rev)
	}
	for key, c := range want.cells {
		if m.cells[key] != c {
			return fmt.Errorf("%q is %v, want %v", key, m.cells[key], c)
		}
	}
	for key, c := range m.cells {
		if _, ok := want.cells[key]; !ok {
			return fmt.Errorf("%q is %v, should not be there", key, c)
		}
	}
	return nil
}

func (m mirror) clone() mirror {
	m.cells = maps.Clone(m.cells)
	return m
}

// follower reads a log batch by batch.
type follower struct {
	mirror
	next func() (state.Batch, error, bool)
	stop func()
}

// follow follows the log from a revision, at which the state was known.
func (b *bench) follow(ctx context.Context, known mirror) *follower {
	f := &follower{mirror: known.clone()}
	f.known = known.rev > 0
	f.next, f.stop = iter.Pull2(b.Log.Follow(ctx, known.rev))
	return f
}

var errEnded = errors.New("the follower has ended, or had to wait for too long")

// batch takes in the next batch.
func (f *follower) batch() (state.Batch, error) {
	b, err, ok := f.next()
	if !ok {
		return b, errEnded
	}
	if err != nil {
		return b, err
	}
	return b, f.apply(b)
}

// reach reads until a revision.
func (f *follower) reach(rev state.Revision) error {
	for f.rev < rev || !f.known {
		if _, err := f.batch(); err != nil {
			return fmt.Errorf("on the way to revision %d, at %d: %w", rev, f.rev, err)
		}
	}
	if f.rev > rev {
		return fmt.Errorf("the follower is at revision %d, nothing after %d was committed", f.rev, rev)
	}
	return nil
}

// now returns the state as a new follower is given it.
func (b *bench) now(ctx context.Context) (mirror, error) {
	f := b.follow(ctx, mirror{})
	defer f.stop()
	_, err := f.batch()
	return f.mirror, err
}

// holds checks the state as a new follower is given it.
func (b *bench) holds(ctx context.Context, rev state.Revision, cells map[string]cell) error {
	m, err := b.now(ctx)
	if err != nil {
		return err
	}
	return m.differs(mirror{rev: rev, cells: cells})
}
