// Package computetest checks drivers against the contract of [compute.Hypervisor].
//
// A driver's own test calls [TestHypervisor]; a failure prints the sentence of the contract that does not hold:
//
//	func TestContract(t *testing.T) {
//		computetest.TestHypervisor(t, func(t *testing.T) computetest.Env {
//			return computetest.Env{Driver: …, Machine: …}
//		})
//	}
package computetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// Env is a driver with a hypervisor behind it, and what the suite needs to know of the two. What the optional parts
// would check is left out where they are nil, and the test says so.
type Env struct {
	Driver compute.Hypervisor // required

	// Machine returns a machine that this hypervisor can run: each time with another ID, with a ConsoleLog that
	// nothing was written to, and with an Epoch from 1 to 1<<32. Required.
	Machine func() (compute.Machine, error)

	Dir      string        // a directory on the host where the suite may name further console logs; required
	Patience time.Duration // the longest that a guest takes to boot or to power off; 0: 10 s

	// Banner is what every guest writes to its first serial port, once each time it boots, when it is ready to be
	// asked to power off. Optional.
	Banner string

	PowerOff func(id string) error                        // makes a guest that is ready power off by itself; optional
	Crash    func(id string) error                        // makes a machine crash; optional
	Deaf     func(id string) error                        // makes a guest ignore what it is asked; optional
	Foreign  func() (id string, remove func(), err error) // makes a running domain that is not this library's; optional
	Restart  func() error                                 // restarts the hypervisor, and not its guests; optional
}

// TestHypervisor runs the suite. Each row calls open, which may return the same hypervisor each time; every row removes the
// machines that it made.
func TestHypervisor(t *testing.T, open func(t *testing.T) Env) {
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
	rule  string // as it is in compute/hypervisor.go
	needs func(Env) bool
	check func(ctx context.Context, e *bench) error
}

func rows() []row {
	var all []row
	for _, part := range [][]row{createRows(), destroyRows(), powerRows(), rebootRows(), listRows(), eventRows(), consoleRows(), contextRows()} {
		all = append(all, part...)
	}
	return all
}

// bench is an Env during one row.
type bench struct {
	Env
	made []string
}

func (r row) run(ctx context.Context, env Env) (err error) {
	if env.Patience == 0 {
		env.Patience = 10 * time.Second
	}
	e := &bench{Env: env}
	defer func() { err = errors.Join(err, e.clean(context.WithoutCancel(ctx))) }()
	ctx, cancel := context.WithTimeout(ctx, 20*env.Patience)
	defer cancel()
	return r.check(ctx, e)
}

// clean removes the row's machines.
func (e *bench) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 6*e.Patience)
	defer cancel()
	all, err := e.Driver.List(ctx)
	if err != nil {
		return fmt.Errorf("cleaning up: %w", err)
	}
	for _, d := range all {
		for _, id := range e.made {
			if d.ID == id && d.Ours {
				err = errors.Join(err, e.Driver.Destroy(ctx, id, d.Epoch))
			}
		}
	}
	return err
}

// machine returns a machine that is not created yet.
func (e *bench) machine() (compute.Machine, error) {
	m, err := e.Machine()
	e.made = append(e.made, m.ID)
	return m, err
}

// running returns a machine that was created.
func (e *bench) running(ctx context.Context) (compute.Machine, error) {
	m, err := e.machine()
	if err == nil {
		if err = e.Driver.Create(ctx, m); err != nil {
			err = fmt.Errorf("creating it: %w", err)
		}
	}
	return m, err
}

// ready returns a machine whose guest has booted.
func (e *bench) ready(ctx context.Context) (compute.Machine, error) {
	m, err := e.running(ctx)
	if err == nil {
		err = e.booted(ctx, m.ID, 1)
	}
	return m, err
}

// stopped returns a machine that is shut off.
func (e *bench) stopped(ctx context.Context) (compute.Machine, error) {
	m, err := e.running(ctx)
	if err == nil {
		if err = e.Driver.Stop(ctx, m.ID, 0); err != nil {
			err = fmt.Errorf("stopping it: %w", err)
		}
	}
	return m, err
}

// foreign returns the id of a running domain that is not the library's.
func (e *bench) foreign() (id string, remove func(), err error) {
	if id, remove, err = e.Foreign(); err != nil {
		return "", nil, fmt.Errorf("making a foreign domain: %w", err)
	}
	return id, remove, nil
}

// domain returns what List says of id; a zero Domain if it does not name it.
func (e *bench) domain(ctx context.Context, id string) (compute.Domain, error) {
	all, err := e.Driver.List(ctx)
	if err != nil {
		return compute.Domain{}, fmt.Errorf("listing: %w", err)
	}
	var found []compute.Domain
	for _, d := range all {
		if d.ID == id {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return compute.Domain{}, nil
	case 1:
		return found[0], nil
	}
	return compute.Domain{}, fmt.Errorf("domain %s is listed %d times", id, len(found))
}

// is checks the power state of id; [compute.PowerUnknown] means that List must not name it.
func (e *bench) is(ctx context.Context, id string, want compute.PowerState) error {
	d, err := e.domain(ctx, id)
	if err == nil && d.Power != want {
		err = fmt.Errorf("domain %s is %q, want %q", id, d.Power, want)
	}
	return err
}

// all runs the steps in order up to the first that fails.
func all(steps ...func() error) error {
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

// class checks that err is of a class of errdefs.
func class(what string, err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%s: got error %v, want one of class %q", what, err, want)
	}
	return nil
}
