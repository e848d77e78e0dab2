// Package operation makes work of several steps survive the death of whoever does it.
//
// An operation is a record in the store: what is to be done ([Kind]), to what, how far it has come, and who is at it.
// A [Runner] takes the open operations of its owner and does their steps in order:
//
//	Begin (in the transaction that states the intent)
//	  │
//	  ▼      Do ok: progress recorded          last step: Kind.Done and the end,
//	step 0 ───────────────► step 1 ─── … ─────────────────────────────────► (gone)
//	  │  ▲ retried, with back-off               in one transaction
//	  │  └─┘
//	  ▼ Do fails for good, deadline, or Cancel
//	Undo of this step, then of those before it ───► Kind.Failed and the end, in one transaction
//
// A worker may die at any instant. Its lease runs out (or, if the owner has just one worker, the next one knows at once),
// another takes the operation with a higher epoch, and goes on at the recorded step, which is then done again: every Do
// and Undo must therefore be safe to run twice, and to run after half of it was done. A worker that was
// believed dead and lives can record nothing more, because its epoch is old.
//
// Operations on one object run one after the other, in the order in which they were begun.
package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Record is an operation that has begun and not ended.
type Record struct {
	ID     string
	Kind   string
	Owner  string // whose workers do it: a host's id, or a role
	Object string // what it works on, such as "instance/<id>"
	Seq    int    // its turn among the operations of Object

	Data json.RawMessage // the kind's own, as its steps last left it

	Step    int    // index of the step that is being done or undone
	Undoing bool   // steps are being undone because of Reason
	Reason  string // why it is being undone, in words for a user
	Cancel  bool   // it was asked to stop and undo

	Epoch    uint64 // rises each time a worker takes the operation
	Holder   string // the worker that has it; "" before the first
	Lease    time.Time
	Attempts int       // failures of the current step
	Retry    time.Time // not to be tried before
	Problem  string    // the last failure of the current step

	Begun    time.Time
	Deadline time.Time // undone if it has not ended by then; zero: never
}

// Clone returns a copy that shares nothing.
func (r Record) Clone() Record {
	r.Data = append(json.RawMessage(nil), r.Data...)
	return r
}

// Table holds the open operations. Ids rise with time, so those of an owner are yielded oldest first. A turn is unique, so
// that two that are begun at once, by processes that don't see each other, are not both the first.
var Table = state.NewTable("operation", func(r Record) string { return r.ID },
	state.Index("owner", func(r Record) []string { return []string{r.Owner} }),
	state.Index("object", func(r Record) []string { return []string{r.Object} }),
	state.Unique("turn", func(r Record) []string { return []string{r.Object + "/" + strconv.Itoa(r.Seq)} }))

// Schema returns what a store that holds operations needs.
func Schema() []state.Schema { return []state.Schema{Table} }

// Kind is a declared operation: a table of steps over data of type T, which is kept with the operation as JSON.
type Kind[T any] struct {
	Name     string
	Steps    []Step[T]
	Attempts int // how often a step is tried before the operation is undone; 0: 5

	// Persist is for operations that only go forward, such as deletions: a step that fails is tried again, with
	// back-off, until it succeeds. Deadlines, Attempts, Failed and every Undo are not used then.
	Persist bool

	// Done runs in the transaction that ends a successful operation, Failed in the one that ends an undone one.
	Done   func(tx *state.Tx, data *T) error
	Failed func(tx *state.Tx, data *T, reason string) error

	// Problem runs in the transaction that records a failed attempt, so that the object's own record can say why
	// it is not moving. Optional.
	Problem func(tx *state.Tx, data *T, problem string) error
}

// Step is one step of a kind. Do and Undo have effects outside the store and must be safe to run twice; what they
// change in data is kept when they succeed. Then and Back are the step's effects in the store, made in the transaction that records it as
// done or undone. All but Do are optional; say in a comment why Undo is nil.
type Step[T any] struct {
	Name string
	Do   func(ctx context.Context, data *T) error
	Then func(tx *state.Tx, data *T) error
	Undo func(ctx context.Context, data *T) error
	Back func(tx *state.Tx, data *T) error
}

// Definition is a Kind as a [Runner] takes it.
type Definition struct {
	name     string
	steps    []string
	attempts int
	persist  bool
	do, undo func(ctx context.Context, i int, data json.RawMessage) (json.RawMessage, error)
	// record runs Then or Back of a step (undo tells which; i < 0: none), then, where end is set, Done or Failed.
	record  func(tx *state.Tx, r *Record, i int, undo, end bool) error
	problem func(tx *state.Tx, r *Record) error
}

