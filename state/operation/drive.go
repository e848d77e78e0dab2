package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// drive does one operation as far as it goes: to its end, or to a failure that is to be tried again later, which is in
// the record then. It returns an error when it had to drop the operation in between: it was killed, it lost the
// operation, or the store did not take what was to be recorded.
func (r *Runner) drive(ctx context.Context, d *drive, rec Record) error {
	log := r.cfg.Logger.With("operation", rec.Kind, "object", rec.Object, "id", rec.ID)
	def := r.kinds[rec.Kind]
	more := false
	err := r.point(rec, "before take")
	if err == nil {
		rec, more, err = r.take(ctx, d, rec.ID)
	}
	if err == nil && more {
		err = r.point(rec, "after take")
	}
	for err == nil && more {
		more, err = r.step(ctx, d, def, &rec)
	}
	if err != nil && ctx.Err() == nil {
		log.Warn("operation: dropped", "step", rec.Step, "undoing", rec.Undoing, "error", err)
	}
	return err
}

// step does, or undoes, the next step and records it. It returns false when the operation has ended or must wait.
func (r *Runner) step(ctx context.Context, d *drive, def Definition, rec *Record) (more bool, err error) {
	forward := !rec.Undoing && !def.persist
	if forward && rec.Cancel {
		return r.turn(ctx, d, def, rec, errCancelled)
	}
	if forward && rec.late() {
		return r.turn(ctx, d, def, rec, errDeadline)
	}
	name := def.steps[rec.Step]
	work, f := "do "+name, def.do
	if rec.Undoing {
		work, f = "undo "+name, def.undo
	}
	if err := r.point(*rec, "before "+work); err != nil {
		return false, err
	}
	data, failed := r.attempt(ctx, d, def, rec, f)
	if err := r.point(*rec, "after "+work); err != nil {
		return false, err
	}
	if failed == nil {
		if more, failed, err = r.advance(ctx, d, def, rec, data); failed == nil {
			return more, err
		}
	}
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case forward && (errors.Is(failed, errCancelled) || errors.Is(failed, errDeadline) || permanent(failed) || rec.Attempts+1 >= def.attempts):
		return r.turn(ctx, d, def, rec, failed)
	}
	return r.later(ctx, d, def, rec, failed)
}

// late tells whether the operation's time is over.
func (r Record) late() bool { return !r.Deadline.IsZero() && !time.Now().Before(r.Deadline) }

// attempt runs a step. One that is done, not undone, ends at the operation's deadline and when it is cancelled.
func (r *Runner) attempt(ctx context.Context, d *drive, def Definition, rec *Record,
	f func(context.Context, int, json.RawMessage) (json.RawMessage, error)) (data json.RawMessage, err error) {
	if !rec.Undoing && !def.persist {
		var stop context.CancelCauseFunc
		ctx, stop = context.WithCancelCause(ctx)
		defer stop(nil)
		if !rec.Deadline.IsZero() {
			var end context.CancelFunc
			ctx, end = context.WithDeadlineCause(ctx, rec.Deadline, errDeadline)
			defer end()
		}
		r.mu.Lock()
		d.asked = stop
		if d.cancelled { // between two steps, after the record was last read
			stop(errCancelled)
		}
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			d.asked = nil
			r.mu.Unlock()
		}()
	}
	defer caught(&err, def.steps[rec.Step])
	data, err = f(ctx, rec.Step, rec.Data)
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errCancelled) || errors.Is(cause, errDeadline)) {
		err = cause
	}
	return data, err
}

// caught makes a panic in a step an error: it must not take the operations of others along.
func caught(err *error, step string) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic in step %s: %v", step, p)
	}
}

