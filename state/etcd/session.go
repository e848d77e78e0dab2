package etcd

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// leaseTTL is how long etcd keeps the slots of a program that is gone.
const leaseTTL = 5 * time.Minute

// session is a lease, and the slots that live as long as it does. As an expired lease never comes back, a slot under a lease that
// is there has not been removed since it was made.
type session struct {
	lease clientv3.LeaseID
	end   context.CancelFunc // of the goroutine that keeps the lease

	mu   sync.Mutex
	made int64
	free []*slot
}

// slot is a key that one commit at a time writes its id to. Each commit requires that the slot is as the one before left it, so
// a request that arrives late, or twice, is refused; and one whose answer was lost can be shut out by writing the slot again.
type slot struct {
	key string
	rev int64 // that wrote it last, as far as is known; 0: none
	seq int64 // of the last commit
}

// session returns the session, which it begins if there is none.
func (l *Log) session(ctx context.Context) (*session, error) {
	var s *session
	select {
	case s = <-l.current:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { l.current <- s }()
	if s != nil {
		return s, nil
	}
	asked, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	granted, err := l.client.Grant(asked, int64(leaseTTL/time.Second))
	if err != nil {
		return nil, err // a lease that was granted all the same has no keys, and expires
	}
	kept, end := context.WithCancel(l.ctx)
	s = &session{lease: granted.ID, end: end}
	l.own.Go(func() { l.keep(kept, granted.ID) })
	return s, nil
}

// keep keeps a lease from expiring.
func (l *Log) keep(ctx context.Context, lease clientv3.LeaseID) {
	ticker := time.NewTicker(leaseTTL / 5)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		asked, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
		_, err := l.client.KeepAliveOnce(asked, lease)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && kindOf(err) == expired:
			return // the next commit sees it too
		case err != nil:
			l.logger.Warn("state/etcd: the lease of this program's commits could not be renewed", "error", err)
		}
	}
}

// drop forgets a session whose lease is gone.
func (l *Log) drop(s *session) {
	now := <-l.current
	if now == s {
		s.end()
		now = nil
	}
	l.current <- now
}

// endSession gives up the lease, and with it the slots.
func (l *Log) endSession() {
	s := <-l.current
	l.current <- nil
	if s == nil {
		return
	}
	s.end()
	asked, cancel := context.WithTimeout(l.ctx, min(l.cfg.Timeout, 3*time.Second))
	defer cancel()
	if _, err := l.client.Revoke(asked, s.lease); err != nil && kindOf(err) != expired {
		l.logger.Warn("state/etcd: the lease of this program's commits could not be given up, and will expire", "error", err)
	}
}

func (s *session) take(k keys) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		last := s.free[n-1]
		s.free = s.free[:n-1]
		return last
	}
	s.made++
	return &slot{key: k.slot(int64(s.lease), s.made)}
}

func (s *session) give(one *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, one)
}

// unmoved is the condition that the slot is as it was left.
func (o *slot) unmoved() clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(o.key), "=", o.rev)
}

// settle learns what became of a commit that had no answer. It writes the slot under the commit's own condition: if that succeeds,
// the commit has not happened, and can't any more; if not, the slot says who was first.
func (l *Log) settle(s *session, one *slot, id string, cause error) (int64, error) {
	limit, cancel := context.WithTimeout(l.ctx, l.cfg.Timeout)
	defer cancel()
	void := "-" + id
	var pause pause
	for {
		resp, err := l.client.Txn(limit).If(one.unmoved()).
			Then(clientv3.OpPut(one.key, void, clientv3.WithLease(s.lease))).
			Else(clientv3.OpGet(one.key)).Commit()
		switch {
		case err == nil && resp.Succeeded:
			one.rev = resp.Header.Revision
			return 0, &retry{cause: cause}
		case err == nil:
			value, rev := found(resp)
			if rev == 0 { // the lease has expired and taken the answer with it
				l.drop(s)
				return 0, unknown(cause)
			}
			one.rev = rev
			if value == id {
				return rev, nil
			}
			return 0, &retry{cause: cause}
		case kindOf(err) == expired:
			l.drop(s)
			return 0, unknown(cause)
		case kindOf(err) == refused:
			return 0, unknown(errors.Join(cause, err))
		}
		if !pause.wait(limit, l.closing) {
			return 0, unknown(cause)
		}
	}
}

// found returns what the Get of a slot, which was the only request, has found.
func found(resp *clientv3.TxnResponse) (value string, rev int64) {
	var kvs []*mvccpb.KeyValue
	if len(resp.Responses) == 1 {
		kvs = resp.Responses[0].GetResponseRange().GetKvs()
	}
	if len(kvs) == 0 {
		return "", 0
	}
	return string(kvs[0].Value), kvs[0].ModRevision
}

// retry is that nothing was written, and the commit can be tried again.
type retry struct {
	cause error
	soon  bool // without a pause
}

func (r *retry) Error() string { return r.cause.Error() }

func (o *slot) nextID() string {
	o.seq++
	return strconv.FormatInt(o.seq, 10)
}
