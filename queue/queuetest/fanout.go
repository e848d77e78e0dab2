package queuetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func fanoutRows() []row {
	return []row{
		{
			name: "fanout reaches each",
			rule: "Fanout sends m to every server that m.Topic has now, on any host, and does not wait for them.",
			check: func(ctx context.Context, e *rig) error {
				var all []*tally
				for _, bus := range append(e.Buses, e.Buses...) {
					seen := &tally{}
					if _, err := serve(bus, e.topic("each"), func(ctx context.Context, m queue.Message) ([]byte, error) {
						<-e.gate
						return seen.handle(ctx, m)
					}); err != nil {
						return err
					}
					all = append(all, seen)
				}
				left := &tally{}
				stop, err := serve(e.far(), e.topic("each"), left.handle)
				if err != nil {
					return err
				}
				stop()
				const sent = 2
				for n := range sent {
					if err := e.wait("Fanout returns while the handlers run", async(func() {
						err = e.near().Fanout(ctx, queue.Message{Topic: e.topic("each"), Body: fmt.Append(nil, n)})
					})); err != nil {
						return err
					}
					if err != nil {
						return fmt.Errorf("Fanout(): %w", err)
					}
				}
				e.open()
				for n, seen := range all {
					if err := e.until(fmt.Sprintf("server %d of %d gets all", n+1, len(all)), func() bool { return seen.total() >= sent }); err != nil {
						return err
					}
				}
				e.quiet()
				for _, seen := range all {
					if err := seen.each(1, "0", "1"); err != nil {
						return err
					}
				}
				if left.total() > 0 {
					return errors.New("a server that has stopped got the message")
				}
				return nil
			},
		},
		{
			name: "fanout to nobody",
			rule: "No server at all is success.",
			check: func(ctx context.Context, e *rig) error {
				topic := e.topic("nobody")
				if err := e.near().Fanout(ctx, queue.Message{Topic: topic, Body: []byte("early")}); err != nil {
					return fmt.Errorf("nobody has ever served: %w", err)
				}
				seen := &tally{}
				for range 2 {
					e.quiet()
					stop, err := serve(e.far(), topic, seen.handle)
					if err != nil {
						return err
					}
					e.quiet()
					stop()
					if err := e.near().Fanout(ctx, queue.Message{Topic: topic, Body: []byte("early")}); err != nil {
						return fmt.Errorf("nobody serves any more: %w", err)
					}
				}
				return seen.each(0, "early")
			},
		},
		{
			name: "what a fanout's handler answers",
			rule: "The answer of a Cast or Fanout is dropped.",
			check: func(ctx context.Context, e *rig) error {
				seen := &tally{}
				if _, err := serve(e.far(), e.topic("deaf"), func(_ context.Context, m queue.Message) ([]byte, error) {
					seen.add("")
					return []byte("answer"), errdefs.ErrDataLoss
				}); err != nil {
					return err
				}
				for n := range 5 {
					if err := e.near().Fanout(ctx, queue.Message{Topic: e.topic("deaf")}); err != nil {
						return fmt.Errorf("Fanout(): %w", err)
					}
					if err := e.until("the message is handled", func() bool { return seen.total() == n+1 }); err != nil {
						return err
					}
				}
				e.quiet()
				return seen.each(5, "")
			},
		},
		{
			name:  "the backlog of fanout",
			rule:  "A server whose backlog is full misses the message; a bus that knows it returns ErrBacklog, and the others have got the message nevertheless.",
			needs: func(e Env) bool { return e.Workers > 0 && e.Backlog > 0 },
			check: func(ctx context.Context, e *rig) error {
				busy, free := &tally{}, &tally{}
				if _, err := serve(e.far(), e.topic("some"), func(ctx context.Context, m queue.Message) ([]byte, error) {
					<-e.gate
					return busy.handle(ctx, m)
				}); err != nil {
					return err
				}
				if _, err := serve(e.near(), e.topic("some"), free.handle); err != nil {
					return err
				}
				sent, refused := 4*(e.Workers+e.Backlog), 0
				for n := range sent {
					if err := e.near().Fanout(ctx, queue.Message{Topic: e.topic("some")}); err != nil {
						if err := is("Fanout to a full backlog", err, queue.ErrBacklog); err != nil {
							return err
						}
						refused++
					}
					if err := e.until(fmt.Sprintf("the other server gets message %d", n+1), func() bool { return free.total() == n+1 }); err != nil {
						return err
					}
				}
				if e.Knows.FanoutBacklog != (refused > 0) {
					return fmt.Errorf("%d of %d fanouts failed with ErrBacklog, Knows.FanoutBacklog is %v", refused, sent, e.Knows.FanoutBacklog)
				}
				e.quiet()
				e.open()
				if err := e.until("what waited is handled", func() bool { return busy.total() > 0 }); err != nil {
					return err
				}
				e.quiet()
				if most := e.Workers + e.Backlog; busy.total() > most || e.Knows.FanoutBacklog && busy.total()+refused != sent {
					return fmt.Errorf("of %d messages %d were refused and %d handled after they had waited, at most %d may wait", sent, refused, busy.total(), most)
				}
				return nil
			},
		},
	}
}