// advance records a step as done or undone, and, if it was the last, the end of the operation. What the step's own part of
// the transaction says against it is failed; what the store says is err.
func (r *Runner) advance(ctx context.Context, d *drive, def Definition, rec *Record, data json.RawMessage) (more bool, failed, err error) {
	ended := false
	err = r.record(ctx, d, rec, func(tx *state.Tx, cur *Record) error {
		failed = nil
		cur.Data = data
		cur.Attempts, cur.Problem, cur.Retry = 0, "", time.Time{}
		if cur.Undoing {
			ended = cur.Step == 0
		} else {
			ended = cur.Step == len(def.steps)-1
		}
		if failed = def.effects(tx, cur, ended); failed != nil {
			return failed
		}
		switch {
		case ended:
			return Table.Delete(tx, cur.ID)
		case cur.Undoing:
			cur.Step--
		default:
			cur.Step++
		}
		return Table.Put(tx, *cur)
	})
	return err == nil && !ended, failed, err
}

// effects runs the step's part of the transaction.
func (def Definition) effects(tx *state.Tx, cur *Record, ended bool) (err error) {
	defer caught(&err, def.steps[cur.Step])
	return def.record(tx, cur, cur.Step, cur.Undoing, ended)
}

// turn makes the operation go backwards from the step it is at, because of cause.
func (r *Runner) turn(ctx context.Context, d *drive, def Definition, rec *Record, cause error) (more bool, err error) {
	err = r.record(ctx, d, rec, func(tx *state.Tx, cur *Record) error {
		cur.Undoing = true
		cur.Attempts, cur.Retry = 0, time.Time{}
		cur.Reason = fmt.Sprintf("%s: %v", def.steps[cur.Step], cause)
		if errors.Is(cause, errCancelled) {
			cur.Reason = cause.Error()
		}
		cur.Problem = cur.Reason
		return Table.Put(tx, *cur)
	})
	return err == nil, err
}

// later records a failed attempt; the operation rests until its retry time.
func (r *Runner) later(ctx context.Context, d *drive, def Definition, rec *Record, cause error) (more bool, err error) {
	var refused error
	note := func(tx *state.Tx, cur *Record) error {
		cur.Attempts++
		cur.Retry = time.Now().Add(backoff(cur.Attempts)).UTC()
		cur.Problem = fmt.Sprintf("%s: %v", def.steps[cur.Step], cause)
		return Table.Put(tx, *cur)
	}
	err = r.record(ctx, d, rec, func(tx *state.Tx, cur *Record) error {
		if err := note(tx, cur); err != nil {
			return err
		}
		refused = def.tell(tx, cur)
		return refused
	})
	if refused != nil {
		r.cfg.Logger.Warn("operation: the problem could not be told", "operation", rec.Kind, "object", rec.Object, "id", rec.ID, "error", refused)
		err = r.record(ctx, d, rec, note)
	}
	return false, err
}

// tell runs the kind's Problem.
func (def Definition) tell(tx *state.Tx, cur *Record) (err error) {
	defer caught(&err, def.steps[cur.Step])
	return def.problem(tx, cur)
}

// record runs change on the operation as it is in the store, if it is still this worker's and where this worker thinks it
// is. It renews the lease on the way.
func (r *Runner) record(ctx context.Context, d *drive, rec *Record, change func(tx *state.Tx, cur *Record) error) error {
	if err := r.point(*rec, "before record"); err != nil {
		return err
	}
	var cur Record
	err := r.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		var err error
		if cur, err = Table.Get(tx, rec.ID); err != nil || cur.Epoch != rec.Epoch || cur.Step != rec.Step || cur.Undoing != rec.Undoing {
			return errLost
		}
		if !r.cfg.Exclusive {
			cur.Lease = time.Now().Add(r.cfg.Lease).UTC()
		}
		if cur.Holder == "" { // see take
			cur.Holder = r.holder
			cur.Epoch++
		}
		return change(tx, &cur)
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	d.epoch = cur.Epoch
	r.mu.Unlock()
	r.leased(d, cur)
	*rec = cur
	return r.point(cur, "after record")
}

func (r *Runner) point(rec Record, where string) error {
	if r.cfg.Hooks.Point == nil {
		return nil
	}
	return r.cfg.Hooks.Point(rec, where)
}
