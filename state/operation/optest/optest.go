// Package optest is the generated crash test: it kills whoever does an operation before and after every step, every
// undo and every transaction, one place at a time, until a run meets no more places, and has the next worker finish.
package optest

import (
	"context"
	"errors"
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
			where := ""
			synctest.Test(t, func(t *testing.T) { where = crash(t, open(t), place, deaths) })
			if t.Failed() {
				t.Fatalf("after %d deaths at place %d: %s", deaths, place, where)
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

// crash lets the worker die at the given place, counted from 0, as often as asked. It returns the place's name, or ""
// if the operation ended before it came to it.
func crash(t *testing.T, w World, place, deaths int) (where string) {
	t.Helper()
	w.Begin(t)
	for died := 0; ; died++ {
		ctx, kill := context.WithCancel(context.Background())
		var mu sync.Mutex
		met := 0
		killed := false
		hooks := operation.Hooks{Point: func(r operation.Record, name string) error {
			mu.Lock()
			defer mu.Unlock()
			if killed {
				return errKilled
			}
			if met++; died < deaths && met == place+1 {
				where, killed = r.Kind+": "+name, true
				kill()
				return errKilled
			}
			return nil
		}}
		ended := make(chan error, 1)
		go func() { ended <- w.Work(ctx, hooks) }()
		for waited := time.Duration(0); !w.Settled() && ctx.Err() == nil; waited += time.Second {
			if waited > patience {
				t.Errorf("the operation is stuck")
				kill()
			}
			time.Sleep(time.Second)
		}
		dead := ctx.Err() != nil
		kill()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
		if !dead || t.Failed() {
			break
		}
	}
	if err := w.Check(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	return where
}
