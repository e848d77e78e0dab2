package queuetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func deliveryRows() []row {
	return []row{
		{
			name:  "at most once",
			rule:  "A message reaches a handler at most once",
			check: atMostOnce,
		},
		{
			name: "servers compete",
			rule: "The servers of a topic compete: each Cast, Call or CallAsync goes to one of them.",
			check: func(ctx context.Context, e *rig) error {
				const servers, calls = 3, 128 // that one of them is never chosen by chance: 3·(2/3)^128
				topic, seen, by := e.topic("crowd"), &tally{}, &tally{}
				for n := range servers {
					if _, err := serve(e.Buses[n%len(e.Buses)], topic, func(ctx context.Context, m queue.Message) ([]byte, error) {
						by.add(fmt.Sprint(n))
						return seen.handle(ctx, m)
					}); err != nil {
						return err
					}
				}
				for n := range calls {
					if _, err := e.call(ctx, topic, fmt.Sprint(n)); err != nil {
						return fmt.Errorf("Call() %d: %w", n, err)
					}
				}
				e.quiet()
				if seen.total() != calls {
					return fmt.Errorf("%d calls were handled %d times", calls, seen.total())
				}
				for n := range servers {
					if by.of(fmt.Sprint(n)) == 0 {
						return fmt.Errorf("server %d of %d got none of %d calls", n+1, servers, calls)
					}
				}
				return nil
			},
		},
		{
			name: "at the same time",
			rule: "may be handled in any order and at the same time",
			check: func(ctx context.Context, e *rig) error {
				var running tally
				if _, err := serve(e.far(), e.topic("pair"), func(context.Context, queue.Message) ([]byte, error) {
					running.add("")
					<-e.gate
					return nil, nil
				}); err != nil {
					return err
				}
				if err := errors.Join(e.cast(ctx, e.topic("pair"), ""), e.cast(ctx, e.topic("pair"), "")); err != nil {
					return err
				}
				return e.until("two handlers run", func() bool { return running.total() == 2 })
			},
		},
		{
			name: "past the deadline when sent",
			rule: "A message whose Deadline has passed when a server comes to it is not handled.",
			check: func(ctx context.Context, e *rig) error {
				topic, seen := e.topic("late"), &tally{}
				if _, err := serve(e.far(), topic, seen.handle); err != nil {
					return err
				}
				late := queue.Message{Topic: topic, Deadline: time.Now().Add(-time.Second), Body: []byte("late")}
				if err := errors.Join(e.near().Cast(ctx, late), e.near().Fanout(ctx, late)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					return err
				}
				if _, err := e.near().Call(ctx, late); err == nil {
					return errors.New("a call past its deadline was answered")
				}
				if _, err := e.call(ctx, topic, "timely"); err != nil {
					return err
				}
				e.quiet()
				return seen.each(0, "late")
			},
		},
		{
			name:  "past the deadline when its turn comes",
			rule:  "A message whose Deadline has passed when a server comes to it is not handled.",
			needs: func(e Env) bool { return e.Workers > 0 },
			check: func(ctx context.Context, e *rig) error {
				topic := e.topic("late")
				seen, _, err := e.busy(ctx, topic)
				if err != nil {
					return err
				}
				end := time.Now().Add(e.Quiet)
				if err := e.near().Cast(ctx, queue.Message{Topic: topic, Deadline: end, Body: []byte("late")}); err != nil && err != context.DeadlineExceeded {
					return err
				}
				until, cancel := context.WithDeadline(ctx, end)
				defer cancel()
				if _, err := e.near().Call(until, queue.Message{Topic: topic, Body: []byte("late")}); err != context.DeadlineExceeded {
					return fmt.Errorf("Call() to busy servers: got error %v, want that of its ctx", err)
				}
				time.Sleep(time.Until(end) + e.Quiet)
				e.open()
				if _, err := e.call(ctx, topic, "timely"); err != nil {
					return err
				}
				e.quiet()
				return seen.each(0, "late")
			},
		},
		{
			name: "what was sent stays as it was",
			rule: "neither side sees what the other does to its bytes later",
			check: func(ctx context.Context, e *rig) error {
				body, caller := []byte("body"), []byte("caller")
				got, kept := make(chan queue.Message, 3), []byte("answer")
				if _, err := serve(e.far(), e.topic("copy"), func(_ context.Context, m queue.Message) ([]byte, error) {
					<-e.gate
					got <- m
					return kept, nil
				}); err != nil {
					return err
				}
				m := queue.Message{Topic: e.topic("copy"), Body: body, Caller: caller}
				if err := errors.Join(e.near().Cast(ctx, m), e.near().Fanout(ctx, m)); err != nil {
					return err
				}
				copy(body, "XXXX")
				copy(caller, "XXXXXX")
				e.open()
				for range 2 {
					select {
					case m := <-got:
						if string(m.Body) != "body" || string(m.Caller) != "caller" {
							return fmt.Errorf("the handler got body %q, caller %q: the sender changed them after sending", m.Body, m.Caller)
						}
					case <-time.After(e.Patience):
						return errors.New("the handler was not called")
					}
				}
				for range 2 {
					answer, err := e.near().Call(ctx, queue.Message{Topic: e.topic("copy")})
					if err != nil || string(answer) != "answer" {
						return fmt.Errorf("the answer is %q (error %v), want %q: an earlier caller changed its own", answer, err, "answer")
					}
					<-got
					clear(answer)
				}
				return nil
			},
		},
		{
			name: "what comes is the receiver's own",
			rule: "the bytes that a handler or a caller gets are its own",
			check: func(ctx context.Context, e *rig) error {
				body, caller := []byte("body"), []byte("caller")
				seen := &tally{}
				for range 3 {
					if _, err := serve(e.far(), e.topic("own"), func(_ context.Context, m queue.Message) ([]byte, error) {
						answer := bytes.Clone(m.Body)
						seen.add(string(m.Body) + string(m.Caller))
						clear(m.Body)
						clear(m.Caller)
						return answer, nil
					}); err != nil {
						return err
					}
				}
				m := queue.Message{Topic: e.topic("own"), Body: body, Caller: caller}
				if err := e.near().Fanout(ctx, m); err != nil {
					return err
				}
				if err := e.until("the fanout arrives", func() bool { return seen.total() == 3 }); err != nil {
					return err
				}
				if _, err := e.near().Call(ctx, m); err != nil {
					return err
				}
				if string(body) != "body" || string(caller) != "caller" {
					return errors.New("a handler changed the sender's bytes")
				}
				return seen.each(4, "bodycaller")
			},
		},
	}
}

