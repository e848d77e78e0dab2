package operation

import (
	"context"
	"sync"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// scan starts what can be started, oldest first, and returns how long until something else may be. It looks at what is
// running and at as many of the others as there is room for, so its cost does not grow with what is queued.
func (r *Runner) scan(ctx context.Context, drives *sync.WaitGroup) time.Duration {
	next, now := r.cfg.Tick, time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, pause := range r.resting {
		if now.Sub(pause.until) > time.Minute {
			delete(r.resting, id) // another worker ended it
		}
	}
	_ = r.cfg.Store.View(func(v *state.View) error {
		for _, d := range r.running {
			if rec, err := Table.Get(v, d.id); err == nil && rec.Cancel {
				d.cancelled = true
				if d.asked != nil {
					d.asked(errCancelled)
				}
			}
		}
		for rec := range Table.By(v, "owner", r.cfg.Owner) {
			if len(r.running) >= r.cfg.Parallel {
				break // whoever ends rings
			}
			if r.running[rec.Object] != nil || !r.knows(rec) {
				continue
			}
			if wait := max(r.wait(rec, now), r.resting[rec.ID].until.Sub(now)); wait > 0 {
				next = min(next, wait)
				continue
			}
			if first(v, rec) {
				r.start(ctx, drives, rec)
			}
		}
		return nil
	})
	return next
}

// start has an operation done; the mutex is held.
func (r *Runner) start(ctx context.Context, drives *sync.WaitGroup, rec Record) {
	dctx, cancel := context.WithCancelCause(ctx)
	d := &drive{id: rec.ID, cancel: cancel}
	r.running[rec.Object] = d
	drives.Go(func() {
		defer cancel(nil)
		err := r.drive(dctx, d, rec)
		r.mu.Lock()
		defer r.mu.Unlock()
		if d.expiry != nil {
			d.expiry.Stop()
		}
		delete(r.running, rec.Object)
		if err == nil {
			delete(r.resting, rec.ID)
		} else {
			drops := r.resting[rec.ID].drops
			r.resting[rec.ID] = rest{drops + 1, time.Now().Add(backoff(drops))}
		}
		if ctx.Err() == nil {
			r.Ring()
		}
	})
}

// first tells whether it is the operation's turn among those of its object.
func first(v state.Reader, rec Record) bool {
	for other := range Table.By(v, "object", rec.Object) {
		if other.Seq < rec.Seq {
			return false
		}
	}
	return true
}

// knows tells whether the runner can do the operation. One that it can't holds its object, so that what comes after
// does not overtake it, but takes no room from the others.
func (r *Runner) knows(rec Record) bool {
	if _, known := r.kinds[rec.Kind]; known {
		return true
	}
	if !r.strange[rec.Kind] {
		r.strange[rec.Kind] = true
		r.cfg.Logger.Error("operation: this worker does not know the kind; its operations wait for one that does",
			"operation", rec.Kind, "object", rec.Object, "id", rec.ID)
	}
	return false
}

// wait returns how long an operation can't be taken yet.
func (r *Runner) wait(rec Record, now time.Time) time.Duration {
	retry := rec.Retry.Sub(now)
	if !rec.Undoing && !r.kinds[rec.Kind].persist {
		if rec.Cancel {
			retry = 0
		}
		if !rec.Deadline.IsZero() {
			retry = min(retry, rec.Deadline.Sub(now))
		}
	}
	if rec.Holder != "" && rec.Holder != r.holder && !r.cfg.Exclusive {
		return max(retry, rec.Lease.Sub(now))
	}
	return retry
}

// backoff is how long to wait after n failures and one more.
func backoff(n int) time.Duration {
	return min(250*time.Millisecond<<min(n, 10), 30*time.Second)
}
