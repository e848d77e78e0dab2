package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func serveRows() []row {
	return []row{
		{
			name: "served at once",
			rule: "When it returns, messages sent from now on reach it.",
			check: func(ctx context.Context, e *rig) error {
				for n := range 15 {
					topic, seen := e.topic(fmt.Sprint("now", n)), &tally{}
					stop, err := serve(e.far(), topic, seen.handle)
					if err != nil {
						return err
					}
					switch n % 3 {
					case 0:
						_, err = e.call(ctx, topic, "x")
					case 1:
						err = e.cast(ctx, topic, "x")
					case 2:
						err = e.near().Fanout(ctx, queue.Message{Topic: topic, Body: []byte("x")})
					}
					if err != nil {
						return fmt.Errorf("the first message: %w", err)
					}
					if err := e.until("the first message arrives", func() bool { return seen.of("x") == 1 }); err != nil {
						return err
					}
					stop()
				}
				return nil
			},
		},
		{
			name: "several at a time",
			rule: "h is called on goroutines of the bus, several at a time.",
			check: func(ctx context.Context, e *rig) error {
				var running, answered tally
				n := e.window()
				if _, err := serve(e.far(), e.topic("many"), func(context.Context, queue.Message) ([]byte, error) {
					running.add("")
					<-e.gate
					return nil, nil
				}); err != nil {
					return err
				}
				for range n {
					go func() {
						defer answered.add("")
						_, _ = e.call(ctx, e.topic("many"), "")
					}()
				}
				if err := e.until(fmt.Sprintf("%d handlers run at a time", n), func() bool { return running.total() == n }); err != nil {
					return err
				}
				e.open()
				return e.until("the calls return", func() bool { return answered.total() == n })
			},
		},
		{
			name: "the values of a context",
			rule: "Its context carries no values of the sender's context",
			check: func(ctx context.Context, e *rig) error {
				type key struct{}
				values := make(chan any, 10)
				if _, err := serve(e.far(), e.topic("values"), func(ctx context.Context, _ queue.Message) ([]byte, error) {
					_ = ctx.Done()
					values <- ctx.Value(key{})
					return nil, nil
				}); err != nil {
					return err
				}
				for _, try := range sends(e.near(), e.topic("values"), nil) {
					if err := try.send(context.WithValue(ctx, key{}, "leaks")); err != nil {
						return fmt.Errorf("%s: %w", try.method, err)
					}
					select {
					case v := <-values:
						if v != nil {
							return fmt.Errorf("%s: the handler's context has a value of the sender's", try.method)
						}
					case <-time.After(e.Patience):
						return fmt.Errorf("%s: the message does not arrive", try.method)
					}
				}
				return nil
			},
		},
		{
			name: "the end of a handler's context",
			rule: "it ends at the message's Deadline and when the bus is closed",
			check: func(ctx context.Context, e *rig) error {
				ends := make(chan error, 100)
				if _, err := serve(e.far(), e.topic("end"), func(ctx context.Context, m queue.Message) ([]byte, error) {
					if end, ok := ctx.Deadline(); !ok || !end.Equal(m.Deadline) {
						ends <- fmt.Errorf("the context's deadline is %v, the message's %v", end, m.Deadline)
						return nil, nil
					}
					select {
					case <-ctx.Done():
						if ends <- nil; time.Now().Before(m.Deadline) {
							ends <- errors.New("the context ended before the deadline")
						}
					case <-e.gate:
						ends <- errors.New("the context did not end")
					}
					return nil, nil
				}); err != nil {
					return err
				}
				for _, send := range []func(queue.Message) error{
					func(m queue.Message) error { return e.near().Cast(ctx, m) },
					func(m queue.Message) error { return e.near().Fanout(ctx, m) },
					func(m queue.Message) error {
						until, cancel := context.WithDeadline(ctx, m.Deadline)
						defer cancel()
						m.Deadline = time.Time{}
						_, err := e.near().Call(until, m)
						return err
					},
				} {
					if err := e.soon(func(d time.Duration) (bool, error) {
						err := send(queue.Message{Topic: e.topic("end"), Deadline: time.Now().Add(d)})
						if err != nil && err != context.DeadlineExceeded {
							return false, err
						}
						select {
						case err := <-ends:
							return true, err
						case <-time.After(2 * d): // it was late, and not handled
							return false, nil
						}
					}); err != nil {
						return fmt.Errorf("the end of the handler's context at the message's Deadline: %w", err)
					}
				}
				return nil
			},
		},
	}
}