// atMostOnce sends messages of every kind from every bus to servers on every bus. In calm each arrives, and only once.
func atMostOnce(ctx context.Context, e *rig) error {
	topic, seen := e.topic("once"), &tally{}
	for _, bus := range e.Buses {
		for range 2 {
			if _, err := serve(bus, topic, seen.handle); err != nil {
				return err
			}
		}
	}
	var keys []string
	failed := make(chan error, 1<<10)
	for round := range 30 {
		var asked int
		var answered tally
		for n := range e.window() {
			key := fmt.Sprintf("%d/%d", round, n)
			keys = append(keys, key)
			bus, m := e.Buses[n%len(e.Buses)], queue.Message{Topic: topic, Body: []byte(key)}
			switch round % 3 {
			case 0:
				if err := bus.Cast(ctx, m); err != nil {
					return fmt.Errorf("Cast(): %w", err)
				}
			case 1:
				asked++
				go func() {
					defer answered.add("")
					if answer, err := e.callFrom(ctx, bus, topic, key); err != nil || answer != key {
						failed <- fmt.Errorf("Call(%q) = %q, %v", key, answer, err)
					}
				}()
			case 2:
				asked++
				if err := bus.CallAsync(ctx, m, func(answer []byte, err error) {
					defer answered.add("")
					if err != nil || string(answer) != key {
						failed <- fmt.Errorf("CallAsync(%q) = %q, %v", key, answer, err)
					}
				}); err != nil {
					return fmt.Errorf("CallAsync: %w", err)
				}
			}
		}
		if err := e.until("all calls end", func() bool { return answered.total() >= asked }); err != nil {
			return err
		}
		if err := e.until(fmt.Sprintf("all of %d messages arrive", len(keys)), func() bool { return seen.total() >= len(keys) }); err != nil {
			return err
		}
	}
	e.quiet()
	select {
	case err := <-failed:
		return err
	default:
		return seen.each(1, keys...)
	}
}
