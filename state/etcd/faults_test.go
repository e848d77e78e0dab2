package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/etcdserver"
)

// counters are writers that each count up in two keys of its own, and note how far they are known to be.
type counters struct {
	stop    chan struct{}
	done    sync.WaitGroup
	commits atomic.Int64
	unknown atomic.Int64

	mu    sync.Mutex
	known map[string]state.Revision // of each number that was committed, by "writer/number"
	wrong []error
}

func (c *counters) run(l *Log, writers int) {
	c.stop, c.known = make(chan struct{}), map[string]state.Revision{}
	for w := range writers {
		c.done.Go(func() {
			key, rev := fmt.Sprint("n/", w), state.Revision(0)
			for n := 1; ; n++ {
				select {
				case <-c.stop:
					return
				default:
				}
				value := fmt.Sprint(n)
				got, err := l.Commit(context.Background(), state.Batch{Guards: []state.Guard{{Key: key, Rev: rev}},
					Ops: []state.Op{set(key, value), set(key+"/same", value), set(fmt.Sprintf("all/%d/%d", w, n), value)}})
				switch {
				case err == nil:
					rev = got
					c.commits.Add(1)
					c.mu.Lock()
					c.known[fmt.Sprintf("%d/%d", w, n)] = got
					c.mu.Unlock()
				case errors.Is(err, state.ErrUnknown):
					c.unknown.Add(1)
					return // what became of it is for the test to say
				case errdefs.IsUnavailable(err):
					n-- // nothing was written
				default:
					c.mu.Lock()
					c.wrong = append(c.wrong, fmt.Errorf("writer %d, number %d: %w", w, n, err))
					c.mu.Unlock()
					return
				}
			}
		})
	}
}

// end stops the writers and checks that a log has all they know of, and nothing by half or twice.
func (c *counters) end(t *testing.T, l *Log, writers int) {
	t.Helper()
	close(c.stop)
	c.done.Wait()
	require.Empty(t, c.wrong)
	have, _ := rows(t, l)
	total := 0
	for w := range writers {
		last := 0
		if text, ok := have[fmt.Sprint("n/", w)]; ok {
			_, err := fmt.Sscan(text, &last)
			require.NoError(t, err)
			require.Equal(t, text, have[fmt.Sprint("n/", w, "/same")])
		}
		for n := 1; n <= last; n++ {
			require.Contains(t, have, fmt.Sprintf("all/%d/%d", w, n), "a batch is missing below writer %d's last, %d", w, last)
		}
		require.NotContains(t, have, fmt.Sprintf("all/%d/%d", w, last+1))
		require.NotContains(t, c.known, fmt.Sprintf("%d/%d", w, last+1), "a batch that was committed is lost")
		total += last
	}
	require.LessOrEqual(t, int64(total), c.commits.Load()+c.unknown.Load(), "a batch is in the log that nobody was told of")
	require.GreaterOrEqual(t, int64(total), c.commits.Load())
}

func (c *counters) more(t *testing.T, n int64) {
	t.Helper()
	from := c.commits.Load()
	eventually(t, fmt.Sprint(n, " more commits"), func() bool { return c.commits.Load() >= from+n })
}

// trail follows a log from the beginning and checks that no batch is missing or comes twice.
func trail(ctx context.Context, l *Log, seen map[string]state.Revision) error {
	for b, err := range l.Follow(ctx, 0) {
		if err != nil {
			return err
		}
		for _, op := range b.Ops {
			if rev, twice := seen[op.Key]; twice && rev >= op.Rev && !b.Snapshot {
				return fmt.Errorf("key %q of revision %d came after that of %d", op.Key, op.Rev, rev)
			}
			seen[op.Key] = op.Rev
		}
	}
	return nil
}

// A member that is killed in the middle of commits, and started again, loses nothing and doubles nothing.
func TestAMemberIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	member := processes(t, 1)[0]
	survives(t, Config{Endpoints: []string{member.client}, Timeout: mostTimeout}, func() {
		member.kill()
		member.start(t)
	})
}

