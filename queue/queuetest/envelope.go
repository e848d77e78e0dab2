package queuetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func envelopeRows() []row {
	return []row{
		{
			name: "ids",
			rule: `unique among all messages of all processes; "": set by the bus`,
			check: func(ctx context.Context, e *rig) error {
				topic, ids := e.topic("ids"), &tally{}
				if _, err := serve(e.far(), topic, func(_ context.Context, m queue.Message) ([]byte, error) {
					ids.add(m.ID)
					return []byte(m.ID), nil
				}); err != nil {
					return err
				}
				var all []string
				for n := range 60 {
					id, err := e.callFrom(ctx, e.Buses[n%len(e.Buses)], topic, "")
					if err != nil {
						return err
					}
					if id == "" {
						return errors.New("a message has no ID")
					}
					all = append(all, id)
				}
				if err := ids.each(1, all...); err != nil {
					return err
				}
				if id, err := e.near().Call(ctx, queue.Message{Topic: topic, ID: "mine"}); err != nil || string(id) != "mine" {
					return fmt.Errorf("a message with the ID %q arrived with %q (error %v)", "mine", id, err)
				}
				return nil
			},
		},
		{
			name: "where the answer goes",
			rule: `where the answer goes, in the bus's own terms, for Call and CallAsync; set by the bus, "" otherwise`,
			check: func(ctx context.Context, e *rig) error {
				got, err := e.arrivals("reply")
				if err != nil {
					return err
				}
				m := queue.Message{Topic: e.topic("reply"), ReplyTo: "forged"}
				for _, try := range sends(e.near(), m.Topic, nil)[:3] {
					if err := try.send(ctx); err != nil {
						return fmt.Errorf("%s: %w", try.method, err)
					}
					if a, err := e.next(got); err != nil || (a.ReplyTo != "") != (try.method != "Cast") {
						return fmt.Errorf("%s arrived with ReplyTo %q (error %v)", try.method, a.ReplyTo, err)
					}
				}
				for _, send := range []func(context.Context, queue.Message) error{e.near().Cast, e.near().Fanout} {
					if err := send(ctx, m); err != nil {
						return err
					}
					if a, err := e.next(got); err != nil || a.ReplyTo != "" {
						return fmt.Errorf("a message that is not answered arrived with ReplyTo %q (error %v)", a.ReplyTo, err)
					}
				}
				if _, err := e.near().Call(ctx, m); err != nil {
					return err
				}
				if a, err := e.next(got); err != nil || a.ReplyTo == "forged" {
					return fmt.Errorf("a call arrived with the ReplyTo of its sender, %q (error %v)", a.ReplyTo, err)
				}
				return nil
			},
		},
		{
			name: "deadlines",
			rule: "For Call and CallAsync the bus sets it to the deadline of ctx if that is earlier.",
			check: func(ctx context.Context, e *rig) error {
				got, err := e.arrivals("deadline")
				if err != nil {
					return err
				}
				sooner, later := time.Now().Add(e.Patience), time.Now().Add(2*e.Patience)
				early, cancel := context.WithDeadline(ctx, sooner)
				defer cancel()
				late, cancel := context.WithDeadline(ctx, later)
				defer cancel()
				for _, c := range []struct {
					ctx  context.Context
					own  time.Time
					cast bool
					want time.Time
				}{{early, time.Time{}, false, sooner}, {early, later, false, sooner}, {late, sooner, false, sooner},
					{early, later, true, later}, {early, time.Time{}, true, time.Time{}}} {
					m := queue.Message{Topic: e.topic("deadline"), Deadline: c.own}
					ways := []func() error{
						func() error { _, err := e.near().Call(c.ctx, m); return err },
						func() error { return e.near().CallAsync(c.ctx, m, func([]byte, error) {}) },
					}
					if c.cast {
						ways = []func() error{
							func() error { return e.near().Cast(c.ctx, m) },
							func() error { return e.near().Fanout(c.ctx, m) },
						}
					}
					for _, send := range ways {
						if err := send(); err != nil {
							return err
						}
						a, err := e.next(got)
						if err != nil {
							return err
						}
						if a.Deadline.IsZero() != c.want.IsZero() || a.Deadline.Sub(c.want).Abs() > time.Millisecond {
							return fmt.Errorf("a message with the deadline %v arrived with %v, want %v", c.own, a.Deadline, c.want)
						}
					}
				}
				return nil
			},
		},
		{
			name: "caller, trace and body",
			rule: "in bytes that the bus does not look into",
			check: func(ctx context.Context, e *rig) error {
				got, err := e.arrivals("all")
				if err != nil {
					return err
				}
				var every [256]byte
				for i := range every {
					every[i] = byte(i)
				}
				m := queue.Message{Topic: e.topic("all"), Caller: every[:], Trace: "trace-1/ü\x00\xff", Body: every[128:]}
				for _, send := range []func() error{
					func() error { return e.near().Cast(ctx, m) }, func() error { return e.near().Fanout(ctx, m) },
					func() error { _, err := e.near().Call(ctx, m); return err },
					func() error { return e.near().CallAsync(ctx, m, func([]byte, error) {}) },
				} {
					if err := send(); err != nil {
						return err
					}
					a, err := e.next(got)
					if err != nil {
						return err
					}
					if a.Topic != m.Topic || string(a.Caller) != string(m.Caller) || a.Trace != m.Trace || string(a.Body) != string(m.Body) {
						return fmt.Errorf("sent %+v, arrived %+v", m, a)
					}
				}
				return nil
			},
		},
	}
}

// arrivals serves a topic and returns what comes.
func (e *rig) arrivals(name string) (<-chan queue.Message, error) {
	got := make(chan queue.Message, 16)
	_, err := serve(e.far(), e.topic(name), func(_ context.Context, m queue.Message) ([]byte, error) {
		got <- m
		return nil, nil
	})
	return got, err
}

func (e *rig) next(got <-chan queue.Message) (queue.Message, error) {
	select {
	case m := <-got:
		return m, nil
	case <-time.After(e.Patience):
		return queue.Message{}, errors.New("the message does not arrive")
	}
}
