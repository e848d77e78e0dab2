package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/internal/feed"
)

// journal is the layout of Config.SingleKey. Each batch is an entry, a key of its own that is created once, so that of those who
// want to be the next one succeeds; guards are checked against the state at the entry before. The state is in memory, and in
// snapshots, so that the journal can be trimmed.
//
// Nothing is believed but what is read. The keys that are created are never created again or changed, so a request that
// comes late, or twice, does no harm; and an answer decides nothing, because kine says of an insert that its database failed
// that it was done, and of one that comes late that it was not. What is read is right if the entry before is read with it,
// unchanged: trimming goes upwards, so nothing above an entry that is there has been trimmed and come back.
type journal struct {
	log           *Log
	keys          keys
	writer        string // begins the ids of this log's commits and snapshots
	every, retain state.Revision

	turn    chan struct{} // full while a commit is under way
	reading chan struct{} // full while the journal is read
	saving  atomic.Bool   // a snapshot is being made
	feed    *feed.Feed[state.Batch]

	mu sync.RWMutex
	view
	loads   int      // times the view was read anew
	waits   *pending // the commit under way
	commits int64
}

// view is the state at an entry.
type view struct {
	rows map[string]state.Op
	last state.Revision // of the entry
	rev  int64          // the server's of it

	base  state.Revision // of the last snapshot that is known
	saved int            // bytes of it
	since int            // bytes of the entries after it
}

// Snapshots are made when the journal is so much longer than the last that making them costs no more than the commits.
const (
	defaultEvery  = 1024 // entries between two snapshots, at least
	mostEvery     = 16   // times as many, at most
	defaultRetain = 1024 // entries that stay below a snapshot, for those who have yet to read them
)

// lookAgain is how often the journal is read where the watch says nothing. A watch of kine on PostgreSQL may miss what was
// written while it began.
const lookAgain = 3 * time.Second

func newJournal(l *Log) *journal {
	j := &journal{log: l, keys: l.keys, writer: unique(), every: l.cfg.every, retain: l.cfg.retain,
		turn: make(chan struct{}, 1), reading: make(chan struct{}, 1), feed: feed.New[state.Batch](l.cfg.History)}
	if j.every == 0 {
		j.every = defaultEvery + rand.N[state.Revision](defaultEvery/8) // so that not all logs make one at once
		j.retain = defaultRetain
	}
	return j
}

// Keys of the journal; see the package for what they are.
const journalFormat = "journal-" + format

func (k keys) entry(n state.Revision) string { return k.prefix + "j/" + number(n) }
func (k keys) saved(n state.Revision) string { return k.prefix + "s/" + number(n) }
func (k keys) pieces(n state.Revision, id string) string {
	return k.prefix + "p/" + number(n) + "/" + id + "/"
}

// number has all its digits, so that keys are in order.
func number(n state.Revision) string { return fmt.Sprintf("%020d", n) }

// open begins a log that is not there, and reads one that is.
func (j *journal) open(ctx context.Context) error {
	head, err := j.get(ctx, j.keys.head())
	if err != nil {
		return err
	}
	if len(head) == 0 {
		if err := j.create(ctx, j.keys.head(), []byte(journalFormat)); err != nil {
			return err
		}
		if head, err = j.get(ctx, j.keys.head()); err != nil {
			return err
		}
		if len(head) == 0 {
			return errNotThere
		}
	}
	if string(head[0].Value) != journalFormat {
		return fmt.Errorf("state/etcd: key %q holds %.20q, want %s: a log without Config.SingleKey, something else, or a newer program, writes below the prefix %q: %w",
			j.keys.head(), head[0].Value, journalFormat, j.keys.prefix, errdefs.ErrInvalidArgument)
	}
	if err := j.take(ctx); err != nil {
		return err
	}
	defer j.leave()
	return j.load(ctx)
}

// errNotThere is that the server did not keep what it said it had.
var errNotThere = errors.New("state/etcd: the server said that a key was written, and it is not there")

