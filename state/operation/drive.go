package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// drive does one operation as far as it goes: to its end, to a failure that is to be tried again later, or to the
// loss of the operation or of ctx.
func (r *Runner) drive(ctx context.Context, d *drive, rec Record) {
	log := r.cfg.Logger.With("operation", rec.Kind, "object", rec.Object, "id", rec.ID)
	def, known := r.kinds[rec.Kind]
	if !known {
		log.Error("operation: this worker does not know the kind")
		<-ctx.Done() // hold the object: what comes after must not overtake
		return
	}
	if r.point(rec, "before take") != nil {
		return
	}
	rec, err := r.take(ctx, rec.ID)
	if err != nil || r.point(rec, "after take") != nil {
		return
	}
	for {
		more, err := r.step(ctx, d, def, &rec)
		if err != nil {
			if ctx.Err() == nil {
				log.Warn("operation: dropped", "step", rec.Step, "error", err)
			}
			return
		}
		if !more {
			return
		}
	}
}

// step does, or undoes, the next step and records it. It returns false when the operation has ended or must wait.
func (r *Runner) step(ctx context.Context, d *drive, def Definition, rec *Record) (more bool, err error) {
	if !rec.Undoing && !def.persist {
		if rec.Cancel {
			return r.turn(ctx, def, rec, errCancelled)
		}
		if !rec.Deadline.IsZero() && !time.Now().Before(rec.Deadline) {
			return r.turn(ctx, def, rec, errDeadline)
		}
	}
	name := def.steps[rec.Step]
	work, f := "do "+name, def.do
	if rec.Undoing {
		work, f = "undo "+name, def.undo
	}
	if err := r.point(*rec, "before "+work); err != nil {
		return false, err
	}
	data, err := r.attempt(ctx, d, def, rec, f)
	if perr := r.point(*rec, "after "+work); perr != nil {
		return false, perr
	}
	switch {
	case err == nil:
		return r.advance(ctx, def, rec, data)
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, errCancelled):
		rec.Cancel = true
		return true, nil
	case errors.Is(err, errDeadline):
		return r.turn(ctx, def, rec, errDeadline)
	case !rec.Undoing && !def.persist && (permanent(err) || rec.Attempts+1 >= def.attempts):
		return r.turn(ctx, def, rec, err)
	}
	return r.later(ctx, def, rec, err)
}

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
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			d.asked = nil
			r.mu.Unlock()
		}()
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in step %s: %v", def.steps[rec.Step], p)
		}
	}()
	data, err = f(ctx, rec.Step, rec.Data)
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errCancelled) || errors.Is(cause, errDeadline)) {
		err = cause
	}
	return data, err
}

// advance records a step as done or undone, and, if it was the last, the end of the operation.
func (r *Runner) advance(ctx context.Context, def Definition, rec *Record, data json.RawMessage) (more bool, err error) {
	ended := false
	err = r.record(ctx, rec, func(tx *state.Tx, cur *Record) error {
		cur.Data = data
		cur.Attempts, cur.Problem, cur.Retry = 0, "", time.Time{}
		if cur.Undoing {
			ended = cur.Step == 0
		} else {
			ended = cur.Step == len(def.steps)-1
		}
		if err := def.record(tx, cur, cur.Step, cur.Undoing, ended); err != nil {
			return err
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
	if err != nil && !rec.Undoing && !def.persist && permanent(err) && !errors.Is(err, errLost) {
		return r.turn(ctx, def, rec, err)
	}
	return err == nil && !ended, err
}

// turn makes the operation go backwards from the step it is at, because of cause.
func (r *Runner) turn(ctx context.Context, def Definition, rec *Record, cause error) (more bool, err error) {
	err = r.record(ctx, rec, func(tx *state.Tx, cur *Record) error {
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
func (r *Runner) later(ctx context.Context, def Definition, rec *Record, cause error) (more bool, err error) {
	return false, r.record(ctx, rec, func(tx *state.Tx, cur *Record) error {
		cur.Attempts++
		cur.Retry = time.Now().Add(backoff(cur.Attempts)).UTC()
		cur.Problem = fmt.Sprintf("%s: %v", def.steps[cur.Step], cause)
		if err := def.problem(tx, cur); err != nil {
			return err
		}
		return Table.Put(tx, *cur)
	})
}

// record runs change on the operation as it is in the store, if it is still this worker's.
func (r *Runner) record(ctx context.Context, rec *Record, change func(tx *state.Tx, cur *Record) error) error {
	if err := r.point(*rec, "before record"); err != nil {
		return err
	}
	var cur Record
	err := r.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		var err error
		if cur, err = Table.Get(tx, rec.ID); err != nil || cur.Epoch != rec.Epoch {
			return errLost
		}
		return change(tx, &cur)
	})
	if err != nil {
		return err
	}
	*rec = cur
	return r.point(cur, "after record")
}

func (r *Runner) point(rec Record, where string) error {
	if r.cfg.Hooks.Point == nil {
		return nil
	}
	return r.cfg.Hooks.Point(rec, where)
}
