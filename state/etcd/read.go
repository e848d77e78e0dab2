package etcd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// errTrimmed is that the entry a reader is at is gone, and with it maybe later ones.
var errTrimmed = errors.New("state/etcd: the journal has been trimmed")

// catchUp reads what others have written, and all that was written before it was called; for a commit, up to its own entry.
func (j *journal) catchUp(ctx context.Context, p *pending) error {
	if err := j.take(ctx); err != nil {
		return err
	}
	defer j.leave()
	for most := 1; ; {
		j.mu.RLock()
		last, rev := j.last, j.rev
		j.mu.RUnlock()
		entries, more, err := j.page(ctx, last, rev, &most)
		if errors.Is(err, errTrimmed) {
			return j.load(ctx)
		}
		if err != nil {
			return err
		}
		j.mu.Lock()
		for _, e := range entries {
			j.apply(e)
			if j.waits != nil && j.waits.id == e.id {
				j.waits.found = e.n
			}
			if len(e.ops) > 0 {
				j.feed.Append(uint64(e.n), state.Batch{Rev: e.n, Ops: e.ops})
			}
		}
		done := !more || p != nil && p.found > 0
		j.mu.Unlock()
		if done {
			return nil
		}
	}
}

// entry is one of the journal, as it was read.
type entry struct {
	n   state.Revision
	rev int64
	id  string
	ops []state.Op
	len int
}

// page reads entries after the one that the caller knows, in one request that has that one too. It is errTrimmed if that is gone. Of
// the first page there is one entry, because most often there is none.
func (j *journal) page(ctx context.Context, last state.Revision, rev int64, most *int) (entries []entry, more bool, err error) {
	end, options := j.keys.entry(last+2), []clientv3.OpOption(nil)
	if *most > 1 {
		end, options = j.keys.prefix+"j0", append(options, clientv3.WithLimit(int64(*most)+1))
	}
	kvs, err := j.get(ctx, j.keys.entry(last), append(options, clientv3.WithRange(end))...)
	switch {
	case err != nil:
		return nil, false, err
	case len(kvs) == 0 || string(kvs[0].Key) != j.keys.entry(last) || kvs[0].ModRevision != rev:
		return nil, false, errTrimmed
	}
	bytes := 0
	for i, kv := range kvs[1:] {
		e := entry{n: last + 1 + state.Revision(i), rev: kv.ModRevision, len: len(kv.Value)}
		if string(kv.Key) != j.keys.entry(e.n) {
			return nil, false, j.damaged("an entry is missing before it", kv)
		}
		if e.id, e.ops, err = parseEntry(kv.Value); err != nil {
			return nil, false, j.damaged(err.Error(), kv)
		}
		for i := range e.ops {
			e.ops[i].Rev = e.n
		}
		entries = append(entries, e)
		bytes += len(kv.Value)
	}
	more = len(entries) == *most
	switch {
	case bytes > largePages:
		*most = max(1, *most/4)
	case bytes < largePages/4:
		*most = min(4**most, longPage)
	}
	return entries, more, nil
}

// damaged is the error of a value that no log has written.
func (j *journal) damaged(what string, kv *mvccpb.KeyValue) error {
	return fmt.Errorf("state/etcd: key %q: %s: something else, or a newer program, writes below the prefix %q: %w", kv.Key, what, j.keys.prefix, errdefs.ErrInvalidArgument)
}

func (v *view) apply(e entry) {
	v.last, v.rev = e.n, e.rev
	v.since += e.len
	for _, op := range e.ops {
		if op.Delete {
			delete(v.rows, op.Key)
		} else {
			v.rows[op.Key] = op
		}
	}
}

// load reads the last snapshot and the journal after it. If the snapshot is trimmed away meanwhile there is a newer one. The caller
// reads the journal.
func (j *journal) load(ctx context.Context) error {
	var before *snapshot
	for {
		s, err := j.newest(ctx)
		if err != nil {
			return err
		}
		if before != nil && *before == s {
			return fmt.Errorf("state/etcd: the snapshot of revision %d below the prefix %q, or what follows it, is not complete: was something removed by hand? %w",
				s.n, j.keys.prefix, errdefs.ErrInvalidArgument)
		}
		before = &s
		v, err := j.read(ctx, s)
		if errors.Is(err, errTrimmed) {
			continue
		}
		if err != nil {
			return err
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		if v.last < j.last {
			return fmt.Errorf("state/etcd: the log is at revision %d and was at %d: was the server restored from a copy? All programs that use it must be started anew: %w",
				v.last, j.last, errdefs.ErrInvalidArgument)
		}
		j.view = v
		j.loads++
		j.feed.Reset(uint64(v.last))
		return nil
	}
}

// read reads a snapshot and the journal after it.
func (j *journal) read(ctx context.Context, s snapshot) (view, error) {
	v := view{rows: map[string]state.Op{}, last: s.n, rev: s.Rev, base: s.n, saved: s.Bytes}
	if s.n == 0 {
		kvs, err := j.get(ctx, j.keys.entry(0))
		if err == nil && len(kvs) == 0 {
			kvs, err = j.begin(ctx)
		}
		if err != nil {
			return v, err
		}
		v.rev = kvs[0].ModRevision
	}
	if err := j.readPieces(ctx, s, v.rows); err != nil {
		return v, err
	}
	for most := 1; ; {
		entries, more, err := j.page(ctx, v.last, v.rev, &most)
		if err != nil {
			return v, err
		}
		for _, e := range entries {
			v.apply(e)
		}
		if !more {
			return v, nil
		}
	}
}

// begin writes entry 0, which has no operations, to a log that has no entries.
func (j *journal) begin(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	any, err := j.get(ctx, j.keys.entry(0), clientv3.WithRange(j.keys.prefix+"j0"), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	if len(any) == 0 {
		if err := j.create(ctx, j.keys.entry(0), appendEntry(nil, "begin", nil)); err != nil {
			return nil, err
		}
	}
	kvs, err := j.get(ctx, j.keys.entry(0))
	switch {
	case err == nil && len(kvs) == 0 && len(any) == 0:
		err = errNotThere
	case err == nil && len(kvs) == 0:
		err = errTrimmed
	}
	return kvs, err
}
