package queuetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func castRows() []row {
	return []row{
		{
			name: "cast does not wait",
			rule: "Cast sends m to one server of m.Topic and does not wait for it.",
			check: func(ctx context.Context, e *rig) error {
				seen := &tally{}
				if _, err := serve(e.far(), e.topic("slow"), func(ctx context.Context, m queue.Message) ([]byte, error) {
					<-e.gate
					return seen.handle(ctx, m)
				}); err != nil {
					return err
				}
				for range 2 {
					if err := e.wait("Cast returns while the handler runs", async(func() { _ = e.cast(ctx, e.topic("slow"), "x") })); err != nil {
						return err
					}
				}
				e.open()
				return e.until("both are handled", func() bool { return seen.of("x") == 2 })
			},
		},
		{
			name: "a cast outlives its ctx",
			rule: "ctx bounds the sending only.",
			check: func(ctx context.Context, e *rig) error {
				ends := make(chan error, 2)
				if _, err := serve(e.far(), e.topic("on"), func(ctx context.Context, m queue.Message) ([]byte, error) {
					<-e.gate
					ends <- ctx.Err()
					return nil, nil
				}); err != nil {
					return err
				}
				for _, send := range []func(context.Context, queue.Message) error{e.near().Cast, e.near().Fanout} {
					short, cancel := context.WithTimeout(ctx, e.Patience)
					err := send(short, queue.Message{Topic: e.topic("on")})
					cancel()
					if err != nil {
						return err
					}
				}
				e.quiet()
				e.open()
				for range 2 {
					select {
					case err := <-ends:
						if err != nil {
							return fmt.Errorf("the handler's context ended with the sender's: %w", err)
						}
					case <-time.After(e.Patience):
						return errors.New("the message was not handled")
					}
				}
				return nil
			},
		},
		{
			name: "a cast that nobody serves",
			rule: "With no server the message is lost, or waits for one if the bus keeps messages; a bus that knows that it is lost returns ErrNoListener.",
			check: func(ctx context.Context, e *rig) error {
				topic, seen := e.topic("nobody"), &tally{}
				for round := range 2 { // the second: where somebody has served
					if err := e.cast(ctx, topic, "early"); e.Knows.Lost {
						if err := is("Cast", err, queue.ErrNoListener); err != nil {
							return err
						}
					} else if err != nil {
						return fmt.Errorf("Cast(): %w", err)
					}
					e.quiet()
					stop, err := serve(e.far(), topic, seen.handle)
					if err != nil {
						return err
					}
					if e.Knows.Kept {
						if err := e.until("the message that was kept arrives", func() bool { return seen.of("early") == round+1 }); err != nil {
							return err
						}
					}
					if _, err := e.call(ctx, topic, "x"); err != nil {
						return err
					}
					e.quiet()
					if stop(); !e.Knows.Kept && seen.of("early") > 0 {
						return errors.New("the message waited for a server: set Knows.Kept")
					}
				}
				return nil
			},
		},
		{
			name: "what a cast's handler answers",
			rule: "A handler's answer or error goes nowhere.",
			check: func(ctx context.Context, e *rig) error {
				seen := &tally{}
				if _, err := serve(e.far(), e.topic("deaf"), func(_ context.Context, m queue.Message) ([]byte, error) {
					seen.add(string(m.Body))
					return []byte("answer"), errdefs.ErrDataLoss
				}); err != nil {
					return err
				}
				for n := range 10 {
					if err := e.cast(ctx, e.topic("deaf"), "x"); err != nil {
						return fmt.Errorf("Cast(): %w", err)
					}
					if err := e.until("the message is handled", func() bool { return seen.of("x") == n+1 }); err != nil {
						return err
					}
				}
				e.quiet()
				return seen.each(10, "x")
			},
		},
	}
}
