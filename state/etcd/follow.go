package etcd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Follow implements state.Log. While etcd can't be reached it waits, with growing pauses and a warning to Config.Logger each time.
func (l *Log) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		if !l.enter() {
			yield(state.Batch{}, state.ErrClosed)
			return
		}
		asked, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() { // has Close end what is asked of etcd on the way
			defer l.leave()
			select {
			case <-l.closing:
				cancel()
			case <-asked.Done():
			}
		}()
		follow := l.follow
		if l.journal != nil {
			follow = l.journal.follow
		}
		if err := follow(asked, from, func(b state.Batch) bool { return yield(b, nil) }); err != nil && ctx.Err() == nil {
			if l.isClosing() {
				err = state.ErrClosed
			}
			yield(state.Batch{}, err)
		}
	}
}

// follow yields until ctx ends, until yield returns false, which is no error, or until there is one.
func (l *Log) follow(ctx context.Context, from state.Revision, yield func(state.Batch) bool) error {
	next := int64(0)
	if from > 0 {
		var last int64
		if err := l.patiently(ctx, func() (err error) { _, last, err = l.head(ctx); return err }); err != nil {
			return err
		}
		if uint64(from) > uint64(last) {
			return fmt.Errorf("state/etcd: revision %d is not reached, etcd is at %d: %w", from, last, errdefs.ErrInvalidArgument)
		}
		next = int64(from) + 1
	}
	var pause pause
	for {
		var snapshot *state.Batch
		if next == 0 {
			var b state.Batch
			if err := l.patiently(ctx, func() (err error) { b, next, err = l.snapshot(ctx); return err }); err != nil {
				return err
			}
			snapshot = &b
		}
		q := newQueue(l.cfg.History, next)
		if !l.enter() {
			return state.ErrClosed
		}
		go func() {
			defer l.leave()
			l.watch(ctx, q)
		}()
		if snapshot != nil && !yield(*snapshot) { // the watch has begun, so that etcd may be compacted while this takes its time
			return q.leave(nil)
		}
		for {
			b, ok := q.pop(ctx)
			if !ok {
				break
			}
			pause.now = 0
			if !yield(b) {
				return q.leave(nil)
			}
		}
		var err error
		next, err = q.ended()
		switch {
		case ctx.Err() != nil:
			return q.leave(ctx.Err())
		case errors.Is(err, errBehind), errors.Is(err, rpctypes.ErrCompacted):
			l.logger.Info("state/etcd: a follower is too far behind and is given a snapshot", "reason", err)
			next = 0
			continue
		case kindOf(err) == refused:
			return foreign(err)
		}
		l.logger.Warn("state/etcd: a watch has ended", "error", err, "again in", pause.next())
		pause.wait(ctx, l.closing)
	}
}

// patiently does what is asked again until it succeeds, is refused for good, or ctx ends.
func (l *Log) patiently(ctx context.Context, do func() error) error {
	var pause pause
	for {
		err := do()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case kindOf(err) == refused:
			return foreign(err)
		case errors.Is(err, rpctypes.ErrCompacted):
			continue // while its pages were read; the next try is on newer ones
		}
		l.logger.Warn("state/etcd: etcd does not answer a request", "error", err, "again in", pause.next())
		if !pause.wait(ctx, l.closing) && ctx.Err() == nil {
			return state.ErrClosed
		}
	}
}

// head reads, from a quorum, the revision of the last batch and etcd's.
func (l *Log) head(ctx context.Context) (head, last int64, err error) {
	asked, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	resp, err := l.client.Get(asked, l.keys.head())
	if err != nil {
		return 0, 0, err
	}
	for _, kv := range resp.Kvs {
		if _, err := l.keys.parseHead(kv.Value); err != nil {
			return 0, 0, err
		}
		head = kv.ModRevision
	}
	return head, resp.Header.Revision, nil
}

// Pages of a snapshot.
const (
	firstPage  = 128     // keys
	longPage   = 8 << 10 // keys
	largePages = 2 << 20 // bytes, above which the next page has fewer keys
)

// snapshot reads the whole state at one revision of etcd, page by page, and returns the revision after it.
func (l *Log) snapshot(ctx context.Context) (state.Batch, int64, error) {
	b := state.Batch{Snapshot: true}
	at, page := int64(0), int64(firstPage) // at 0 the first page is of the last revision, read from a quorum
	for key := l.keys.head(); ; {
		asked, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
		resp, err := l.client.Get(asked, key, clientv3.WithRange(l.keys.end()), clientv3.WithRev(at), clientv3.WithLimit(page))
		cancel()
		if err != nil {
			return b, 0, err
		}
		if at == 0 {
			at = resp.Header.Revision
		}
		bytes := 0
		for _, kv := range resp.Kvs {
			bytes += len(kv.Key) + len(kv.Value)
			rev := state.Revision(kv.ModRevision)
			if string(kv.Key) == l.keys.head() {
				if _, err := l.keys.parseHead(kv.Value); err != nil {
					return b, 0, err
				}
				b.Rev = max(b.Rev, rev)
			} else if name, ours := l.keys.key(string(kv.Key)); ours {
				b.Rev = max(b.Rev, rev)
				b.Ops = append(b.Ops, state.Op{Key: name, Value: kv.Value, Rev: rev})
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return b, at + 1, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		switch {
		case bytes > largePages:
			page = max(1, page/2)
		case bytes < largePages/4:
			page = min(2*page, longPage)
		}
	}
}

// compact has etcd forget what is older than Config.Compact.
func (l *Log) compact() {
	var pause pause
	old := int64(0)
	for {
		pause.now = l.cfg.Compact
		if !pause.wait(l.ctx, l.closing) {
			return
		}
		_, last, err := l.head(l.ctx)
		if err == nil && old > 0 {
			asked, cancel := context.WithTimeout(l.ctx, l.cfg.Timeout)
			_, err = l.client.Compact(asked, old)
			cancel()
			if err != nil && (errors.Is(err, rpctypes.ErrCompacted) || strings.Contains(err.Error(), "compacted")) {
				err = nil // somebody else was faster
			}
		}
		if err != nil {
			l.logger.Warn("state/etcd: etcd was not compacted", "error", err)
			continue
		}
		old = last
	}
}
