package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func callRows() []row {
	return []row{
		{
			name: "answers",
			rule: "Call sends m to one server of m.Topic and returns its answer.",
			check: func(ctx context.Context, e *rig) error {
				if _, err := serve(e.far(), e.topic("echo"), (&tally{}).handle); err != nil {
					return err
				}
				var wg sync.WaitGroup
				failed := make(chan error, 100)
				for n := range e.window() { // each call gets its own answer and no other's
					bus := e.Buses[n%len(e.Buses)]
					wg.Go(func() {
						for i := range 20 {
							want := fmt.Sprintf("%d/%d", n, i)
							if answer, err := e.callFrom(ctx, bus, e.topic("echo"), want); err != nil || answer != want {
								failed <- fmt.Errorf("Call(%q) = %q, %v", want, answer, err)
								return
							}
						}
					})
				}
				wg.Wait()
				select {
				case err := <-failed:
					return err
				default:
				}
				if answer, err := e.call(ctx, e.topic("echo"), ""); err != nil || answer != "" {
					return fmt.Errorf("an empty answer came out as %q, %v", answer, err)
				}
				return nil
			},
		},
		{
			name: "a call that nobody serves",
			rule: "With no server it fails at once with ErrNoListener.",
			check: func(ctx context.Context, e *rig) error {
				unheard := func() error {
					start := time.Now()
					_, err := e.call(ctx, e.topic("nobody"), "")
					if err := is("Call", err, queue.ErrNoListener); err != nil {
						return err
					}
					if took := time.Since(start); took > e.Patience/2 {
						return fmt.Errorf("it took %s to find that nobody serves", took)
					}
					return nil
				}
				if err := unheard(); err != nil {
					return err
				}
				stop, err := serve(e.far(), e.topic("nobody"), (&tally{}).handle)
				if err != nil {
					return err
				}
				other, err := serve(e.near(), e.topic("nobody"), (&tally{}).handle)
				if err != nil {
					return err
				}
				stop()
				if _, err := e.call(ctx, e.topic("nobody"), ""); err != nil {
					return fmt.Errorf("one of two servers has stopped: %w", err)
				}
				other()
				if err := unheard(); err != nil {
					return fmt.Errorf("the last server has stopped: %w", err)
				}
				return nil
			},
		},
		{
			name: "a call ends with its ctx",
			rule: "It returns when ctx ends, with ctx's error, whatever the handler is doing",
			check: func(ctx context.Context, e *rig) error {
				var ran atomic.Int64
				if _, err := serve(e.far(), e.topic("hang"), func(context.Context, queue.Message) ([]byte, error) {
					ran.Add(1)
					<-e.gate
					return nil, nil
				}); err != nil {
					return err
				}
				ends := func(until context.Context, want error, before func() error) error {
					ended := make(chan error, 1)
					go func() {
						_, err := e.near().Call(until, queue.Message{Topic: e.topic("hang")})
						ended <- err
					}()
					if err := before(); err != nil {
						return err
					}
					select {
					case err := <-ended:
						if err != want {
							return fmt.Errorf("got error %v, want %v", err, want)
						}
						return nil
					case <-time.After(e.Patience):
						return errors.New("Call() goes on after its ctx has ended")
					}
				}
				until, cancel := context.WithCancel(ctx)
				defer cancel()
				if err := ends(until, context.Canceled, func() error {
					defer cancel()
					return e.until("the handler runs", func() bool { return ran.Load() == 1 })
				}); err != nil {
					return err
				}
				return e.soon(func(d time.Duration) (bool, error) {
					until, cancel := context.WithTimeout(ctx, d)
					defer cancel()
					err := ends(until, context.DeadlineExceeded, func() error { return nil })
					return ran.Load() > 1, err
				})
			},
		},
		{
			name:  "a caller that has gone",
			rule:  "a bus that knows that nobody waits for the answer any more may end it earlier",
			needs: func(e Env) bool { return e.Knows.Gone },
			check: func(ctx context.Context, e *rig) error {
				running, ended := make(chan struct{}), make(chan struct{})
				if _, err := serve(e.far(), e.topic("gone"), func(ctx context.Context, _ queue.Message) ([]byte, error) {
					close(running)
					select {
					case <-ctx.Done():
						close(ended)
					case <-e.gate:
					}
					return nil, nil
				}); err != nil {
					return err
				}
				until, cancel := context.WithCancel(ctx)
				defer cancel()
				returned := async(func() { _, _ = e.near().Call(until, queue.Message{Topic: e.topic("gone")}) })
				if err := e.wait("the handler runs", running); err != nil {
					return err
				}
				if err := e.not("the handler's context ended while the caller waits", ended); err != nil {
					return err
				}
				cancel()
				return errors.Join(e.wait("Call returns", returned), e.wait("the handler's context ends", ended))
			},
		},
	}
}