func stopRows() []row {
	return []row{
		{
			name: "stop waits",
			rule: "stop makes the server take no more messages and returns when the running handlers have returned; it does not end their contexts.",
			check: func(ctx context.Context, e *rig) error {
				running, ended := make(chan error, 1), make(chan error, 1)
				seen := &tally{}
				stop, err := serve(e.far(), e.topic("stop"), func(ctx context.Context, m queue.Message) ([]byte, error) {
					if seen.add(string(m.Body)); string(m.Body) == "first" {
						running <- nil
						<-e.gate
						ended <- ctx.Err()
					}
					return m.Body, nil
				})
				if err != nil {
					return err
				}
				answers := make(chan error, 1)
				go func() {
					answer, err := e.call(ctx, e.topic("stop"), "first")
					if err == nil && answer != "first" {
						err = fmt.Errorf("the answer is %q", answer)
					}
					answers <- err
				}()
				select {
				case <-running:
				case <-time.After(e.Patience):
					return errors.New("the handler does not run")
				}
				first, second := async(stop), async(stop)
				if err := errors.Join(e.not("stop returned while a handler runs", first), e.not("a second stop returned while a handler runs", second)); err != nil {
					return err
				}
				if _, err := e.call(ctx, e.topic("stop"), "new"); !errors.Is(err, queue.ErrNoListener) {
					return fmt.Errorf("Call() to a server that stops: got error %v, want %q", err, queue.ErrNoListener)
				}
				e.open()
				if err := errors.Join(e.wait("stop returns", first), e.wait("the second stop returns", second)); err != nil {
					return err
				}
				select {
				case err := <-ended:
					if err != nil {
						return fmt.Errorf("stop ended the context of a running handler: %w", err)
					}
				default:
					return errors.New("stop returned before the handler")
				}
				if err := <-answers; err != nil {
					return fmt.Errorf("the call whose handler ran: %w", err)
				}
				return errors.Join(e.wait("a third stop returns", async(stop)), seen.each(0, "new"))
			},
		},
		{
			name: "what comes after stop",
			rule: "stop makes the server take no more messages",
			check: func(ctx context.Context, e *rig) error {
				first, second := &tally{}, &tally{}
				stop, err := serve(e.far(), e.topic("two"), first.handle)
				if err != nil {
					return err
				}
				if _, err := serve(e.near(), e.topic("two"), second.handle); err != nil {
					return err
				}
				stop()
				before := first.total()
				for n := range 20 {
					if _, err := e.call(ctx, e.topic("two"), fmt.Sprint(n)); err != nil {
						return err
					}
					if err := e.near().Fanout(ctx, queue.Message{Topic: e.topic("two"), Body: []byte("all")}); err != nil {
						return err
					}
					if err := e.until("the other server gets it", func() bool { return second.of("all") == n+1 }); err != nil {
						return err
					}
				}
				e.quiet()
				if first.total() != before {
					return errors.New("a server that has stopped got messages")
				}
				return nil
			},
		},
		{
			name:  "calls that wait for a server that stops",
			rule:  "Calls that no handler has begun go to another server of the topic or fail with ErrNoListener.",
			needs: func(e Env) bool { return e.Workers > 0 },
			check: func(ctx context.Context, e *rig) error {
				for _, others := range []bool{false, true} {
					topic := e.topic(fmt.Sprint("waits", others))
					seen, stop, err := e.busy(ctx, topic)
					if err != nil {
						return err
					}
					result := make(chan error, 1)
					go func() {
						_, err := e.call(ctx, topic, "waits")
						result <- err
					}()
					e.quiet()
					other := &tally{}
					if others {
						if _, err := serve(e.near(), topic, other.handle); err != nil {
							return err
						}
					}
					stopped := async(stop)
					select {
					case err := <-result:
						if err != nil || !others {
							if err := is("the call", err, queue.ErrNoListener); err != nil {
								return err
							}
						}
						if err == nil && other.of("waits") != 1 {
							return errors.New("the call is answered, and not by the other server")
						}
					case <-time.After(e.Patience / 2):
						return errors.New("the call goes on when the server that it waits for has stopped")
					}
					if e.open(); e.wait("stop returns", stopped) != nil {
						return errors.New("stop does not return")
					}
					if seen.of("waits") > 0 {
						return errors.New("the server handled the call after it had stopped")
					}
					e.gate, e.once = make(chan struct{}), sync.Once{}
				}
				return nil
			},
		},
	}
}
