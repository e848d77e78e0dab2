// Package memstate is a state.Log in memory: real, with all that a log promises except that it is gone with the process.
package memstate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/internal/feed"
)

// Config is what a [Log] is made of.
type Config struct {
	// History is how many batches a follower may fall behind before it is given a snapshot; 0 or less: 1024.
	History int
}

// Log implements state.Log.
type Log struct {
	feed *feed.Feed[state.Batch]

	mu     sync.RWMutex
	rows   map[string]state.Op // the last operation on each key
	rev    state.Revision
	closed bool
}

// New returns an empty log.
func New(cfg Config) *Log {
	if cfg.History <= 0 {
		cfg.History = 1024
	}
	return &Log{feed: feed.New[state.Batch](cfg.History), rows: map[string]state.Op{}}
}

// Commit implements state.Log.
func (l *Log) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := state.CheckBatch(b); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, state.ErrClosed
	}
	for _, g := range b.Guards {
		if l.rows[g.Key].Rev != g.Rev {
			return 0, fmt.Errorf("key %q: %w", g.Key, state.ErrConflict)
		}
	}
	l.rev++
	out := state.Batch{Rev: l.rev, Ops: make([]state.Op, len(b.Ops))}
	for i, op := range b.Ops {
		op.Rev = l.rev
		op.Value = append([]byte(nil), op.Value...)
		out.Ops[i] = op
		if op.Delete {
			delete(l.rows, op.Key)
		} else {
			l.rows[op.Key] = op
		}
	}
	l.feed.Append(uint64(l.rev), out)
	return l.rev, nil
}

// Follow implements state.Log.
func (l *Log) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		if err := l.reached(from); err != nil {
			yield(state.Batch{}, err)
			return
		}
		for snapshot := from == 0; ctx.Err() == nil; snapshot = true {
			if snapshot {
				b := l.snapshot()
				if !yield(b, nil) {
					return
				}
				from = b.Rev
			}
			for b, err := range l.feed.From(ctx, uint64(from)) {
				if errors.Is(err, feed.ErrClosed) {
					yield(state.Batch{}, state.ErrClosed)
					return
				}
				if err != nil {
					break // too far behind
				}
				b.Ops = append([]state.Op(nil), b.Ops...)
				if !yield(b, nil) {
					return
				}
				from = b.Rev
			}
		}
	}
}

func (l *Log) snapshot() state.Batch {
	l.mu.RLock()
	defer l.mu.RUnlock()
	b := state.Batch{Rev: l.rev, Snapshot: true, Ops: make([]state.Op, 0, len(l.rows))}
	for _, op := range l.rows {
		b.Ops = append(b.Ops, op)
	}
	return b
}

// reached checks that the log is open and a revision is not from the future.
func (l *Log) reached(from state.Revision) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.closed:
		return state.ErrClosed
	case from > l.rev:
		return fmt.Errorf("state: revision %d is not reached, the log is at %d: %w", from, l.rev, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Close implements state.Log.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.feed.Close()
	return nil
}
