package queuetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func closeRows() []row {
	return []row{
		{
			name: "close ends servers",
			rule: "Close ends all servers of this bus value and the contexts of their handlers",
			check: func(ctx context.Context, e *rig) error {
				running, ended := make(chan struct{}), make(chan error, 1)
				stop, err := serve(e.far(), e.topic("close"), func(ctx context.Context, _ queue.Message) ([]byte, error) {
					close(running)
					select {
					case <-ctx.Done():
						ended <- nil
					case <-time.After(e.Patience):
						ended <- errors.New("the handler's context did not end")
					}
					return nil, nil
				})
				if err != nil {
					return err
				}
				if err := e.cast(ctx, e.topic("close"), ""); err != nil {
					return err
				}
				if err := e.wait("the handler runs", running); err != nil {
					return err
				}
				if err := e.far().Close(); err != nil {
					return fmt.Errorf("Close(): %w", err)
				}
				if err := errors.Join(<-ended, e.wait("stop after Close returns", async(stop))); err != nil || len(e.Buses) == 1 {
					return err
				}
				_, err = e.call(ctx, e.topic("close"), "")
				return is("Call of the other bus", err, queue.ErrNoListener)
			},
		},
		{
			name: "close fails calls",
			rule: "fails the calls that wait with ErrClosed",
			check: func(ctx context.Context, e *rig) error {
				ctx, cancel := context.WithTimeout(ctx, 3*e.Patience)
				defer cancel()
				running := make(chan struct{}, 2)
				if _, err := serve(e.far(), e.topic("hang"), func(ctx context.Context, _ queue.Message) ([]byte, error) {
					running <- struct{}{}
					select {
					case <-ctx.Done():
					case <-e.gate:
					}
					return []byte("too late"), nil
				}); err != nil {
					return err
				}
				results := make(chan error, 2)
				go func() {
					_, err := e.near().Call(ctx, queue.Message{Topic: e.topic("hang")})
					results <- err
				}()
				if err := e.near().CallAsync(ctx, queue.Message{Topic: e.topic("hang")}, func(_ []byte, err error) { results <- err }); err != nil {
					return err
				}
				if err := errors.Join(e.wait("a handler runs", running), e.wait("both handlers run", running)); err != nil {
					return err
				}
				if err := e.near().Close(); err != nil {
					return fmt.Errorf("Close(): %w", err)
				}
				for range 2 {
					select {
					case err := <-results:
						if err := is("a call that waits", err, queue.ErrClosed); err != nil {
							return err
						}
					case <-time.After(e.Patience):
						return errors.New("a call waits after Close")
					}
				}
				return nil
			},
		},
		{
			name: "close waits",
			rule: "returns when the running handlers and done functions have returned",
			check: func(ctx context.Context, e *rig) error {
				ctx, cancel := context.WithTimeout(ctx, 10*e.Patience)
				defer cancel()
				stubborn := make(chan struct{}, 1)
				if _, err := serve(e.far(), e.topic("echo"), (&tally{}).handle); err != nil {
					return err
				}
				if err := e.near().CallAsync(ctx, queue.Message{Topic: e.topic("echo")}, func([]byte, error) {
					stubborn <- struct{}{}
					<-e.gate
				}); err != nil {
					return err
				}
				if err := e.wait("done runs", stubborn); err != nil {
					return err
				}
				if _, err := serve(e.far(), e.topic("stubborn"), func(context.Context, queue.Message) ([]byte, error) {
					stubborn <- struct{}{}
					<-e.gate
					return nil, nil
				}); err != nil {
					return err
				}
				if err := e.cast(ctx, e.topic("stubborn"), ""); err != nil {
					return err
				}
				if err := e.wait("the handler runs", stubborn); err != nil {
					return err
				}
				first, second, other := async(func() { _ = e.near().Close() }), async(func() { _ = e.near().Close() }), async(func() { _ = e.far().Close() })
				if err := errors.Join(e.not("Close returned while a done function runs", first),
					e.not("a second Close returned while a done function runs", second),
					e.not("Close returned while a handler runs", other)); err != nil {
					return err
				}
				e.open()
				return errors.Join(e.wait("Close returns", first), e.wait("the second Close returns", second), e.wait("Close returns", other))
			},
		},
		{
			name: "after close",
			rule: "Everything after it fails with ErrClosed. A second Close returns nil.",
			check: func(ctx context.Context, e *rig) error {
				ctx, cancel := context.WithTimeout(ctx, e.Patience)
				defer cancel()
				for _, bus := range []queue.Bus{e.near(), e.far()} {
					if _, err := serve(bus, e.topic("closed"), (&tally{}).handle); err != nil {
						return err
					}
				}
				if err := errors.Join(e.near().Close(), e.near().Close()); err != nil {
					return fmt.Errorf("Close(): %w", err)
				}
				for _, topic := range []string{e.topic("closed"), e.topic("nobody")} {
					for _, try := range sends(e.near(), topic, nil) {
						if err := is(try.method, try.send(ctx), queue.ErrClosed); err != nil {
							return err
						}
					}
				}
				_, err := e.near().Serve(e.topic("closed"), (&tally{}).handle)
				return is("Serve", err, queue.ErrClosed)
			},
		},
		{
			name:  "other buses go on",
			rule:  "Close ends all servers of this bus value",
			needs: func(e Env) bool { return len(e.Buses) > 1 },
			check: func(ctx context.Context, e *rig) error {
				seen := &tally{}
				for _, bus := range e.Buses {
					if _, err := serve(bus, e.topic("on"), seen.handle); err != nil {
						return err
					}
				}
				if err := e.near().Close(); err != nil {
					return fmt.Errorf("Close(): %w", err)
				}
				for n := range 20 {
					if answer, err := e.callFrom(ctx, e.far(), e.topic("on"), fmt.Sprint(n)); err != nil || answer != fmt.Sprint(n) {
						return fmt.Errorf("Call() of another bus = %q, %v", answer, err)
					}
				}
				if err := e.far().Fanout(ctx, queue.Message{Topic: e.topic("on"), Body: []byte("all")}); err != nil {
					return err
				}
				left := len(e.Buses) - 1
				if err := e.until("the servers that are left get a fanout", func() bool { return seen.of("all") >= left }); err != nil {
					return err
				}
				e.quiet()
				return seen.each(left, "all")
			},
		},
	}
}
