package bolt

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/internal/feed"
)

// Follow implements state.Log.
func (l *Log) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		if err := l.reached(from); err != nil {
			yield(state.Batch{}, err)
			return
		}
		for snapshot := from == 0; ctx.Err() == nil; snapshot = true {
			if snapshot {
				b, err := l.snapshot()
				if !yield(b, err) || err != nil {
					return
				}
				from = b.Rev
			}
			for b, err := range l.feed.From(ctx, uint64(from)) {
				if errors.Is(err, feed.ErrClosed) {
					if err = l.failure(); err == nil {
						err = state.ErrClosed
					}
					yield(state.Batch{}, err)
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

// reached checks that a revision is not from the future.
func (l *Log) reached(from state.Revision) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.failed != nil:
		return l.failed
	case from > l.head.rev:
		return fmt.Errorf("state: revision %d is not reached, the log is at %d: %w", from, l.head.rev, errdefs.ErrInvalidArgument)
	}
	return nil
}

// snapshot reads the whole state.
func (l *Log) snapshot() (b state.Batch, err error) {
	err = guarded(func() error {
		tx, h, err := l.begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		b = state.Batch{Rev: h.rev, Snapshot: true, Ops: make([]state.Op, 0, h.count)}
		return tx.Bucket([]byte(rowsBucket)).ForEach(func(key, row []byte) error {
			if !intact(l.table, key, row) {
				return damaged("the record %q is not as it was written", key)
			}
			b.Ops = append(b.Ops, state.Op{Key: string(key), Value: append([]byte(nil), row[rowHead:]...), Rev: rowRev(row)})
			return nil
		})
	})
	if err != nil {
		return state.Batch{}, fmt.Errorf("state/bolt: read %s: %w", l.path, err)
	}
	return b, nil
}

// begin begins to read what the feed goes on from.
func (l *Log) begin() (*bbolt.Tx, head, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return nil, head{}, l.failed
	}
	tx, err := l.db.Begin(false)
	return tx, l.head, err
}
