package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// rig is an Env during one row.
type rig struct {
	Env
	prefix string // of the row's topics: what an earlier row left behind is elsewhere

	gate chan struct{} // handlers that block wait for it
	once sync.Once
}

// open lets go on what waits at the gate.
func (e *rig) open() { e.once.Do(func() { close(e.gate) }) }

// clean closes the buses.
func (e *rig) clean() error {
	e.open()
	closed := make(chan error, len(e.Buses))
	for _, bus := range e.Buses {
		go func() { closed <- bus.Close() }()
	}
	var all error
	for range e.Buses {
		select {
		case err := <-closed:
			all = errors.Join(all, err)
		case <-time.After(e.Patience):
			return errors.Join(all, fmt.Errorf("Close() has not returned in %s", e.Patience))
		}
	}
	return all
}

// near is the bus that sends, far the one that serves: the same if there is one.
func (e *rig) near() queue.Bus { return e.Buses[0] }
func (e *rig) far() queue.Bus  { return e.Buses[len(e.Buses)-1] }

// topic is one of this row's.
func (e *rig) topic(name string) string { return e.prefix + "." + name }

// window is how many messages may be under way at once to one server without any being refused.
func (e *rig) window() int { return max(e.Workers, 2) }

// serve adds a server to a bus.
func serve(bus queue.Bus, topic string, h queue.Handler) (stop func(), err error) {
	if stop, err = bus.Serve(topic, h); err != nil {
		return nil, fmt.Errorf("Serve(%q): %w", topic, err)
	}
	return stop, nil
}

// call calls from the near bus.
func (e *rig) call(ctx context.Context, topic, body string) (string, error) {
	return e.callFrom(ctx, e.near(), topic, body)
}

func (e *rig) callFrom(ctx context.Context, bus queue.Bus, topic, body string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Patience)
	defer cancel()
	answer, err := bus.Call(ctx, queue.Message{Topic: topic, Body: []byte(body)})
	return string(answer), err
}

// cast casts from the near bus.
func (e *rig) cast(ctx context.Context, topic, body string) error {
	return e.near().Cast(ctx, queue.Message{Topic: topic, Body: []byte(body)})
}

// wait waits for ready.
func (e *rig) wait(what string, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-time.After(e.Patience):
		return fmt.Errorf("%s: not within %s", what, e.Patience)
	}
}

// until waits for ok to hold.
func (e *rig) until(what string, ok func() bool) error {
	for end := time.Now().Add(e.Patience); !ok(); {
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %s", what, e.Patience)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// not waits for what must not happen.
func (e *rig) not(what string, happened <-chan struct{}) error {
	select {
	case <-happened:
		return errors.New(what)
	case <-time.After(e.Quiet):
		return nil
	}
}

// soon tries with longer and longer times, until one is long enough for what a slow machine has to do in it.
func (e *rig) soon(try func(d time.Duration) (enough bool, err error)) error {
	for d := e.Quiet; ; d *= 2 {
		if enough, err := try(d); enough || err != nil {
			return err
		}
		if d >= e.Patience/4 {
			return fmt.Errorf("it does not come to this within %s", d)
		}
	}
}

// quiet gives time to what must not happen.
func (e *rig) quiet() { time.Sleep(e.Quiet) }

// async runs fn and returns what is closed when it has returned.
func async(fn func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	return done
}

// busy serves a topic on the far bus with handlers that all wait at the gate, and returns when all of them do. Messages
// that come after are added to the tally once the gate is open.
func (e *rig) busy(ctx context.Context, topic string) (*tally, func(), error) {
	seen := &tally{}
	stop, err := serve(e.far(), topic, func(_ context.Context, m queue.Message) ([]byte, error) {
		seen.add(string(m.Body))
		<-e.gate
		return m.Body, nil
	})
	if err != nil {
		return nil, nil, err
	}
	for n := range e.Workers {
		if err := e.cast(ctx, topic, "busy"); err != nil {
			return nil, nil, fmt.Errorf("cast %d to %d idle workers: %w", n+1, e.Workers, err)
		}
	}
	return seen, stop, e.until("all workers are busy", func() bool { return seen.of("busy") == e.Workers })
}

// tally counts what handlers have seen.
type tally struct {
	mu   sync.Mutex
	seen map[string]int
	all  int
}

func (t *tally) add(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen == nil {
		t.seen = map[string]int{}
	}
	t.seen[key]++
	t.all++
}

func (t *tally) of(key string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen[key]
}

func (t *tally) total() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

// each checks that every key was seen as often as wanted.
func (t *tally) each(want int, keys ...string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range keys {
		if t.seen[key] != want {
			return fmt.Errorf("%q was handled %d times, want %d", key, t.seen[key], want)
		}
	}
	return nil
}

// handle counts a message's body and answers with it.
func (t *tally) handle(_ context.Context, m queue.Message) ([]byte, error) {
	t.add(string(m.Body))
	return m.Body, nil
}

// is checks that err is of a class, or a certain error.
func is(what string, err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%s: got error %v, want %q", what, err, want)
	}
	return nil
}

// done is what a done function got.
type done struct {
	answer []byte
	err    error
}

// callAsync calls and waits for what done gets.
func (e *rig) callAsync(ctx context.Context, bus queue.Bus, m queue.Message) (done, error) {
	got := make(chan done, 1)
	if err := bus.CallAsync(ctx, m, func(answer []byte, err error) { got <- done{answer, err} }); err != nil {
		return done{}, fmt.Errorf("CallAsync: %w", err)
	}
	return e.result(got)
}

func (e *rig) result(got <-chan done) (done, error) {
	select {
	case d := <-got:
		return d, nil
	case <-time.After(e.Patience):
		return done{}, fmt.Errorf("done has not run in %s", e.Patience)
	}
}
