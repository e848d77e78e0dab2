package dewpointtest

import (
	"context"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// sharedLog is the log that all processes have.
type sharedLog struct {
	*memstate.Log
	last atomic.Uint64 // the last revision that was committed
}

// Commit implements [state.Log].
func (l *sharedLog) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	rev, err := l.Log.Commit(ctx, b)
	for last := l.last.Load(); err == nil && uint64(rev) > last && !l.last.CompareAndSwap(last, uint64(rev)); {
		last = l.last.Load()
	}
	return rev, err
}

// records is the shared log as one process sees it, over a network that may be slow, lose an answer or be cut.
type records struct {
	state.Log
	life *life
}

// Commit implements [state.Log].
func (r *records) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	l, f := r.life, &r.life.proc.sim.cfg.Faults
	if err := l.await(); err != nil {
		return 0, err
	}
	if err := l.reach(ctx); err != nil {
		return 0, err
	}
	if l.meets(f.SlowLog) {
		if err := l.sleep(ctx, l.some(3*time.Second)); err != nil {
			return 0, err
		}
	}
	if l.meets(f.Conflict) {
		return 0, fmt.Errorf("dewpointtest: another writer was faster: %w", state.ErrConflict)
	}
	if l.meets(f.Unknown) {
		return 0, fmt.Errorf("dewpointtest: the request was lost: %w", state.ErrUnknown)
	}
	if err := l.await(); err != nil { // it may have died while it waited
		return 0, err
	}
	rev, err := r.Log.Commit(ctx, b)
	if err != nil {
		return 0, err
	}
	if l.meets(f.Unknown) {
		return 0, fmt.Errorf("dewpointtest: the answer was lost: %w", state.ErrUnknown)
	}
	if err := l.await(); err != nil {
		return 0, err
	}
	return rev, l.reach(ctx)
}

// Follow implements [state.Log].
func (r *records) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	l, f := r.life, &r.life.proc.sim.cfg.Faults
	return func(yield func(state.Batch, error) bool) {
		if l.await() != nil || l.reach(ctx) != nil {
			return
		}
		for b, err := range r.Log.Follow(ctx, from) {
			if l.await() != nil || l.reach(ctx) != nil {
				return
			}
			if l.meets(f.Lag) && l.sleep(ctx, l.some(2*time.Second)) != nil {
				return
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// Close implements [state.Log]: the log is everybody's, and stays open.
func (r *records) Close() error { return nil }