// Define checks a kind and makes it ready for a runner. It panics if the kind has no name or no steps, or a step has no
// name or no Do: that is a mistake in the program.
func Define[T any](k Kind[T]) Definition {
	if k.Name == "" || len(k.Steps) == 0 {
		panic("operation: a kind needs a name and at least one step")
	}
	d := Definition{name: k.Name, attempts: k.Attempts, persist: k.Persist}
	if d.attempts == 0 {
		d.attempts = 5
	}
	for _, s := range k.Steps {
		if s.Name == "" || s.Do == nil {
			panic("operation: a step of " + k.Name + " has no name or no Do")
		}
		d.steps = append(d.steps, s.Name)
	}
	d.do = func(ctx context.Context, i int, data json.RawMessage) (json.RawMessage, error) {
		return with(data, func(v *T) error { return k.Steps[i].Do(ctx, v) })
	}
	d.undo = func(ctx context.Context, i int, data json.RawMessage) (json.RawMessage, error) {
		if k.Steps[i].Undo == nil {
			return data, nil
		}
		return with(data, func(v *T) error { return k.Steps[i].Undo(ctx, v) })
	}
	d.record = func(tx *state.Tx, r *Record, i int, undo, end bool) (err error) {
		r.Data, err = with(r.Data, func(v *T) error {
			if i >= 0 {
				f := k.Steps[i].Then
				if undo {
					f = k.Steps[i].Back
				}
				if f != nil {
					if err := f(tx, v); err != nil {
						return err
					}
				}
			}
			switch {
			case end && undo && k.Failed != nil:
				return k.Failed(tx, v, r.Reason)
			case end && !undo && k.Done != nil:
				return k.Done(tx, v)
			}
			return nil
		})
		return err
	}
	d.problem = func(tx *state.Tx, r *Record) error {
		if k.Problem == nil {
			return nil
		}
		_, err := with(r.Data, func(v *T) error { return k.Problem(tx, v, r.Problem) })
		return err
	}
	return d
}

func with[T any](data json.RawMessage, f func(*T) error) (json.RawMessage, error) {
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		return data, fmt.Errorf("operation: data can't be read: %w: %w", err, errdefs.ErrDataLoss)
	}
	if err := f(&v); err != nil {
		return data, err
	}
	return json.Marshal(v)
}

// Intent is an operation to begin.
type Intent struct {
	Kind     string
	Owner    string
	Object   string
	Data     any           // the kind's data, encoded as JSON
	Deadline time.Duration // 0: none
}

// Begin records an operation in the transaction that states the intent, behind those that the object has already. The
// owner's runner must be rung after the transaction.
func Begin(tx *state.Tx, in Intent) (Record, error) {
	data, err := json.Marshal(in.Data)
	if err != nil {
		return Record{}, fmt.Errorf("operation %s: %w: %w", in.Kind, err, errdefs.ErrInvalidArgument)
	}
	r := Record{ID: uuid.Must(uuid.NewV7()).String(), Kind: in.Kind, Owner: in.Owner, Object: in.Object, Data: data, Begun: time.Now().UTC()}
	if in.Deadline > 0 {
		r.Deadline = r.Begun.Add(in.Deadline)
	}
	for other := range Table.By(tx, "object", in.Object) {
		r.Seq = max(r.Seq, other.Seq+1)
	}
	return r, Table.Insert(tx, r)
}

// Cancel asks the open operations of an object, of the named kind, to stop and undo what they did. One that only goes
// forward takes no notice. It returns how many were asked.
func Cancel(tx *state.Tx, object, kind string) (int, error) {
	n := 0
	for r := range Table.By(tx, "object", object) {
		if r.Kind != kind || r.Cancel {
			continue
		}
		r.Cancel = true
		if err := Table.Put(tx, r); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Reassign gives the operations of an object that wait for their turn from one owner to another: what they work on has moved. Those that a
// worker has taken stay. The new owner's runner must be rung after the transaction.
func Reassign(tx *state.Tx, object, from, to string) error {
	for r := range Table.By(tx, "object", object) {
		if r.Owner != from || r.Holder != "" {
			continue
		}
		r.Owner = to
		if err := Table.Put(tx, r); err != nil {
			return err
		}
	}
	return nil
}

// Open returns the open operations of an object in their order.
func Open(r state.Reader, object string) []Record {
	var all []Record
	for rec := range Table.By(r, "object", object) {
		all = append(all, rec)
	}
	return all
}

// permanent tells the errors that trying again does not mend.
func permanent(err error) bool {
	for _, is := range []func(error) bool{errdefs.IsInvalidArgument, errdefs.IsNotFound, errdefs.IsAlreadyExists, errdefs.IsFailedPrecondition,
		errdefs.IsPermissionDenied, errdefs.IsNotImplemented, errdefs.IsOutOfRange, errdefs.IsResourceExhausted, errdefs.IsDataLoss} {
		if is(err) {
			return true
		}
	}
	return false
}

var (
	errCancelled = errors.New("cancelled")
	errDeadline  = errors.New("deadline passed")
	// errLost is the cause of a context that ends because another worker has the operation.
	errLost = fmt.Errorf("operation: another worker has taken it: %w", errdefs.ErrAborted)
)
