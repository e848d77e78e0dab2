package etcd

import (
	"context"
	"errors"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// errBehind is that a follower has left too much unread.
var errBehind = errors.New("state/etcd: too many batches are unread")

// errWatch is a watch that ended without a reason.
var errWatch = errors.New("state/etcd: the watch has ended")

// maxUnread is how many bytes of keys and values wait for a follower, beside Config.History.
const maxUnread = 64 << 20

// queue is what a watch has seen and its follower has not read yet. The client would keep it all, without a bound.
type queue struct {
	most  int
	moved chan struct{} // has one in it when something may be new to the follower
	gone  chan struct{} // closed by the follower, which reads no more

	mu    sync.Mutex
	items []state.Batch
	bytes int
	next  int64 // the revision to watch from after all of this
	err   error // why the watch has ended
}

func newQueue(most int, next int64) *queue {
	return &queue{most: most, next: next, moved: make(chan struct{}, 1), gone: make(chan struct{})}
}

func (q *queue) wake() {
	select {
	case q.moved <- struct{}{}:
	default:
	}
}

// push adds a batch; false is that the follower is too slow, or gone.
func (q *queue) push(b state.Batch) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wake()
	bytes := size(b)
	if len(q.items) >= q.most || len(q.items) > 0 && q.bytes+bytes > maxUnread {
		q.items, q.err = nil, errBehind
		return false
	}
	q.items = append(q.items, b)
	q.bytes += bytes
	q.next = int64(b.Rev) + 1
	return true
}

// passed notes that nothing of ours happened up to a revision.
func (q *queue) passed(rev int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next = max(q.next, rev+1)
}

// end notes why the watch has ended.
func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	q.wake()
}

// pop returns the next batch, which it waits for; false is the end.
func (q *queue) pop(ctx context.Context) (state.Batch, bool) {
	for ctx.Err() == nil {
		q.mu.Lock()
		if len(q.items) > 0 {
			b := q.items[0]
			q.items = q.items[1:]
			q.bytes -= size(b)
			q.mu.Unlock()
			return b, true
		}
		over := q.err != nil
		q.mu.Unlock()
		if over {
			break
		}
		select {
		case <-q.moved:
		case <-ctx.Done():
		}
	}
	return state.Batch{}, false
}

// ended returns where to go on, and why the watch has ended.
func (q *queue) ended() (next int64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.next, q.err
}

// leave ends the watch; it returns err.
func (q *queue) leave(err error) error {
	close(q.gone)
	return err
}

func size(b state.Batch) (n int) {
	for _, op := range b.Ops {
		n += len(op.Key) + len(op.Value)
	}
	return n
}

// watch fills a queue until ctx ends, the follower leaves, or the watch can't go on.
func (l *Log) watch(ctx context.Context, q *queue) {
	// Without a leader etcd ends the watch, rather than say nothing for as long as it lasts.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	next, _ := q.ended()
	events := l.client.Watch(ctx, l.keys.head(), clientv3.WithRange(l.keys.end()), clientv3.WithRev(next), clientv3.WithFragment(), clientv3.WithProgressNotify())
	a := assembler{keys: l.keys}
	for {
		var resp clientv3.WatchResponse
		open := true
		select {
		case resp, open = <-events:
		case <-q.gone:
			return
		}
		if err := resp.Err(); err != nil || !open {
			if err == nil {
				err = errWatch
			}
			q.end(err)
			return
		}
		for _, e := range resp.Events {
			done, err := a.add(e)
			if err != nil {
				q.end(err)
				return
			}
			for _, b := range done {
				if !q.push(b) {
					return
				}
			}
		}
		if resp.IsProgressNotify() && a.part.Rev == 0 {
			q.passed(resp.Header.Revision)
		}
	}
}

// assembler makes batches of events, however they come in portions: a batch is complete with the event of the head.
type assembler struct {
	keys keys
	part state.Batch
}

// add returns the batches that are complete. One that has no head was written by somebody else's hand; it is complete when a later
// one begins.
func (a *assembler) add(e *clientv3.Event) (done []state.Batch, err error) {
	rev := state.Revision(e.Kv.ModRevision)
	if a.part.Rev != 0 && a.part.Rev != rev {
		done = append(done, a.part)
		a.part = state.Batch{}
	}
	if name, ours := a.keys.key(string(e.Kv.Key)); ours {
		a.part.Rev = rev
		a.part.Ops = append(a.part.Ops, state.Op{Key: name, Value: e.Kv.Value, Delete: e.Type == clientv3.EventTypeDelete, Rev: rev})
		return done, nil
	}
	if string(e.Kv.Key) != a.keys.head() || e.Type == clientv3.EventTypeDelete {
		return done, nil
	}
	removed, err := a.keys.parseHead(e.Kv.Value)
	if err != nil {
		return done, err
	}
	b := a.part
	a.part = state.Batch{}
	if b.Rev == 0 && removed != "" {
		b = state.Batch{Rev: rev, Ops: []state.Op{{Key: removed, Delete: true, Rev: rev}}}
	}
	if b.Rev != 0 {
		done = append(done, b)
	}
	return done, nil
}
