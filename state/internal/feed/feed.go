// Package feed is a bounded memory of what happened last, for any number of followers.
package feed

import (
	"context"
	"errors"
	"iter"
	"sync"
)

var (
	// ErrBehind tells a follower that what it asked for has been forgotten, or has not happened.
	ErrBehind = errors.New("feed: no longer remembered")
	// ErrClosed ends every follower after Close.
	ErrClosed = errors.New("feed: closed")
)

// Feed remembers the last items that were appended. A follower reads at its own pace from what is remembered, so a slow one
// holds up nobody and costs no memory; one that is too slow is told. All methods are safe for concurrent use.
type Feed[T any] struct {
	mu     sync.Mutex
	items  []T      // a ring
	revs   []uint64 // of the items, rising
	next   int      // items appended so far; item n is at n modulo the ring's size
	last   uint64   // the revision up to which the feed is complete
	first  uint64   // the revision after which it is complete, as long as nothing has been forgotten
	moved  chan struct{}
	closed bool
}

// New returns a feed that remembers size items.
func New[T any](size int) *Feed[T] {
	return &Feed[T]{items: make([]T, size), revs: make([]uint64, size), moved: make(chan struct{})}
}

// Append adds the item of a revision, which must be higher than all before.
func (f *Feed[T]) Append(rev uint64, item T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.next % len(f.items)
	f.items[at], f.revs[at] = item, rev
	f.next++
	f.last = rev
	f.wake()
}

// Reset forgets everything and begins anew after rev: followers of what was before are behind.
func (f *Feed[T]) Reset(rev uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.items)
	f.next, f.first, f.last = 0, rev, rev
	f.wake()
}

// Close ends all followers.
func (f *Feed[T]) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wake()
}

func (f *Feed[T]) wake() {
	close(f.moved)
	f.moved = make(chan struct{})
}

// From yields the items of all revisions after rev, in order, and waits for more. It ends without an error when ctx
// ends, and after yielding ErrBehind or ErrClosed.
func (f *Feed[T]) From(ctx context.Context, rev uint64) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		for {
			item, at, moved, err := f.after(rev)
			switch {
			case err != nil:
				yield(none, err)
				return
			case moved == nil:
				if !yield(item, nil) {
					return
				}
				rev = at
				continue
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return
			}
		}
	}
}

// after returns the first item after rev, or a channel that is closed when there may be one.
func (f *Feed[T]) after(rev uint64) (item T, at uint64, moved chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	oldest := max(0, f.next-len(f.items))
	switch {
	case f.closed:
		return item, 0, nil, ErrClosed
	case rev == f.last:
		return item, 0, f.moved, nil
	case rev > f.last, oldest == 0 && rev < f.first, oldest > 0 && rev < f.revs[oldest%len(f.items)]:
		return item, 0, nil, ErrBehind
	}
	low, high := oldest, f.next // the first index whose revision is after rev
	for low < high {
		if mid := (low + high) / 2; f.revs[mid%len(f.items)] > rev {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return f.items[low%len(f.items)], f.revs[low%len(f.items)], nil, nil
}
