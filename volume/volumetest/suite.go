// Package volumetest checks drivers against the contract of [volume.Driver].
//
// A driver's own test calls [TestDriver]; a failure prints the sentence of the contract that does not hold:
//
//	func TestContract(t *testing.T) {
//		volumetest.TestDriver(t, func(t *testing.T) volumetest.Env {
//			return volumetest.Env{Driver: …}
//		})
//	}
package volumetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Env is a driver with a store behind it, of which at least 12 GiB are free. The suite writes a few MiB to each volume.
type Env struct {
	Driver   volume.Driver // required
	Patience time.Duration // the longest that a call may take to end after its context; 0: 10 s

	// Quiet says that nobody may write to what snapshots are made of, as with a stand-in for a store's tools: the rows of volumes in use are left out.
	Quiet bool

	Foreign func() (remove func(), err error)  // makes something in the store that is not this library's; optional
	Hang    func() (release func(), err error) // makes the store answer nothing, until release; optional
	Down    func() (up func(), err error)      // makes the store unreachable, until up; optional
}

// TestDriver runs the suite. Each row calls open, which may return the same store each time; every row removes the volumes that
// it made.
func TestDriver(t *testing.T, open func(t *testing.T) Env) {
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			env := open(t)
			if r.needs != nil && !r.needs(env) {
				t.Skip("the environment has no means for this row")
			}
			if err := r.run(t.Context(), env); err != nil {
				t.Errorf("contract: %q\n%v", r.rule, err)
			}
		})
	}
}

// row checks one sentence of the contract.
type row struct {
	name  string
	rule  string // as it is in volume/driver.go
	needs func(Env) bool
	check func(ctx context.Context, e *rig) error
}

func rows() []row {
	var all []row
	for _, part := range [][]row{createRows(), cloneRows(), importRows(), snapshotRows(), deleteRows(), listRows(), callRows(), faultRows()} {
		all = append(all, part...)
	}
	return all
}

// rig is an Env during one row.
type rig struct {
	Env
	made []string // in the order in which they were named
}

func (r row) run(ctx context.Context, env Env) (err error) {
	if env.Driver == nil {
		return errors.New("Env.Driver is nil")
	}
	if env.Patience == 0 {
		env.Patience = 10 * time.Second
	}
	e := &rig{Env: env}
	defer func() { err = errors.Join(err, e.clean(context.WithoutCancel(ctx))) }()
	ctx, cancel := context.WithTimeout(ctx, 20*env.Patience)
	defer cancel()
	return r.check(ctx, e)
}

// clean removes what the row made, snapshots first.
func (e *rig) clean(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*e.Patience)
	defer cancel()
	for _, id := range e.made {
		err = errors.Join(err, e.Driver.DeleteSnapshot(ctx, id))
	}
	for _, id := range e.made {
		err = errors.Join(err, e.Driver.Delete(ctx, id))
	}
	if err != nil {
		return fmt.Errorf("cleaning up: %w", err)
	}
	return nil
}

// id returns one that nothing has.
func (e *rig) id() string {
	id := uuid.NewString()
	e.made = append(e.made, id)
	return id
}

// created returns a volume of so many GiB.
func (e *rig) created(ctx context.Context, sizeGiB int) (string, error) {
	id := e.id()
	if err := e.Driver.Create(ctx, id, sizeGiB); err != nil {
		return "", fmt.Errorf("step Create: %w", err)
	}
	return id, nil
}

// written returns a volume of 1 GiB with a text in it.
func (e *rig) written(ctx context.Context, text string) (string, error) {
	id, err := e.created(ctx, 1)
	if err == nil {
		err = e.write(ctx, id, text)
	}
	return id, err
}

// snapshot returns a snapshot of a volume.
func (e *rig) snapshot(ctx context.Context, of string) (string, error) {
	id := e.id()
	if err := e.Driver.Snapshot(ctx, id, of); err != nil {
		return "", fmt.Errorf("step Snapshot: %w", err)
	}
	return id, nil
}

// cloned returns a clone with what a source holds.
func (e *rig) cloned(ctx context.Context, source string, sizeGiB int) (string, error) {
	id := e.id()
	if err := e.Driver.Clone(ctx, id, source, sizeGiB); err != nil {
		return "", fmt.Errorf("step Clone: %w", err)
	}
	return id, nil
}

// info returns what List says of id, nil if it does not name it.
func (e *rig) info(ctx context.Context, id string) (*volume.Info, error) {
	all, err := e.Driver.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("step List: %w", err)
	}
	var found *volume.Info
	for i := range all {
		if all[i].ID != id {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("list names %s twice", id)
		}
		found = &all[i]
	}
	return found, nil
}

// listed checks what List says of id; of a zero Info, that it does not name it.
func (e *rig) listed(ctx context.Context, id string, want volume.Info) error {
	got, err := e.info(ctx, id)
	if err != nil {
		return err
	}
	if got == nil {
		got = &volume.Info{}
	}
	if *got != want {
		return fmt.Errorf("list says %+v of %s, want %+v", *got, id, want)
	}
	return nil
}

// is checks that err is of a class of errdefs.
func is(what string, err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%s: got error %v, want one of class %q", what, err, want)
	}
	return nil
}

// steps runs the steps in order up to the first that fails.
func steps(all ...func() error) error {
	for i, step := range all {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}
