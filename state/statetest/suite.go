// Package statetest is the conformance suite of state.Log: a log is done when TestLog passes.
//
//	func TestLog(t *testing.T) {
//		statetest.TestLog(t, func(dir string) (statetest.Subject, error) {
//			return statetest.Subject{Log: memstate.New(memstate.Config{History: 8})}, nil
//		})
//	}
//
// Each sentence of the contract is a row; beside them the log is compared with a model, under random batches, and what it
// does under concurrent writers is checked for linearizability, by itself and below two stores.
package statetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Subject is a log under test. Have it remember few batches, 8 or so, if it can: the suite commits some dozens and expects
// followers that fell behind to be given a snapshot or what they missed, whichever the log can do.
type Subject struct {
	// Log is fresh and empty.
	Log state.Log
	// Reopen opens what Log has left behind; the suite has closed Log, or the log that Reopen returned before. Nil says
	// that the log is gone with its Close.
	Reopen func() (state.Log, error)
	// Gaps says that the log leaves out revisions. The suite then counts its batches, and the log must remember some hundred of
	// them for a follower from the last revision it saw.
	Gaps bool
}

// row is one sentence of the contract.
type row struct {
	name  string
	rule  string
	check func(ctx context.Context, b *bench) error
}

// bench is what a row works with.
type bench struct{ Subject }

// patience is how long one row may take. Nothing waits for it unless the log is broken.
const patience = 30 * time.Second

// TestLog runs the suite. open returns a fresh log; dir is an empty directory for it, which the suite removes.
func TestLog(t *testing.T, open func(dir string) (Subject, error)) {
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			if err := run(open, r, patience); err != nil {
				t.Errorf("%s: %v", r.rule, err)
			}
		})
	}
	t.Run("model", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			p := plans.Draw(rt, "plan")
			if err := run(open, p.row(), patience); err != nil {
				rt.Fatal(err)
			}
		})
	})
}

func rows() (all []row) {
	for _, some := range [][]row{commitRows(), guardRows(), followRows(), closeRows(), concurrentRows()} {
		all = append(all, some...)
	}
	return all
}

// run runs one row on a fresh log.
func run(open func(dir string) (Subject, error), r row, patience time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "statetest-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := open(dir)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := &bench{s}
	if s.Gaps {
		b.Log = newCounted(ctx, s.Log, nil)
	}
	defer func() { err = errors.Join(err, b.Log.Close()) }()
	return r.check(ctx, b)
}

// reopen closes the log and opens what it left. It returns false if nothing is left of such a log.
func (b *bench) reopen(ctx context.Context) (bool, error) {
	if b.Reopen == nil {
		return false, nil
	}
	if err := b.Log.Close(); err != nil {
		return true, err
	}
	log, err := b.Reopen()
	if err != nil {
		return true, fmt.Errorf("open again: %w", err)
	}
	if c, ok := b.Log.(*counted); ok {
		log = newCounted(ctx, log, c.revs)
	}
	b.Log = log
	return true, nil
}

// commit commits operations without guards.
func (b *bench) commit(ctx context.Context, ops ...state.Op) (state.Revision, error) {
	return b.Log.Commit(ctx, state.Batch{Ops: ops})
}

// fill commits n batches, each writing the same key and one of its own.
func (b *bench) fill(ctx context.Context, n int) error {
	for i := range n {
		if _, err := b.commit(ctx, set("shared", fmt.Sprint(i)), set(fmt.Sprint("own-", i), "x")); err != nil {
			return err
		}
	}
	return nil
}

func set(key, value string) state.Op { return state.Op{Key: key, Value: []byte(value)} }

func remove(key string) state.Op { return state.Op{Key: key, Delete: true} }

// class checks an error.
func class(what string, err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%s returned %v, want %v", what, err, want)
	}
	return nil
}
