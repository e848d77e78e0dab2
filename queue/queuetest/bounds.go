package queuetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func boundRows() []row {
	filled := func(e Env) bool { return e.Workers > 0 && e.Backlog > 0 }
	return []row{
		{
			name:  "workers",
			rule:  "A server handles a bounded number of messages at a time",
			needs: func(e Env) bool { return e.Workers > 0 },
			check: func(ctx context.Context, e *rig) error {
				var now, most atomic.Int64
				seen := &tally{}
				if _, err := serve(e.far(), e.topic("work"), func(ctx context.Context, m queue.Message) ([]byte, error) {
					n := now.Add(1)
					for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
					}
					time.Sleep(time.Millisecond)
					now.Add(-1)
					return seen.handle(ctx, m)
				}); err != nil {
					return err
				}
				sent := 0
				for range 10 {
					for range 2 * e.Workers {
						if err := e.cast(ctx, e.topic("work"), "x"); err == nil {
							sent++
						} else if err := is("Cast", err, queue.ErrBacklog); err != nil {
							return err
						}
					}
					if err := e.until("the messages are handled", func() bool { return seen.total() >= sent }); err != nil {
						return err
					}
				}
				if most.Load() > int64(e.Workers) {
					return fmt.Errorf("%d messages were handled at a time, at most %d may be", most.Load(), e.Workers)
				}
				return nil
			},
		},
		{
			name:  "the backlog of casts",
			rule:  "and a bounded number more wait for it; over that, sending fails with ErrBacklog (a bus that can't know this drops the message)",
			needs: filled,
			check: func(ctx context.Context, e *rig) error {
				seen, _, err := e.busy(ctx, e.topic("full"))
				if err != nil {
					return err
				}
				taken, refused := 0, 0
				for range 4*e.Backlog + 4*e.Workers {
					if err := e.cast(ctx, e.topic("full"), "waits"); err == nil {
						taken++
					} else if err := is("Cast to a full backlog", err, queue.ErrBacklog); err != nil {
						return err
					} else {
						refused++
					}
				}
				switch {
				case e.Knows.CastBacklog && taken > e.Backlog:
					return fmt.Errorf("the bus has taken %d messages, of which at most %d may wait", taken, e.Backlog)
				case !e.Knows.CastBacklog && refused > 0:
					return errors.New("the bus knows that its backlog is full: set Knows.CastBacklog")
				case taken == 0:
					return errors.New("no message may wait")
				}
				e.quiet()
				e.open()
				want := min(taken, e.Backlog)
				if e.Knows.CastBacklog {
					if err := e.until(fmt.Sprintf("%d messages that wait are handled", want), func() bool { return seen.of("waits") >= want }); err != nil {
						return err
					}
				}
				e.quiet()
				if got := seen.of("waits"); got > want || got == 0 {
					return fmt.Errorf("%d messages waited, at most %d may", got, want)
				}
				return nil
			},
		},
		{
			name:  "the backlog of calls",
			rule:  "Nothing grows without limit.",
			needs: filled,
			check: func(ctx context.Context, e *rig) error {
				seen, _, err := e.busy(ctx, e.topic("full"))
				if err != nil {
					return err
				}
				calls := 3*e.Backlog + 2*e.Workers
				var answered, refused, other atomic.Int64
				var wg sync.WaitGroup
				until, cancel := context.WithCancel(ctx)
				defer cancel()
				for range calls {
					wg.Go(func() {
						_, err := e.call(until, e.topic("full"), "waits")
						switch {
						case err == nil:
							answered.Add(1)
						case errors.Is(err, queue.ErrBacklog):
							refused.Add(1)
						default:
							other.Add(1)
						}
					})
				}
				if e.Knows.CallBacklog {
					if err := e.until("calls over the backlog fail with ErrBacklog", func() bool { return int(refused.Load()) >= calls-e.Backlog }); err != nil {
						return err
					}
				}
				e.quiet()
				if e.open(); !e.Knows.CallBacklog {
					e.quiet()
					cancel()
				}
				if err := e.wait("the calls return", async(wg.Wait)); err != nil {
					return err
				}
				if got := seen.of("waits"); got > e.Backlog || int(answered.Load()) > got {
					return fmt.Errorf("%d calls waited, at most %d may; %d were answered", got, e.Backlog, answered.Load())
				}
				if e.Knows.CallBacklog && other.Load() > 0 {
					return fmt.Errorf("%d calls failed otherwise than with ErrBacklog", other.Load())
				}
				if answer, err := e.call(ctx, e.topic("full"), "after"); err != nil || answer != "after" {
					return fmt.Errorf("Call() when there is room again = %q, %v", answer, err)
				}
				return nil
			},
		},
		{
			name: "the largest body and answer",
			rule: "A body and an answer have at most [MaxBody] bytes.",
			check: func(ctx context.Context, e *rig) error {
				if _, err := serve(e.far(), e.topic("big"), func(_ context.Context, m queue.Message) ([]byte, error) {
					if len(m.Body) == 0 {
						return make([]byte, queue.MaxBody+1), nil
					}
					return m.Body, nil
				}); err != nil {
					return err
				}
				body := bytes.Repeat([]byte{0xf0, 'x'}, queue.MaxBody/2)
				answer, err := e.call(ctx, e.topic("big"), string(body))
				if err != nil || answer != string(body) {
					return fmt.Errorf("%d bytes came back as %d (error %v)", len(body), len(answer), err)
				}
				_, err = e.call(ctx, e.topic("big"), "")
				return is("Call for an answer over the limit", err, errdefs.ErrInternal)
			},
		},
		{
			name:  "a call without a deadline",
			rule:  "a call whose ctx has no deadline ends after a time that the bus sets, with context.DeadlineExceeded",
			needs: func(e Env) bool { return e.CallTimeout > 0 },
			check: func(ctx context.Context, e *rig) error {
				ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
				defer cancel()
				ends := make(chan error, 4)
				if _, err := serve(e.far(), e.topic("ever"), func(ctx context.Context, m queue.Message) ([]byte, error) {
					<-e.gate
					return nil, nil
				}); err != nil {
					return err
				}
				start := time.Now()
				go func() {
					_, err := e.near().Call(ctx, queue.Message{Topic: e.topic("ever")})
					ends <- err
				}()
				if err := e.near().CallAsync(ctx, queue.Message{Topic: e.topic("ever")}, func(_ []byte, err error) { ends <- err }); err != nil {
					return err
				}
				for range 2 {
					select {
					case err := <-ends:
						if err != context.DeadlineExceeded {
							return fmt.Errorf("got error %v, want %v", err, context.DeadlineExceeded)
						}
						if took := time.Since(start); took < e.CallTimeout*9/10 {
							return fmt.Errorf("the call ended after %s, it may take %s", took, e.CallTimeout)
						}
					case <-time.After(e.CallTimeout + e.Patience):
						return fmt.Errorf("the call goes on after %s, it may take %s", time.Since(start), e.CallTimeout)
					}
				}
				return nil
			},
		},
	}
}
