package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// pending is a commit under way. The journal's lock guards found.
type pending struct {
	id     string
	value  []byte
	guards []state.Guard
	found  state.Revision // the entry that has it, once it has been read

	sent  state.Revision // the entry it may be in or may yet get, 0 if it is in none
	loads int            // when it was sent
	fresh bool           // the journal was read since the commit began
}

// unique is a name that nobody else has.
func unique() string { return rand.Text()[:16] }

// commit is Log.Commit, of one batch after the other.
func (j *journal) commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	l := j.log
	select {
	case j.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-j.turn }()
	j.mu.Lock()
	j.commits++
	p := &pending{id: fmt.Sprintf("%s-%d", j.writer, j.commits), guards: b.Guards}
	p.value = appendEntry(nil, p.id, b.Ops)
	j.waits = p
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		j.waits = nil
		j.mu.Unlock()
	}()
	until := time.Now().Add(l.cfg.Timeout)
	var pause pause
	for {
		rev, err := j.attempt(ctx, p)
		var again *retry
		switch {
		case !errors.As(err, &again):
			if err == nil {
				j.saveIfDue()
			}
			return rev, err
		case again.soon:
			continue
		case p.sent > 0 && time.Now().After(until):
			return 0, unknown(again.cause)
		case p.sent > 0: // the outcome is wanted, whatever has ended
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case l.isClosing():
			return 0, state.ErrClosed
		case time.Now().After(until):
			return 0, nothingWritten(l.cfg.Timeout, again.cause)
		}
		l.logger.Warn("state/etcd: a batch was not written", "error", again.cause, "again in", pause.next())
		if p.sent > 0 {
			pause.wait(l.ctx, nil)
		} else {
			pause.wait(ctx, l.closing)
		}
	}
}

// attempt does the next step of a commit: it returns what became of it, or writes the entry, or reads what is there. An error of the
// type *retry is that it is to be called again.
func (j *journal) attempt(ctx context.Context, p *pending) (state.Revision, error) {
	j.mu.RLock()
	last, loads, found, conflict := j.last, j.loads, p.found, j.conflict(p.guards)
	j.mu.RUnlock()
	switch {
	case found > 0:
		return found, nil
	case p.sent > 0 && last >= p.sent && loads != p.loads:
		return 0, unknown(errTrimmed)
	case p.sent > 0 && last >= p.sent:
		p.sent = 0 // another's entry is there
	}
	if conflict != nil && p.fresh {
		return 0, conflict
	}
	if conflict == nil {
		if err := ctx.Err(); err != nil && p.sent == 0 {
			return 0, err
		}
		if err := j.create(j.log.ctx, j.keys.entry(last+1), p.value); err != nil && kindOf(err) != unsure {
			return 0, p.failed(err)
		}
		p.sent, p.loads = last+1, loads
	}
	if err := j.catchUp(j.log.ctx, p); err != nil {
		return 0, p.failed(err)
	}
	p.fresh = true
	j.mu.RLock()
	defer j.mu.RUnlock()
	return 0, &retry{cause: errNotThere, soon: j.last > last || conflict != nil}
}

// failed is what a request's error means to a commit.
func (p *pending) failed(err error) error {
	switch {
	case kindOf(err) != refused:
		return &retry{cause: err}
	case p.sent > 0:
		return unknown(err)
	}
	return foreign(err)
}

// conflict returns the error of guards that don't hold. The caller has the lock.
func (j *journal) conflict(guards []state.Guard) error {
	for _, g := range guards {
		if j.rows[g.Key].Rev != g.Rev {
			return fmt.Errorf("key %q: %w", g.Key, state.ErrConflict)
		}
	}
	return nil
}
