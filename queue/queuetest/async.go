package queuetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func asyncRows() []row {
	return []row{
		{
			name: "an async call returns at once",
			rule: "CallAsync sends m as Call does and returns at once. If it returns nil, done runs exactly once, on a goroutine of the bus, with what Call would have returned.",
			check: func(ctx context.Context, e *rig) error {
				ctx, cancel := context.WithTimeout(ctx, 3*e.Patience)
				defer cancel()
				if _, err := serve(e.far(), e.topic("later"), func(_ context.Context, m queue.Message) ([]byte, error) {
					<-e.gate
					return m.Body, nil
				}); err != nil {
					return err
				}
				runs, early := &tally{}, make(chan struct{})
				returned := async(func() {
					for n := range e.window() {
						_ = e.near().CallAsync(ctx, queue.Message{Topic: e.topic("later"), Body: fmt.Append(nil, n)}, func(answer []byte, err error) {
							select {
							case <-e.gate:
							default:
								close(early)
							}
							runs.add(fmt.Sprintf("%s %v", answer, err))
						})
					}
				})
				if err := e.wait("CallAsync returns while the handler runs", returned); err != nil {
					return err
				}
				if err := e.not("done ran before the handler returned", early); err != nil {
					return err
				}
				e.open()
				if err := e.until("all done functions run", func() bool { return runs.total() >= e.window() }); err != nil {
					return err
				}
				e.quiet()
				for n := range e.window() {
					if err := runs.each(1, fmt.Sprintf("%d <nil>", n)); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "an async call that can't be",
			rule: "If it returns an error, done never runs: what is known without waiting (InvalidArgument, ErrBacklog, ErrClosed, the error of a ctx that has ended, with most buses ErrNoListener) is returned so.",
			check: func(ctx context.Context, e *rig) error {
				if _, err := serve(e.far(), e.topic("here"), (&tally{}).handle); err != nil {
					return err
				}
				ended, cancel := context.WithCancel(ctx)
				cancel()
				ran := make(chan struct{}, 10)
				never := func([]byte, error) { ran <- struct{}{} }
				if err := e.near().CallAsync(ended, queue.Message{Topic: e.topic("here")}, never); err != context.Canceled {
					return fmt.Errorf("with a ctx that has ended: got error %v, want %v", err, context.Canceled)
				}
				err := e.near().CallAsync(ctx, queue.Message{Topic: "no topic"}, never)
				if err := is("to what is no topic", err, errdefs.ErrInvalidArgument); err != nil {
					return err
				}
				if err := e.not("done ran after CallAsync had returned an error", ran); err != nil {
					return err
				}
				unheard := make(chan done, 2)
				err = e.near().CallAsync(ctx, queue.Message{Topic: e.topic("nobody")}, func(answer []byte, err error) { unheard <- done{answer, err} })
				if err == nil {
					var d done
					if d, err = e.result(unheard); err != nil {
						return err
					}
					err = d.err
				}
				if err := is("to nobody", err, queue.ErrNoListener); err != nil {
					return err
				}
				e.quiet()
				if len(unheard) > 0 {
					return errors.New("done ran twice, or after CallAsync had returned an error")
				}
				return nil
			},
		},
		{
			name: "an async call ends with its ctx",
			rule: "It returns when ctx ends, with ctx's error, whatever the handler is doing",
			check: func(ctx context.Context, e *rig) error {
				if _, err := serve(e.far(), e.topic("hang"), func(context.Context, queue.Message) ([]byte, error) {
					<-e.gate
					return nil, nil
				}); err != nil {
					return err
				}
				return e.soon(func(d time.Duration) (bool, error) {
					short, cancel := context.WithTimeout(ctx, d)
					defer cancel()
					done, err := e.callAsync(short, e.near(), queue.Message{Topic: e.topic("hang")})
					switch {
					case errors.Is(err, context.DeadlineExceeded): // it had ended before
						return false, nil
					case err == nil && done.err != context.DeadlineExceeded:
						err = fmt.Errorf("done got error %v, want %v", done.err, context.DeadlineExceeded)
					}
					return true, err
				})
			},
		},
		{
			name: "done uses the bus",
			rule: "done may block and may use the bus",
			check: func(ctx context.Context, e *rig) error {
				ctx, cancel := context.WithTimeout(ctx, 3*e.Patience)
				defer cancel()
				if _, err := serve(e.far(), e.topic("echo"), (&tally{}).handle); err != nil {
					return err
				}
				m := queue.Message{Topic: e.topic("echo"), Body: []byte("x")}
				blocked, used := make(chan struct{}), make(chan error, 1)
				if err := e.near().CallAsync(ctx, m, func([]byte, error) {
					close(blocked)
					<-e.gate
				}); err != nil {
					return err
				}
				if err := e.wait("done runs", blocked); err != nil {
					return err
				}
				if err := e.near().CallAsync(ctx, m, func([]byte, error) {
					stop, err := e.near().Serve(e.topic("new"), (&tally{}).handle)
					if err != nil {
						used <- err
						return
					}
					defer stop()
					_, err = e.near().Call(ctx, queue.Message{Topic: e.topic("new")})
					used <- errors.Join(err, e.near().Cast(ctx, m), e.near().Fanout(ctx, m), e.near().CallAsync(ctx, m, func([]byte, error) {}))
				}); err != nil {
					return err
				}
				select {
				case err := <-used:
					return err
				case <-ctx.Done():
					return errors.New("a done function that uses the bus hangs")
				}
			},
		},
		{
			name:  "async calls are bounded",
			rule:  "the number of calls whose done has not returned is bounded, with ErrBacklog beyond",
			needs: func(e Env) bool { return e.Async > 0 },
			check: func(ctx context.Context, e *rig) error {
				ctx, cancel := context.WithTimeout(ctx, 10*e.Patience)
				defer cancel()
				if _, err := serve(e.far(), e.topic("echo"), (&tally{}).handle); err != nil {
					return err
				}
				m, runs := queue.Message{Topic: e.topic("echo")}, &tally{}
				waits := func([]byte, error) {
					runs.add("")
					<-e.gate
				}
				for n := range e.Async {
					if err := e.near().CallAsync(ctx, m, waits); err != nil {
						return fmt.Errorf("call %d of %d: %w", n+1, e.Async, err)
					}
					if err := e.until("done runs", func() bool { return runs.total() == n+1 }); err != nil {
						return err
					}
				}
				err := e.near().CallAsync(ctx, m, waits)
				if err := is(fmt.Sprintf("call %d", e.Async+1), err, queue.ErrBacklog); err != nil {
					return err
				}
				e.open()
				if err := e.until("there is room again", func() bool { return e.near().CallAsync(ctx, m, waits) == nil }); err != nil {
					return err
				}
				if err := e.until("done runs", func() bool { return runs.total() == e.Async+1 }); err != nil {
					return err
				}
				e.quiet()
				return runs.each(e.Async+1, "")
			},
		},
	}
}
