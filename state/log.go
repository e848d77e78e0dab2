package state

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/containerd/errdefs"
)

// Revision numbers the batches a log has committed: a later batch has a higher one. A log with numbers of its own counts,
// and its first batch is revision 1; one that shares its numbers with others, as etcd's are shared by all that is in it, leaves
// some out. 0 means "before everything", and in a [Guard], "must not exist".
type Revision uint64

// Op is one change to one key: a new value, or its removal.
type Op struct {
	Key    string
	Value  []byte   // ignored when Delete is set
	Delete bool     // remove Key; removing an absent key is no error
	Rev    Revision // set by the log in what it yields: the revision that wrote Key
}

// Guard is a condition of a commit: Key was last written by revision Rev, or does not exist when Rev is 0.
type Guard struct {
	Key string
	Rev Revision
}

// Batch is what a log commits and yields: changes that happen together or not at all.
type Batch struct {
	Rev      Revision // set by the log; a snapshot's is that of the last batch in it, 0 if there is none
	Snapshot bool     // Ops are the whole state at Rev and replace all the follower knew
	Guards   []Guard  // conditions of a commit; empty in what Follow yields
	Ops      []Op     // at most one per key
}

// Log is the ordered, durable history of a [Store]: the only thing that differs between memory, bbolt and etcd.
//
// A log is used like this: the store follows it from revision 0, applies the snapshot and every later batch to its
// indexed view, and commits batches whose guards name the revisions it saw. All methods are safe for concurrent use
// by several stores. A log keeps neither the slices it is handed nor the ones it yields; both belong to the caller
// once the call has returned, but a yielded Value may be shared with other followers and must not be changed.
//
// package statetest holds the conformance suite: one row for each sentence below.
type Log interface {
	// Commit appends b when every guard in it still holds and returns the revision it got, which is above that
	// of every batch before, and one above it if the log counts by itself. The batch is durable, and in every later
	// Follow, before Commit returns.
	//
	// A guard that no longer holds is [ErrConflict], and nothing was written. A batch with no operations, an
	// empty key, or two operations on one key is an invalid argument. A context that ends before the append
	// began leaves nothing behind. An error under [ErrUnknown] means that the batch may or may not be in the log: the
	// caller learns which by following it.
	Commit(ctx context.Context, b Batch) (Revision, error)

	// Follow yields the state, then every later batch, in order, without a gap and without an end: the
	// sequence ends only when ctx ends, when the consumer stops, or after yielding one error.
	//
	// With from 0, the first batch is a snapshot, also when the log is empty. With a revision the log still
	// remembers, it is the batch after from. With one it has forgotten, it is a snapshot again, so that a
	// follower never has to tell the cases apart. A revision from the future is an error. A follower that is slow never
	// holds up Commit; if it falls too far behind, its next batch is a snapshot.
	Follow(ctx context.Context, from Revision) iter.Seq2[Batch, error]

	// Close ends every Follow and refuses later calls with [ErrClosed]. A second Close does nothing.
	Close() error
}

var (
	// ErrConflict is a commit whose guards no longer hold; the work it stood for must be done again on newer data.
	ErrConflict = fmt.Errorf("state: a record changed since it was read: %w", errdefs.ErrConflict)
	// ErrUnknown is a commit that may or may not have happened.
	ErrUnknown = fmt.Errorf("state: outcome of the commit is unknown: %w", errdefs.ErrUnknown)
	// ErrClosed is any use of a store or log after its Close.
	ErrClosed = fmt.Errorf("state: closed: %w", errdefs.ErrUnavailable)
	// ErrResync tells a watcher that it fell too far behind, or asked for a revision that is no longer remembered:
	// it must look at the whole state again.
	ErrResync = fmt.Errorf("state: watcher must read the whole state again: %w", errdefs.ErrOutOfRange)
)

// CheckBatch reports what is wrong with a batch that is about to be committed; every log calls it first.
func CheckBatch(b Batch) error {
	if len(b.Ops) == 0 {
		return fmt.Errorf("state: batch has no operations: %w", errdefs.ErrInvalidArgument)
	}
	seen := make(map[string]struct{}, len(b.Ops))
	for _, op := range b.Ops {
		if op.Key == "" {
			return fmt.Errorf("state: operation has an empty key: %w", errdefs.ErrInvalidArgument)
		}
		if _, twice := seen[op.Key]; twice {
			return fmt.Errorf("state: two operations on key %q in one batch: %w", op.Key, errdefs.ErrInvalidArgument)
		}
		seen[op.Key] = struct{}{}
	}
	for _, g := range b.Guards {
		if g.Key == "" {
			return fmt.Errorf("state: guard has an empty key: %w", errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// isContext tells the errors that are never wrapped in one of ours.
func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
