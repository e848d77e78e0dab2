package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func useRows() []row {
	return []row{
		{
			name: "from handlers",
			rule: "All methods are safe for concurrent use, also from handlers",
			check: func(ctx context.Context, e *rig) error {
				seen := &tally{}
				if _, err := serve(e.near(), e.topic("inner"), seen.handle); err != nil {
					return err
				}
				if _, err := serve(e.far(), e.topic("outer"), func(ctx context.Context, m queue.Message) ([]byte, error) {
					inner := queue.Message{Topic: e.topic("inner"), Body: m.Body}
					stop, err := e.far().Serve(e.topic("more"), seen.handle)
					if err != nil {
						return nil, err
					}
					stop()
					return m.Body, errors.Join(e.far().Cast(ctx, inner), e.far().Fanout(ctx, inner),
						e.far().CallAsync(context.WithoutCancel(ctx), inner, func([]byte, error) {}),
						func() error { _, err := e.far().Call(ctx, inner); return err }())
				}); err != nil {
					return err
				}
				if answer, err := e.call(ctx, e.topic("outer"), "x"); err != nil || answer != "x" {
					return fmt.Errorf("Call() = %q, %v", answer, err)
				}
				return e.until("what the handler sent arrives", func() bool { return seen.of("x") == 4 })
			},
		},
		{
			name:  "all methods at once",
			rule:  "All methods are safe for concurrent use, also from handlers",
			check: allAtOnce,
		},
		{
			name: "typed messages",
			rule: "Most code uses [Call], [Cast], [Fanout], [CallAsync] and [Handle], which carry Go values as JSON",
			check: func(ctx context.Context, e *rig) error {
				type request struct {
					Text string
					Next *request
				}
				seen := &tally{}
				if _, err := serve(e.far(), e.topic("typed"), queue.Handle(func(ctx context.Context, r request) (request, error) {
					o := queue.FromContext(ctx)
					seen.add(r.Text + string(o.Caller) + o.Trace)
					return request{Text: "ö", Next: &r}, nil
				})); err != nil {
					return err
				}
				ctx, cancel := context.WithTimeout(queue.NewContext(ctx, queue.Origin{Caller: []byte("who"), Trace: "trace"}), e.Patience)
				defer cancel()
				ask := request{Text: "\x00<ü>"}
				if r, err := queue.Call[request, request](ctx, e.near(), e.topic("typed"), ask); err != nil || r.Text != "ö" || *r.Next != ask {
					return fmt.Errorf("Call() = %+v, %v", r, err)
				}
				answered := make(chan error, 1)
				if err := queue.CallAsync(ctx, e.near(), e.topic("typed"), ask, func(r request, err error) { answered <- err }); err != nil {
					return err
				}
				if err := errors.Join(queue.Cast(ctx, e.near(), e.topic("typed"), ask), queue.Fanout(ctx, e.near(), e.topic("typed"), ask)); err != nil {
					return err
				}
				select {
				case err := <-answered:
					if err != nil {
						return fmt.Errorf("CallAsync: %w", err)
					}
				case <-ctx.Done():
					return errors.New("CallAsync is not answered")
				}
				if err := e.until("all four arrive", func() bool { return seen.of(ask.Text+"whotrace") >= 4 }); err != nil {
					return err
				}
				e.quiet()
				return seen.each(4, ask.Text+"whotrace")
			},
		},
	}
}

// allAtOnce is for the race detector: what each method does by itself, other rows check.
func allAtOnce(ctx context.Context, e *rig) error {
	ctx, cancel := context.WithTimeout(ctx, e.Patience)
	defer cancel()
	if _, err := serve(e.far(), e.topic("all"), (&tally{}).handle); err != nil {
		return err
	}
	var wg sync.WaitGroup
	var asked, answered tally
	failed := make(chan error, 1000)
	for n := range 4 {
		bus, m := e.Buses[n%len(e.Buses)], queue.Message{Topic: e.topic("all"), Body: []byte("x")}
		for _, fn := range []func() error{
			func() error { return bus.Cast(ctx, m) },
			func() error { return bus.Fanout(ctx, m) },
			func() error { _, err := bus.Call(ctx, m); return err },
			func() error {
				err := bus.CallAsync(ctx, m, func([]byte, error) { answered.add("") })
				if err == nil {
					asked.add("")
				}
				return err
			},
			func() error {
				stop, err := bus.Serve(m.Topic, (&tally{}).handle)
				if err == nil {
					time.Sleep(time.Millisecond)
					stop()
				}
				return err
			},
		} {
			wg.Go(func() {
				for range 20 {
					// Servers end all the time, and a bus may lose a message when one does: its call then ends with ctx.
					if err := fn(); err != nil && !errors.Is(err, queue.ErrBacklog) && !errors.Is(err, context.DeadlineExceeded) {
						failed <- err
					}
				}
			})
		}
	}
	wg.Wait() // each is bounded by ctx
	if err := e.until("all done functions run", func() bool { return answered.total() >= asked.total() }); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}
