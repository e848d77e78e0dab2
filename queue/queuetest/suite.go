// Package queuetest checks buses against the contract of [queue.Bus].
//
// A bus's own test calls [TestBus]; a failure prints the sentence of the contract that does not hold:
//
//	func TestContract(t *testing.T) {
//		queuetest.TestBus(t, func(t *testing.T) queuetest.Env {
//			return queuetest.Env{Buses: []queue.Bus{connect(t), connect(t)}, Workers: 4, Backlog: 8}
//		})
//	}
//
// The contract leaves room for what a bus can know. [Knows] says what this one does, and the suite holds it to that.
package queuetest

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// Env is a transport in calm (nothing fails, nobody else sends on it), and buses that use it.
type Env struct {
	// Buses reach each other's servers. With several the suite serves on one and sends from another, as between
	// processes; with one it does both on that. They must be new, and the suite closes them. Required.
	Buses []queue.Bus

	// How the buses are set. They should be small: the suite fills them. What a row needs to know and is 0 leaves it out.
	Workers     int           // messages that one server handles at a time; from 2
	Backlog     int           // messages that wait for one topic or server, at most; at least Workers
	Async       int           // CallAsync calls whose done function has not returned
	CallTimeout time.Duration // how long a call may take whose ctx has no deadline

	Patience time.Duration // the longest that something may take that must happen; 0: 10 s
	Quiet    time.Duration // how long the suite waits for what must not happen; 0: 50 ms

	// Sever takes the network from all buses until they are closed. nil: there is none.
	Sever func()

	// Barred returns a new bus on the same transport, as a user whom that lets neither send nor serve. The suite closes it. nil:
	// there are no users.
	Barred func() queue.Bus

	Knows Knows
}

// Knows says what a bus can tell where the contract lets it be silent.
type Knows struct {
	Lost          bool // Cast returns ErrNoListener where nobody serves; otherwise it returns nil there
	Kept          bool // a message that is cast where nobody serves waits for a server
	CastBacklog   bool // Cast returns ErrBacklog where the backlog is full; otherwise it returns nil there
	CallBacklog   bool // Call fails with ErrBacklog then; otherwise it waits until its ctx ends
	FanoutBacklog bool // Fanout returns ErrBacklog if a server missed the message; otherwise it returns nil
	Gone          bool // a handler's context ends when its caller's does
}

// TestBus runs the suite. Each row calls open for buses of its own.
func TestBus(t *testing.T, open func(t *testing.T) Env) {
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) { r.test(t, open(t)) })
	}
}

// TestBusInBubble runs the suite with each row, and its open, in a bubble of [synctest]: waiting costs no time and is exact. It
// is for buses without input and output.
func TestBusInBubble(t *testing.T, open func(t *testing.T) Env) {
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { r.test(t, open(t)) })
		})
	}
}

// row checks one sentence of the contract.
type row struct {
	name  string
	rule  string         // as it is in package queue
	needs func(Env) bool // whether the row can run; nil: always
	check func(ctx context.Context, e *rig) error
}

func rows() []row {
	var all []row
	for _, part := range [][]row{topicRows(), deliveryRows(), envelopeRows(), errorRows(), boundRows(), useRows(),
		castRows(), callRows(), asyncRows(), fanoutRows(), serveRows(), stopRows(), closeRows()} {
		all = append(all, part...)
	}
	return all
}

func (r row) test(t *testing.T, env Env) {
	if err := r.run(t.Context(), env); errors.Is(err, errLeftOut) {
		t.Skip(err)
	} else if err != nil {
		t.Errorf("contract: %q\n%v", r.rule, err)
	}
}

var errLeftOut = errors.New("the environment does not say what this row needs to know")

func (r row) run(ctx context.Context, env Env) (err error) {
	if env.Patience == 0 {
		env.Patience = 10 * time.Second
	}
	if env.Quiet == 0 {
		env.Quiet = 50 * time.Millisecond
	}
	e := &rig{Env: env, gate: make(chan struct{}), prefix: "t" + rand.Text()}
	defer func() { err = errors.Join(err, e.clean()) }()
	if len(env.Buses) == 0 {
		return errors.New("Env.Buses is empty")
	}
	if r.needs != nil && !r.needs(env) {
		return errLeftOut
	}
	ctx, cancel := context.WithTimeout(ctx, 20*env.Patience)
	defer cancel()
	return r.check(ctx, e)
}
