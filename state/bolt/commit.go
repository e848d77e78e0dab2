package bolt

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Limits of one transaction.
const (
	maxGroup      = 1024     // batches
	maxGroupBytes = 16 << 20 // keys and values
)

// write is a batch on its way to the file.
type write struct {
	ctx    context.Context
	batch  state.Batch
	begun  atomic.Bool // set by the committer, or by the caller that no longer waits
	rev    state.Revision
	err    error
	result chan struct{} // closed when rev and err are set
}

// Commit implements state.Log. A key has at most 32768 bytes.
func (l *Log) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := state.CheckBatch(b); err != nil {
		return 0, err
	}
	for _, op := range b.Ops {
		if len(op.Key) > bbolt.MaxKeySize {
			return 0, fmt.Errorf("state/bolt: a key has %d bytes, the limit is %d: %w", len(op.Key), bbolt.MaxKeySize, errdefs.ErrInvalidArgument)
		}
		if len(op.Value) > bbolt.MaxValueSize-rowHead {
			return 0, fmt.Errorf("state/bolt: the value of %q has %d bytes, the limit is %d: %w", op.Key, len(op.Value), bbolt.MaxValueSize-rowHead, errdefs.ErrInvalidArgument)
		}
	}
	w := &write{ctx: ctx, batch: b, result: make(chan struct{})}
	l.turn.Lock()
	if l.closing {
		l.turn.Unlock()
		return 0, state.ErrClosed
	}
	l.waiting = append(l.waiting, w)
	first := !l.busy
	if first {
		l.busy = true
		l.done.Add(1)
	}
	l.turn.Unlock()
	if first && l.commitWaiting() { // more came meanwhile, whose commits this caller does not wait for
		go func() {
			for l.commitWaiting() {
			}
		}()
	}
	select {
	case <-w.result:
		return w.rev, w.err
	case <-ctx.Done():
		if w.begun.CompareAndSwap(false, true) {
			return 0, ctx.Err()
		}
	}
	<-w.result // it is being written: the answer is near, and tells what happened
	return w.rev, w.err
}

// commitWaiting commits what waits, up to the limits, and tells whether more does. One goroutine at a time calls it, until it
// returns false.
func (l *Log) commitWaiting() bool {
	l.turn.Lock()
	n, bytes := 0, 0
	for n < len(l.waiting) && n < maxGroup && bytes < maxGroupBytes {
		bytes += l.waiting[n].size()
		n++
	}
	group := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	l.turn.Unlock()
	l.commit(group)
	for _, w := range group {
		close(w.result)
	}
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.busy = len(l.waiting) > 0; !l.busy {
		l.waiting = nil
		l.done.Done()
	}
	return l.busy
}

func (w *write) size() (n int) {
	for _, op := range w.batch.Ops {
		n += len(op.Key) + len(op.Value)
	}
	return n
}

// commit writes a group in one transaction and has the writes answered.
func (l *Log) commit(group []*write) {
	var out []state.Batch // what the transaction adds
	var done []*write     // whose batches they are
	if err := l.failure(); err != nil {
		for _, w := range group {
			w.err = err
		}
		return
	}
	h := l.head // only this goroutine changes it
	began := false
	err := guarded(func() error {
		tx, err := l.db.Begin(true)
		if err != nil {
			return err
		}
		defer tx.Rollback() // does nothing after Commit
		about, rows := tx.Bucket([]byte(aboutBucket)), tx.Bucket([]byte(rowsBucket))
		for _, w := range group {
			if !w.begun.CompareAndSwap(false, true) {
				continue // the caller is gone
			}
			if w.err = w.ctx.Err(); w.err != nil {
				continue
			}
			if w.err = guards(rows, w.batch); w.err != nil {
				continue
			}
			done = append(done, w)
			b, err := l.put(rows, &h, w.batch)
			if err != nil {
				return err
			}
			out = append(out, b)
		}
		if len(out) == 0 {
			return nil
		}
		if err := about.Put([]byte(headKey), h.encode(l.table)); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		began = true
		if err := tx.Commit(); err != nil {
			return err
		}
		l.head = h
		for i, b := range out {
			l.feed.Append(uint64(b.Rev), b)
			done[i].rev = b.Rev
		}
		return nil
	})
	if err == nil {
		return
	}
	err = l.settle(err, began)
	for _, w := range group {
		if w.err == nil {
			w.rev, w.err = 0, err
		}
	}
}

// guards checks a batch's guards against the rows as the group has them so far.
func guards(rows *bbolt.Bucket, b state.Batch) error {
	for _, g := range b.Guards {
		if rowRev(rows.Get([]byte(g.Key))) != g.Rev {
			return fmt.Errorf("key %q: %w", g.Key, state.ErrConflict)
		}
	}
	return nil
}

// put adds a batch to the transaction and returns it as followers get it.
func (l *Log) put(rows *bbolt.Bucket, h *head, b state.Batch) (state.Batch, error) {
	h.rev++
	out := state.Batch{Rev: h.rev, Ops: make([]state.Op, len(b.Ops))}
	for i, op := range b.Ops {
		key := []byte(op.Key)
		if old := rows.Get(key); old != nil {
			h.drop(old)
		}
		op.Rev = h.rev
		if op.Delete {
			op.Value = nil
			if err := rows.Delete(key); err != nil {
				return out, err
			}
		} else {
			row := encodeRow(l.table, op.Key, h.rev, op.Value)
			op.Value = row[rowHead:len(row):len(row)]
			h.add(row)
			if err := rows.Put(key, row); err != nil {
				return out, err
			}
		}
		out.Ops[i] = op
	}
	return out, nil
}

// settle says what a transaction that failed means for its batches and for the log. A disk that is full is no reason to
// stop: nothing was written, and there may be room later. After any other error it is not known what the disk holds, so
// nothing more is written to it.
func (l *Log) settle(err error, began bool) error {
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
	if full && !l.landed() {
		return fmt.Errorf("state/bolt: write %s: %w: %w", l.path, err, errdefs.ErrResourceExhausted)
	}
	l.mu.Lock()
	l.failed = fmt.Errorf("state/bolt: %s can't be written since an error, and must be opened again: %w: %w", l.path, err, errdefs.ErrUnavailable)
	l.mu.Unlock()
	l.feed.Close()
	if began {
		return fmt.Errorf("state/bolt: write %s: %w: %w", l.path, err, state.ErrUnknown)
	}
	return l.failure()
}

// landed tells whether the file may have a transaction that this log does not know of.
func (l *Log) landed() bool {
	info, err := l.file.Stat()
	if err != nil {
		return true
	}
	m, err := readMetas(l.file, info.Size())
	if err != nil {
		return true
	}
	known := uint64(0)
	err = guarded(func() error {
		return l.db.View(func(tx *bbolt.Tx) error {
			known = uint64(tx.ID())
			at := tx.Bucket([]byte(aboutBucket)).Get([]byte(headKey))
			if !intact(l.table, []byte(headKey), at) || decodeHead(at) != l.head {
				return errDamaged
			}
			return nil
		})
	})
	return err != nil || m.txid != known
}

func (l *Log) failure() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.failed
}

// guarded runs f and makes an error of a panic, and of a fault on the mapped file, which is how damage under bbolt's feet
// shows.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged("%v", p)
		}
	}()
	return f()
}