// create creates a key that must not exist. It has happened, or not, whatever is returned, unless the error is of the kind unsent or
// refused.
func (j *journal) create(ctx context.Context, key string, value []byte) error {
	asked, cancel := context.WithTimeout(ctx, j.log.cfg.Timeout)
	defer cancel()
	_, err := j.log.client.Txn(asked).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, string(value))).Commit()
	return err
}

// get reads, from a quorum of etcd or from kine's database.
func (j *journal) get(ctx context.Context, key string, options ...clientv3.OpOption) ([]*mvccpb.KeyValue, error) {
	asked, cancel := context.WithTimeout(ctx, j.log.cfg.Timeout)
	defer cancel()
	resp, err := j.log.client.Get(asked, key, options...)
	if err != nil {
		return nil, err
	}
	return resp.Kvs, nil
}

// take has one at a time read the journal.
func (j *journal) take(ctx context.Context) error {
	select {
	case j.reading <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *journal) leave() { <-j.reading }

// follow is Log.follow.
func (j *journal) follow(ctx context.Context, from state.Revision, yield func(state.Batch) bool) error {
	if err := j.log.patiently(ctx, func() error { return j.catchUp(ctx, nil) }); err != nil {
		return err
	}
	j.mu.RLock()
	last := j.last
	j.mu.RUnlock()
	if from > last {
		return fmt.Errorf("state/etcd: revision %d is not reached, the log is at %d: %w", from, last, errdefs.ErrInvalidArgument)
	}
	for snapshot := from == 0; ctx.Err() == nil; snapshot = true {
		if snapshot {
			b := j.snapshot()
			if !yield(b) {
				return nil
			}
			from = b.Rev
		}
		for b, err := range j.feed.From(ctx, uint64(from)) {
			if err != nil {
				break // too far behind
			}
			b.Ops = slices.Clone(b.Ops)
			if !yield(b) {
				return nil
			}
			from = b.Rev
		}
	}
	return ctx.Err()
}

// snapshot is the state as a batch.
func (j *journal) snapshot() state.Batch {
	j.mu.RLock()
	defer j.mu.RUnlock()
	b := state.Batch{Rev: j.last, Snapshot: true, Ops: make([]state.Op, 0, len(j.rows))}
	for _, op := range j.rows {
		b.Ops = append(b.Ops, op)
	}
	return b
}

// listen reads what others write, as long as the log is open.
func (j *journal) listen() {
	l := j.log
	var pause pause
	for {
		err := j.watch(&pause)
		if l.ctx.Err() != nil {
			return
		}
		l.logger.Warn("state/etcd: a watch has ended", "error", err, "again in", pause.next())
		pause.wait(l.ctx, l.closing)
	}
}

// watch has the watch say when there may be something to read.
func (j *journal) watch(pause *pause) error {
	// Without a leader etcd ends the watch, rather than say nothing for as long as it lasts.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(j.log.ctx))
	defer cancel()
	events := j.log.client.Watch(ctx, j.keys.entry(0), clientv3.WithRange(j.keys.prefix+"j0"))
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		if err := j.catchUp(ctx, nil); err != nil {
			return err
		}
		pause.now = 0
		for known := true; known; {
			select {
			case resp, open := <-events:
				if err := resp.Err(); err != nil || !open {
					return errors.Join(err, errWatch)
				}
				known = !slices.ContainsFunc(resp.Events, j.news)
			case <-again.C:
				known = false
			}
		}
	}
}

// news tells whether an event is an entry that nobody has read or will: a commit under way reads what is there.
func (j *journal) news(e *clientv3.Event) bool {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(e.Kv.Key), j.keys.prefix+"j/"), 10, 64)
	j.mu.RLock()
	defer j.mu.RUnlock()
	return e.Type == clientv3.EventTypePut && err == nil && state.Revision(n) > j.last && j.waits == nil
}
