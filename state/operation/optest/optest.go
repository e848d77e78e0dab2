// Package optest is the generated crash test: it kills whoever does an operation before and after every step, every
// undo and every transaction, one place at a time, until a run meets no more places, and has the next worker finish.
package optest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// World is a cloud in small: what lives on when a worker dies.
type World interface {
	// Begin states the intent whose operation is to be crashed.
	Begin(t *testing.T)

	// Work is a worker's life: it does open operations until ctx ends. It is called again, after a death, for the next
	// worker.
	Work(ctx context.Context, hooks operation.Hooks) error

	// Settled tells whether no operation is open.
	Settled() bool

	// Check returns what is wrong in the end: something leaked, lost or doubled.
	Check() error

	Close() error
}

// errKilled is what a killed worker's hook returns: it records nothing after it.
var errKilled = errors.New("killed by the crash test")

// patience is how long, in the bubble's time, an operation may take after the last death.
const patience = 10 * time.Minute

// Crash runs the operation of a fresh world once for each place at which its worker can die, and each of those runs twice:
// with one death, and with the next worker dying at the same place again, so that every step and undo is also done
// twice from a half-done state. Everything in open and World runs in a bubble of testing/synctest: no real I/O.
func Crash(t *testing.T, open func(t *testing.T) World) {
	t.Helper()
	for deaths := 1; deaths <= 2; deaths++ {
		for place := 0; ; place++ {
			var where string
			var err error
			synctest.Test(t, func(t *testing.T) { where, err = crash(t, open(t), place, deaths) })
			if err != nil {
				t.Fatalf("after %d deaths at place %d, %s: %v", deaths, place, where, err)
			}
			if t.Failed() {
				t.FailNow()
			}
			if where == "" {
				if place == 0 {
					t.Fatal("the operation met no place to die at: was it begun?")
				}
				break
			}
		}
	}
}

// death is a worker's end at a place.
type death struct {
	mu   sync.Mutex
	kill context.CancelFunc
	at   func(place string) bool // whether this is the place
	dead bool
}

// point is the worker's hook. After its death it gets nothing recorded.
func (d *death) point(r operation.Record, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	place := fmt.Sprintf("%s, %s (step %d, undoing %v)", r.Kind, name, r.Step, r.Undoing)
	if !d.dead && d.at(place) {
		d.dead = true
		d.kill()
	}
	if d.dead {
		return errKilled
	}
	return nil
}

// crash lets the first worker die at the given place, counted from 0, and the ones after it at the same, should they come
// by, until there were as many deaths as asked. It returns the place's name, or "" if the operation ended before it came
// to it, and what is wrong in the end.
func crash(t *testing.T, w World, place, deaths int) (where string, err error) {
	t.Helper()
	w.Begin(t)
	met := 0
	at := func(here string) bool {
		if met++; met == place+1 {
			where = here
		}
		return met == place+1
	}
	for died := 0; ; died++ {
		if died > 0 {
			at = func(here string) bool { return died < deaths && here == where }
		}
		ctx, kill := context.WithCancel(context.Background())
		d := &death{kill: kill, at: at}
		ended := make(chan error, 1)
		go func() { ended <- w.Work(ctx, operation.Hooks{Point: d.point}) }()
		for waited := time.Duration(0); !w.Settled() && ctx.Err() == nil; waited += time.Second {
			if waited > patience {
				err = errors.New("the operation is stuck")
				break
			}
			time.Sleep(time.Second)
		}
		again := ctx.Err() != nil // it may have died with its last record made
		kill()
		err = errors.Join(err, <-ended)
		if !again || err != nil {
			break
		}
	}
	return where, errors.Join(err, w.Check(), w.Close())
}
