package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/state"
)

const (
	maxTurns = 128      // commits under way at once; etcd flushes what comes together in one write
	maxKey   = 32 << 10 // bytes of a key
	headOps  = 2        // operations that each batch needs beside its own: the slot and the head
	slotCmps = 1        // conditions, likewise
)

// Limits implements state.Limited.
func (l *Log) Limits() state.Limits {
	if l.journal != nil {
		return state.Limits{Bytes: l.cfg.MaxBytes - 4<<10 - len(l.cfg.Prefix), Each: opHead}
	}
	return state.Limits{Ops: l.cfg.MaxOps - headOps, Guards: l.cfg.MaxOps - slotCmps,
		Bytes: l.cfg.MaxBytes - maxKey - 4<<10 - 4*len(l.cfg.Prefix), Each: len(l.cfg.Prefix) + 40}
}

// fits refuses a batch that etcd would refuse.
func (l *Log) fits(b state.Batch) error {
	limit := l.Limits()
	bytes := (len(b.Ops) + len(b.Guards)) * limit.Each
	long := func(key string) error {
		return fmt.Errorf("state/etcd: a key has %d bytes, the limit is %d: %w", len(key), maxKey, errdefs.ErrInvalidArgument)
	}
	for _, op := range b.Ops {
		if len(op.Key) > maxKey {
			return long(op.Key)
		}
		bytes += len(op.Key)
		if !op.Delete {
			bytes += len(op.Value)
		}
	}
	for _, g := range b.Guards {
		if len(g.Key) > maxKey {
			return long(g.Key)
		}
		bytes += len(g.Key)
	}
	over := func(what string, have, limit int, option string) error {
		return fmt.Errorf("state/etcd: a batch has %d %s, the limit is %d (Config.%s): %w", have, what, limit, option, errdefs.ErrInvalidArgument)
	}
	switch {
	case limit.Ops > 0 && len(b.Ops) > limit.Ops:
		return over("operations", len(b.Ops), limit.Ops, "MaxOps, etcd's --max-txn-ops")
	case limit.Guards > 0 && len(b.Guards) > limit.Guards:
		return over("guards", len(b.Guards), limit.Guards, "MaxOps, etcd's --max-txn-ops")
	case bytes > limit.Bytes:
		return over("bytes", bytes, limit.Bytes, "MaxBytes, etcd's --max-request-bytes")
	}
	return nil
}

// Commit implements state.Log. While etcd does not answer it goes on trying, for Config.Timeout, and then returns an error of the
// class Unavailable if nothing was written. A batch whose answer was lost is looked for, and only if that fails too, for another
// Config.Timeout, the error is [state.ErrUnknown]. That may outlast ctx.
func (l *Log) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := state.CheckBatch(b); err != nil {
		return 0, err
	}
	if !l.enter() {
		return 0, state.ErrClosed
	}
	defer l.leave()
	if err := l.fits(b); err != nil {
		return 0, err
	}
	if l.journal != nil {
		return l.journal.commit(ctx, b)
	}
	select {
	case l.turns <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-l.turns }()
	until := time.Now().Add(l.cfg.Timeout)
	var pause pause
	for {
		rev, err := l.attempt(ctx, b)
		var again *retry
		switch {
		case !errors.As(err, &again):
			return state.Revision(rev), err
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case l.isClosing():
			return 0, state.ErrClosed
		case again.soon:
			continue
		case time.Now().After(until):
			return 0, nothingWritten(l.cfg.Timeout, again.cause)
		}
		l.logger.Warn("state/etcd: a batch was not written", "error", again.cause, "again in", pause.next())
		pause.wait(ctx, l.closing)
	}
}

func (l *Log) isClosing() bool {
	select {
	case <-l.closing:
		return true
	default:
		return false
	}
}

// attempt commits the batch once. An error of the type *retry is that nothing was written and it can be tried again.
func (l *Log) attempt(ctx context.Context, b state.Batch) (int64, error) {
	s, err := l.session(ctx)
	if err != nil {
		if kindOf(err) == refused {
			return 0, foreign(err)
		}
		return 0, &retry{cause: err}
	}
	one := s.take(l.keys)
	defer s.give(one)
	id := one.nextID()
	asked, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	resp, err := l.client.Txn(asked).If(l.conditions(b, one)...).Then(l.operations(b, s, one, id)...).Else(clientv3.OpGet(one.key)).Commit()
	cancel()
	if err == nil {
		return answered(one, id, resp, b)
	}
	switch kindOf(err) {
	case refused:
		return 0, foreign(err)
	case unsent:
		return 0, &retry{cause: err}
	case expired:
		l.drop(s)
		return 0, &retry{cause: err, soon: true}
	}
	return l.settle(s, one, id, err)
}

// answered reads etcd's answer to a commit.
func answered(one *slot, id string, resp *clientv3.TxnResponse, b state.Batch) (int64, error) {
	if resp.Succeeded {
		one.rev = resp.Header.Revision
		return one.rev, nil
	}
	value, rev := found(resp)
	switch {
	case rev == one.rev && len(b.Guards) == 1:
		return 0, fmt.Errorf("key %q: %w", b.Guards[0].Key, state.ErrConflict)
	case rev == one.rev:
		return 0, fmt.Errorf("one of %d guards: %w", len(b.Guards), state.ErrConflict)
	}
	one.rev = rev    // 0 if it went with its lease, which the next try will find out
	if value == id { // the request arrived twice
		return rev, nil
	}
	return 0, &retry{cause: errMoved, soon: true} // by one that had been given up and has come late
}

var errMoved = errors.New("state/etcd: an earlier request came late")

func (l *Log) conditions(b state.Batch, one *slot) []clientv3.Cmp {
	all := make([]clientv3.Cmp, 0, len(b.Guards)+slotCmps)
	for _, g := range b.Guards {
		rev := int64(min(uint64(g.Rev), math.MaxInt64))
		all = append(all, clientv3.Compare(clientv3.ModRevision(l.keys.row(g.Key)), "=", rev)) // of a key that is absent it is 0
	}
	return append(all, one.unmoved())
}

// operations are the batch's, the slot's and, last of all, the head's: where a follower sees it, the batch is complete.
func (l *Log) operations(b state.Batch, s *session, one *slot, id string) []clientv3.Op {
	all := make([]clientv3.Op, 0, len(b.Ops)+headOps)
	removed := b.Ops[0].Key
	for _, op := range b.Ops {
		if op.Delete {
			all = append(all, clientv3.OpDelete(l.keys.row(op.Key)))
			continue
		}
		removed = ""
		all = append(all, clientv3.OpPut(l.keys.row(op.Key), string(op.Value)))
	}
	return append(all, clientv3.OpPut(one.key, id, clientv3.WithLease(s.lease)), clientv3.OpPut(l.keys.head(), headValue(removed)))
}
