package statetest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// unreached is far above the revision of anything that the suite commits.
const unreached = 1 << 40

// counted is a log that leaves out revisions, with the numbers it would have if it counted: revision n is its nth batch. So all
// rows may count. The numbers come from a follower of its own, which must be yielded every batch.
type counted struct {
	log  state.Log
	stop context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex
	revs   []state.Revision // of the log, by our number less one
	moved  chan struct{}    // closed and replaced when revs or failed change
	failed error
}

// newCounted counts a log's batches after those that are known, from now on: wait ends the wait for the log's first answer.
func newCounted(wait context.Context, log state.Log, known []state.Revision) *counted {
	ctx, stop := context.WithCancel(context.Background())
	c := &counted{log: log, stop: stop, revs: known, moved: make(chan struct{})}
	begun := make(chan struct{})
	c.done.Go(func() {
		err := c.count(ctx, sync.OnceFunc(func() { close(begun) }))
		if err == nil {
			err = state.ErrClosed
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed = err
		c.wake()
	})
	select {
	case <-begun:
	case <-wait.Done():
	}
	return c
}

func (c *counted) wake() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// count numbers the batches until ctx ends, and calls begun when no later batch can escape it. A snapshot hides batches, so where
// one comes it asks again for what was before.
func (c *counted) count(ctx context.Context, begun func()) error {
	const tries = 10
	defer begun()
	for range tries {
		c.mu.Lock()
		last, any := state.Revision(0), len(c.revs) > 0
		if any {
			last = c.revs[len(c.revs)-1]
		}
		c.mu.Unlock()
		if any {
			begun()
		}
		for b, err := range c.log.Follow(ctx, last) {
			switch {
			case err != nil:
				return err
			case b.Snapshot && !any && b.Rev == 0:
				begun()
				continue
			case b.Snapshot && !any:
				return fmt.Errorf("the first snapshot of an empty log has revision %d", b.Rev)
			case !b.Snapshot && b.Rev <= last:
				return fmt.Errorf("revision %d was yielded after revision %d", b.Rev, last)
			}
			if b.Snapshot {
				break
			}
			last, any = b.Rev, true
			c.mu.Lock()
			c.revs = append(c.revs, b.Rev)
			c.wake()
			c.mu.Unlock()
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	return fmt.Errorf("a follower from the last revision was given a snapshot %d times: a log with gaps must remember what the suite commits", tries)
}

// number returns our number of a revision, which must be that of a batch, once it is known.
func (c *counted) number(ctx context.Context, rev state.Revision) (state.Revision, error) {
	if rev == 0 {
		return 0, nil
	}
	for {
		c.mu.Lock()
		revs, moved, failed := c.revs, c.moved, c.failed
		c.mu.Unlock()
		at, ok := slices.BinarySearch(revs, rev)
		switch {
		case ok:
			return state.Revision(at + 1), nil
		case at < len(revs):
			return 0, fmt.Errorf("revision %d is that of no batch: revision %d comes after %d batches", rev, revs[at], at)
		case failed != nil:
			return 0, failed
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, fmt.Errorf("revision %d was not yielded to a follower of all: %w", rev, ctx.Err())
		}
	}
}

// theirs returns the log's revision for our number.
func (c *counted) theirs(n state.Revision) state.Revision {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case n == 0:
		return 0
	case n <= state.Revision(len(c.revs)):
		return c.revs[n-1]
	}
	return unreached + n
}

func (c *counted) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	b.Guards = slices.Clone(b.Guards)
	for i, g := range b.Guards {
		b.Guards[i].Rev = c.theirs(g.Rev)
	}
	rev, err := c.log.Commit(ctx, b)
	if err != nil {
		return rev, err
	}
	return c.number(ctx, rev)
}

func (c *counted) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		for b, err := range c.log.Follow(ctx, c.theirs(from)) {
			if err == nil {
				b, err = c.numbered(ctx, b)
				if err != nil && ctx.Err() != nil {
					return
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// numbered is a batch under our numbers.
func (c *counted) numbered(ctx context.Context, b state.Batch) (state.Batch, error) {
	n, err := c.number(ctx, b.Rev)
	if err != nil {
		return b, err
	}
	b.Rev = n
	for i, op := range b.Ops {
		if b.Ops[i].Rev, err = c.number(ctx, op.Rev); err != nil {
			return b, fmt.Errorf("batch %d, key %q: %w", n, op.Key, err)
		}
	}
	return b, nil
}

func (c *counted) Close() error {
	err := c.log.Close()
	c.stop()
	c.done.Wait()
	return err
}
