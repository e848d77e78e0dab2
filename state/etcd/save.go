package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// snapshot is the value of the key that makes the pieces of one a snapshot.
type snapshot struct {
	n      state.Revision // of the last entry in it; the key has it
	ID     string         `json:"id"`
	Rev    int64          `json:"rev"` // the server's, of that entry
	Pieces int            `json:"pieces"`
	Bytes  int            `json:"bytes"`
}

// saveIfDue begins to make a snapshot, if it is time and none is under way.
func (j *journal) saveIfDue() {
	if !j.due() || !j.saving.CompareAndSwap(false, true) {
		return
	}
	j.log.own.Go(func() {
		defer j.saving.Store(false)
		if err := j.save(j.log.ctx); err != nil && !j.log.isClosing() {
			j.log.logger.Warn("state/etcd: no snapshot could be made; the next commit tries again", "error", err)
		}
	})
}

// due tells whether a snapshot is.
func (j *journal) due() bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	entries := j.last - j.base
	return entries > j.every && (j.since > j.saved || entries > mostEvery*j.every)
}

// save makes a snapshot of the state as it is now, and trims what is in it. Several may do so at once, and one may end at any point:
// the snapshot is there with the last key, which is written when all others are; of several, the last counts; and what
// is below it is removed by the next.
func (j *journal) save(ctx context.Context) error {
	newest, err := j.newest(ctx)
	if err != nil {
		return err
	}
	j.know(newest)
	if !j.due() { // another log has made one
		return nil
	}
	j.mu.RLock()
	s := snapshot{n: j.last, Rev: j.rev, ID: unique()}
	rows := make([]state.Op, 0, len(j.rows))
	for _, op := range j.rows {
		rows = append(rows, op)
	}
	j.mu.RUnlock()
	for len(rows) > 0 {
		var piece []byte
		for piece, rows = appendOps(piece, rows[:1]), rows[1:]; len(rows) > 0 && len(piece)+opSize(rows[0]) < j.log.Limits().Bytes; rows = rows[1:] {
			piece = appendOps(piece, rows[:1])
		}
		if err := j.keep(ctx, j.keys.pieces(s.n, s.ID)+fmt.Sprintf("%06d", s.Pieces), piece); err != nil {
			return err
		}
		s.Pieces++
		s.Bytes += len(piece)
	}
	value, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := j.keep(ctx, j.keys.saved(s.n), value); err != nil {
		return err
	}
	j.know(s)
	return j.trim(ctx, s)
}

// know notes a snapshot that is there.
func (j *journal) know(s snapshot) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s.n > j.base {
		j.base, j.saved, j.since = s.n, s.Bytes, 0
	}
}

// keep creates a key, and returns when it is there.
func (j *journal) keep(ctx context.Context, key string, value []byte) error {
	return j.log.patiently(ctx, func() error {
		if err := j.create(ctx, key, value); err != nil {
			return err
		}
		kvs, err := j.get(ctx, key, clientv3.WithKeysOnly())
		if err == nil && len(kvs) == 0 {
			err = errNotThere
		}
		return err
	})
}

// newest returns the last snapshot, that of revision 0 if there is none.
func (j *journal) newest(ctx context.Context) (s snapshot, err error) {
	kvs, err := j.get(ctx, j.keys.saved(0), clientv3.WithRange(j.keys.prefix+"s0"))
	if err != nil || len(kvs) == 0 {
		return s, err
	}
	kv := kvs[len(kvs)-1]
	if _, err := fmt.Sscanf(strings.TrimPrefix(string(kv.Key), j.keys.prefix+"s/"), "%020d", &s.n); err != nil {
		return s, j.damaged("is no snapshot's", kv)
	}
	if err := json.Unmarshal(kv.Value, &s); err != nil {
		return s, j.damaged(err.Error(), kv)
	}
	return s, nil
}

// readPieces reads the rows of a snapshot. It is errTrimmed if some are gone.
func (j *journal) readPieces(ctx context.Context, s snapshot, rows map[string]state.Op) error {
	prefix := j.keys.pieces(s.n, s.ID)
	for n := range s.Pieces {
		kvs, err := j.get(ctx, prefix+fmt.Sprintf("%06d", n))
		if err != nil {
			return err
		}
		if len(kvs) == 0 {
			return errTrimmed
		}
		ops, err := parseOps(kvs[0].Value)
		if err != nil {
			return j.damaged(err.Error(), kvs[0])
		}
		for _, op := range ops {
			rows[op.Key] = op
		}
	}
	return nil
}

// trim removes the snapshots before one, and the entries that are in it but for the last few.
func (j *journal) trim(ctx context.Context, s snapshot) error {
	for _, r := range []struct{ from, to string }{
		{j.keys.saved(0), j.keys.saved(s.n)},
		{j.keys.prefix + "p/", j.keys.prefix + "p/" + number(s.n)},
		{j.keys.entry(0), j.keys.entry(s.n - min(s.n, j.retain))},
	} {
		for {
			kvs, err := j.get(ctx, r.from, clientv3.WithRange(r.to), clientv3.WithKeysOnly(), clientv3.WithLimit(longPage))
			if err != nil {
				return err
			}
			for _, kv := range kvs {
				if err := j.log.patiently(ctx, func() error { return j.remove(ctx, kv) }); err != nil {
					return err
				}
			}
			if len(kvs) < longPage {
				break
			}
		}
	}
	return nil
}

// remove removes a key, and returns when it is gone: the entries must go one after the other.
func (j *journal) remove(ctx context.Context, kv *mvccpb.KeyValue) error {
	asked, cancel := context.WithTimeout(ctx, j.log.cfg.Timeout)
	defer cancel()
	key := string(kv.Key)
	resp, err := j.log.client.Txn(asked).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || resp.Succeeded {
		return err
	}
	if _, rev := found(resp); rev == kv.ModRevision {
		return fmt.Errorf("state/etcd: key %q was not removed", key)
	}
	return nil
}

// opSize is at least what appendOps takes for an operation.
func opSize(op state.Op) int { return len(op.Key) + len(op.Value) + opHead }

// opHead is the most that an operation takes beside its key and value.
const opHead = 24