// survives has something killed in the middle of commits, again and again.
func survives(t *testing.T, cfg Config, kill func()) {
	t.Helper()
	l := open(t, cfg)
	put(t, l, set("first", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := map[string]state.Revision{}
	followed := make(chan error, 1)
	go func() { followed <- trail(ctx, l, seen) }()
	var c counters
	c.run(l, 8)
	for range 3 {
		c.more(t, 20)
		kill()
	}
	c.more(t, 20)
	c.end(t, l, 8)
	rev := put(t, l, set("last", "1"))
	late, end := context.WithTimeout(t.Context(), patience)
	defer end()
	for b, err := range l.Follow(late, rev-1) {
		require.NoError(t, err)
		require.Equal(t, rev, b.Rev)
		break
	}
	cancel()
	require.NoError(t, <-followed)
	require.Zero(t, c.unknown.Load(), "what comes back in time can be asked")
}

// Of three members one may be lost, the leader too, and what was committed stays, and commits go on.
func TestAClusterLosesMembersOneByOne(t *testing.T) {
	t.Parallel()
	all := processes(t, 3)
	l := open(t, Config{Endpoints: endpoints(all), Timeout: mostTimeout})
	put(t, l, set("first", "1"))
	var c counters
	c.run(l, 8)
	for range 2 {
		c.more(t, 20)
		leader := leaderOf(t, all)
		leader.kill()
		c.more(t, 20)
		leader.start(t)
		c.more(t, 20)
	}
	// The leader hands over, without dying.
	leader := leaderOf(t, all)
	client := bare(t, leader.client)
	status, err := client.Status(t.Context(), leader.client)
	require.NoError(t, err)
	members, err := client.MemberList(t.Context())
	require.NoError(t, err)
	for _, m := range members.Members {
		if m.ID != status.Leader {
			_, err = client.MoveLeader(t.Context(), m.ID)
			break
		}
	}
	require.NoError(t, err)
	c.more(t, 20)
	c.end(t, l, 8)
	require.Zero(t, c.unknown.Load())
}

// leaderOf waits until all members agree on a leader, and returns it.
func leaderOf(t *testing.T, all []*process) (leader *process) {
	t.Helper()
	var clients []*clientv3.Client
	for _, p := range all {
		clients = append(clients, bare(t, p.client))
	}
	eventually(t, "the members have one leader", func() bool {
		leader = nil
		for i, p := range all {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			status, err := clients[i].Status(ctx, p.client)
			cancel()
			if err != nil || status.Leader == 0 {
				return false
			}
			if status.Leader == status.Header.MemberId {
				leader = p
			}
		}
		return leader != nil
	})
	return leader
}

// The connection breaks at any moment: each outcome is learnt.
func TestConnectionsThatBreak(t *testing.T) {
	t.Parallel()
	r := newRelay(t, embedded(t, etcdserver.Config{})[0])
	l := open(t, Config{Endpoints: []string{r.url()}, Timeout: mostTimeout})
	var c counters
	c.run(l, 8)
	for range 12 {
		c.more(t, 5)
		r.cut()
	}
	c.more(t, 10)
	c.end(t, l, 8)
	require.Zero(t, c.unknown.Load())
}

// A batch whose answer is lost was written; the log finds out, and its revision.
func TestAnAnswerIsLost(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	urls := embedded(t, etcdserver.Config{})
	r := newRelay(t, urls[0])
	beside := bare(t, urls...)
	l := open(t, Config{Endpoints: []string{r.url()}, Timeout: 30 * time.Second})
	first := put(t, l, set("a", "1"))

	type result struct {
		rev state.Revision
		err error
	}
	results := make(chan result, 1)
	commit := func(b state.Batch) {
		rev, err := l.Commit(t.Context(), b)
		results <- result{rev, err}
	}
	r.set(true, false)
	go commit(state.Batch{Guards: []state.Guard{{Key: "a", Rev: first}}, Ops: []state.Op{set("a", "2")}})
	var written int64
	eventually(t, "the batch is written", func() bool {
		got, err := beside.Get(t.Context(), l.keys.row("a"))
		require.NoError(t, err)
		written = got.Kvs[0].ModRevision
		return string(got.Kvs[0].Value) == "2"
	})
	r.set(false, false)
	r.cut()
	got := <-results
	require.NoError(t, got.err)
	require.Equal(t, state.Revision(written), got.rev)

	// If it can't be asked, that is what the error says.
	l.cfg.Timeout = 3 * time.Second // long enough to send it
	r.set(true, false)
	go commit(state.Batch{Ops: []state.Op{set("a", "3")}})
	got = <-results
	require.ErrorIs(t, got.err, state.ErrUnknown)
	require.True(t, errdefs.IsUnknown(got.err))
	r.set(false, false)
	r.cut()
	l.cfg.Timeout = 30 * time.Second
	put(t, l, set("b", "1")) // and the slot serves again
	have, _ := rows(t, l)
	require.Equal(t, map[string]string{"a": "3", "b": "1"}, have)

	// Where there was no connection, nothing can have been written, and nothing is unknown.
	l.cfg.Timeout = time.Second
	r.set(false, true)
	r.cut()
	eventually(t, "there is no connection", func() bool {
		go commit(state.Batch{Ops: []state.Op{set("a", "4")}})
		got = <-results
		return got.err != nil && !errors.Is(got.err, state.ErrUnknown)
	})
	require.True(t, errdefs.IsUnavailable(got.err), got.err)
	r.set(false, false)
}

// A request that arrives after it has been given up, or a second time, changes nothing.
func TestARequestThatIsLate(t *testing.T) {
	t.Parallel()
	urls := embedded(t, etcdserver.Config{})
	l := open(t, Config{Endpoints: urls})
	put(t, l, set("a", "1"))
	s, err := l.session(t.Context())
	require.NoError(t, err)
	one := s.take(l.keys)
	request := func(id string) (*clientv3.TxnResponse, error) {
		b := state.Batch{Ops: []state.Op{set("late", id)}}
		return l.client.Txn(t.Context()).If(l.conditions(b, one)...).Then(l.operations(b, s, one, id)...).Else(clientv3.OpGet(one.key)).Commit()
	}
	late := *one
	id := one.nextID()
	_, err = l.settle(s, one, id, errWatch)
	var again *retry
	require.ErrorAs(t, err, &again, "what was never sent was not written")
	after := *one
	*one = late
	resp, err := request(id)
	require.NoError(t, err)
	require.False(t, resp.Succeeded)
	*one = after

	id = one.nextID()
	before := *one
	resp, err = request(id)
	require.NoError(t, err)
	require.True(t, resp.Succeeded)
	*one = before
	rev, err := l.settle(s, one, id, errWatch)
	require.NoError(t, err)
	require.Equal(t, resp.Header.Revision, rev)
	*one = before
	resp, err = request(id) // the second time
	require.NoError(t, err)
	require.False(t, resp.Succeeded)
	twice, err := answered(one, id, resp, state.Batch{})
	require.NoError(t, err)
	require.Equal(t, rev, twice)

	// With the lease goes the knowledge.
	written := id
	id = one.nextID()
	_, err = l.client.Revoke(t.Context(), s.lease)
	require.NoError(t, err)
	_, err = l.settle(s, one, id, errWatch)
	require.ErrorIs(t, err, state.ErrUnknown)
	s.give(one)
	put(t, l, set("a", "2"))
	have, _ := rows(t, l)
	require.Equal(t, map[string]string{"a": "2", "late": written}, have)
}

// The lease of the slots is gone, and is made again.
func TestTheLeaseIsLost(t *testing.T) {
	t.Parallel()
	for name, urls := range map[string][]string{"embedded": embedded(t, etcdserver.Config{}), "of the system": endpoints(processes(t, 1))} {
		t.Run(name, func(t *testing.T) {
			l := open(t, Config{Endpoints: urls})
			client := bare(t, urls...)
			for i := range 3 {
				rev := put(t, l, set("a", fmt.Sprint(i)))
				leases, err := client.Leases(t.Context())
				require.NoError(t, err)
				require.Len(t, leases.Leases, 1)
				if i == 1 {
					_, err = client.Delete(t.Context(), l.keys.slot(int64(leases.Leases[0].ID), 1))
				} else {
					_, err = client.Revoke(t.Context(), leases.Leases[0].ID)
				}
				require.NoError(t, err)
				put(t, l, set("b", "x"))
				_, err = l.Commit(t.Context(), state.Batch{Guards: []state.Guard{{Key: "a", Rev: rev + 1}}, Ops: []state.Op{set("a", "wrong")}})
				require.ErrorIs(t, err, state.ErrConflict)
			}
			require.NoError(t, l.Close())
			got, err := client.Get(t.Context(), l.keys.prefix+"c/", clientv3.WithPrefix())
			require.NoError(t, err)
			require.Empty(t, got.Kvs, "slots are left behind")
		})
	}
}
