package queuetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
)

func answerFaults() []fault {
	return []fault{
		{"answers are mixed up", []string{"answers"}, spoiled(func(b *broken, bus queue.Bus) {
			one, last := make(chan struct{}, 1), []byte("other")
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
				answer, err := bus.Call(ctx, m)
				one <- struct{}{}
				answer, last = last, answer
				<-one
				return answer, err
			}
		})},
		{"a wrong class", []string{"a handler's error"}, failing(func(_ context.Context, err error) error {
			if errdefs.IsDataLoss(err) {
				return &queue.Failure{Class: "unknown", Text: err.Error()}
			}
			return err
		})},
		{"a text of its own", []string{"a handler's error"}, failing(func(_ context.Context, err error) error {
			if f := (*queue.Failure)(nil); errors.As(err, &f) {
				f.Text = "remote error: " + f.Text
			}
			return err
		})},
		{"no Failure", []string{"a handler's error"}, failing(func(_ context.Context, err error) error {
			if f := (*queue.Failure)(nil); errors.As(err, &f) {
				return fmt.Errorf("%s%w", f.Text, silent{f.Unwrap()})
			}
			return err
		})},
		{"the handler's own error comes out", []string{"nothing else of an error travels", "a handler's context error"}, spoiled(func(b *broken, bus queue.Bus) {
			var last error
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				return bus.Serve(topic, func(ctx context.Context, m queue.Message) (answer []byte, err error) {
					answer, last = h(ctx, m)
					return answer, last
				})
			}
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
				answer, err := bus.Call(ctx, m)
				if err != nil && last != nil {
					err = last
				}
				return answer, err
			}
		})},
		{"a panic ends the server", []string{"a handler that panics", "a handler that ends its goroutine"}, spoiled(func(b *broken, bus queue.Bus) {
			dead := false
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
				if dead {
					return nil, queue.ErrNoListener
				}
				answer, err := bus.Call(ctx, m)
				dead = errdefs.IsInternal(err)
				return answer, err
			}
		})},
		{"the end of a handler's goroutine is not answered", []string{"a handler that ends its goroutine"}, failing(func(ctx context.Context, err error) error {
			if err != nil && strings.Contains(err.Error(), "ended its goroutine") {
				<-ctx.Done()
				return ctx.Err()
			}
			return err
		})},
		{"large bodies are cut", []string{"the largest body and answer"}, arriving(func(m *queue.Message) { m.Body = m.Body[:min(len(m.Body), 1<<16)] })},
		{"bodies over the limit are cut", []string{"a body over the limit"}, spoiled(func(b *broken, bus queue.Bus) {
			b.cast = func(ctx context.Context, m queue.Message) error {
				m.Body = m.Body[:min(len(m.Body), queue.MaxBody)]
				return bus.Cast(ctx, m)
			}
		})},
		{"answers over the limit are cut", []string{"the largest body and answer"}, handling(func(h queue.Handler) queue.Handler {
			return func(ctx context.Context, m queue.Message) ([]byte, error) {
				answer, err := h(ctx, m)
				return answer[:min(len(answer), queue.MaxBody)], err
			}
		})},
		{"ctx errors are wrapped", []string{"a call ends with its ctx", "a ctx that has ended"}, failing(func(ctx context.Context, err error) error {
			if err != nil && err == ctx.Err() {
				return fmt.Errorf("queue: %w", err)
			}
			return err
		})},
		{"a ctx that has ended is not looked at", []string{"a ctx that has ended"}, spoiled(func(b *broken, bus queue.Bus) {
			b.cast = func(ctx context.Context, m queue.Message) error { return bus.Cast(context.WithoutCancel(ctx), m) }
		})},
		{"a call waits for the handler whatever its ctx says", []string{"a call ends with its ctx"}, spoiled(func(b *broken, bus queue.Bus) {
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
				return bus.Call(context.WithoutCancel(ctx), m)
			}
		})},
		{"a call to nobody waits for its deadline", []string{"a call that nobody serves"}, failing(func(ctx context.Context, err error) error {
			if errors.Is(err, queue.ErrNoListener) {
				<-ctx.Done()
				return ctx.Err()
			}
			return err
		})},
		{"a call to nobody takes its time", []string{"a call that nobody serves"}, failing(func(_ context.Context, err error) error {
			if errors.Is(err, queue.ErrNoListener) {
				time.Sleep(900 * time.Millisecond)
			}
			return err
		})},
		{"calls are forever", []string{"a call without a deadline"}, set(func(cfg *memqueue.Config, _ *Env) { cfg.CallTimeout = time.Hour })},
		{"calls are too short", []string{"a call without a deadline"}, set(func(cfg *memqueue.Config, _ *Env) { cfg.CallTimeout = time.Second })},
		{"CallAsync waits", []string{"an async call returns at once"}, spoiled(func(b *broken, bus queue.Bus) {
			b.async = func(ctx context.Context, m queue.Message, done func([]byte, error)) error {
				done(bus.Call(ctx, m))
				return nil
			}
		})},
		{"done runs twice", []string{"an async call returns at once", "async calls are bounded"}, spoiled(func(b *broken, bus queue.Bus) {
			b.async = func(ctx context.Context, m queue.Message, done func([]byte, error)) error {
				return bus.CallAsync(ctx, m, func(answer []byte, err error) {
					done(answer, err)
					done(answer, err)
				})
			}
		})},
		{"done runs after an error", []string{"an async call that can't be"}, spoiled(func(b *broken, bus queue.Bus) {
			b.async = func(ctx context.Context, m queue.Message, done func([]byte, error)) error {
				err := bus.CallAsync(ctx, m, done)
				if err != nil {
					done(nil, err)
				}
				return err
			}
		})},
		{"done never runs", []string{"an async call ends with its ctx", "done uses the bus", "a handler's error"}, spoiled(func(b *broken, bus queue.Bus) {
			b.async = func(ctx context.Context, m queue.Message, done func([]byte, error)) error {
				return bus.CallAsync(ctx, m, func([]byte, error) {})
			}
		})},
		{"done functions run one after the other", []string{"done uses the bus"}, spoiled(func(b *broken, bus queue.Bus) {
			one := make(chan struct{}, 1)
			b.async = func(ctx context.Context, m queue.Message, done func([]byte, error)) error {
				return bus.CallAsync(ctx, m, func(answer []byte, err error) {
					one <- struct{}{}
					defer func() { <-one }()
					done(answer, err)
				})
			}
		})},
		{"async calls are not bounded", []string{"async calls are bounded"}, set(func(cfg *memqueue.Config, _ *Env) { cfg.Async = 1000 })},
		{"calls are one after the other", []string{"from handlers", "several at a time"}, spoiled(func(b *broken, bus queue.Bus) {
			one := make(chan struct{}, 1)
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
				select {
				case one <- struct{}{}:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				defer func() { <-one }()
				return bus.Call(ctx, m)
			}
		})},
	}
}

// silent keeps a class and says nothing.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

func servingFaults() []fault {
	stopping := func(change func(stop func()) func()) func() Env {
		return spoiled(func(b *broken, bus queue.Bus) {
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				stop, err := bus.Serve(topic, h)
				return change(stop), err
			}
		})
	}
	return []fault{
		{"the second server of a topic gets nothing", []string{"servers compete", "fanout reaches each"}, spoiled(func(b *broken, bus queue.Bus) {
			served := map[string]bool{}
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				if served[topic] {
					return func() {}, nil
				}
				served[topic] = true
				return bus.Serve(topic, h)
			}
		})},
		{"handlers run one after the other", []string{"at the same time", "several at a time"}, handling(func(h queue.Handler) queue.Handler {
			one := make(chan struct{}, 1)
			return func(ctx context.Context, m queue.Message) ([]byte, error) {
				one <- struct{}{}
				defer func() { <-one }()
				return h(ctx, m)
			}
		})},
		{"any number of handlers runs", []string{"workers"}, set(func(cfg *memqueue.Config, _ *Env) { cfg.Workers = 1000 })},
		{"any number of messages waits", []string{"the backlog of casts", "the backlog of calls", "the backlog of fanout"},
			set(func(cfg *memqueue.Config, _ *Env) { cfg.Backlog = 1 << 20 })},
		{"any number of messages waits, and nobody knows", []string{"the backlog of casts", "the backlog of calls", "the backlog of fanout"},
			set(func(cfg *memqueue.Config, env *Env) { cfg.Backlog, env.Knows = 1<<20, Knows{Lost: true} })},
		{"a full backlog is another error", []string{"the backlog of casts"}, spoiled(func(b *broken, bus queue.Bus) {
			b.cast = func(ctx context.Context, m queue.Message) error {
				if err := bus.Cast(ctx, m); !errors.Is(err, queue.ErrBacklog) {
					return err
				}
				return errdefs.ErrUnavailable
			}
		})},
		{"serve takes a while", []string{"served at once"}, spoiled(func(b *broken, bus queue.Bus) {
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				served := make(chan func(), 1)
				go func() {
					time.Sleep(time.Millisecond)
					stop, err := bus.Serve(topic, h)
					if err != nil {
						stop = func() {}
					}
					served <- stop
				}()
				return func() { (<-served)() }, nil
			}
			b.close = func() error {
				time.Sleep(2 * time.Millisecond)
				return bus.Close()
			}
		})},
		{"handlers' contexts do not end", []string{"the end of a handler's context", "close ends servers", "a caller that has gone"}, handling(func(h queue.Handler) queue.Handler {
			return func(ctx context.Context, m queue.Message) ([]byte, error) { return h(context.WithoutCancel(ctx), m) }
		})},
		{"handlers' contexts end when others' do", []string{"a cast outlives its ctx", "stop waits"}, handling(func(h queue.Handler) queue.Handler {
			return func(ctx context.Context, m queue.Message) ([]byte, error) {
				ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				return h(ctx, m)
			}
		})},
		{"stop does not wait", []string{"stop waits"}, stopping(func(stop func()) func() { return func() { go stop() } })},
		{"a second stop does not wait", []string{"stop waits"}, stopping(func(stop func()) func() {
			var once sync.Once
			stopped := make(chan struct{})
			return func() {
				first := false
				once.Do(func() { first = true })
				if first {
					stop()
					close(stopped)
				}
			}
		})},
		{"stop does nothing", []string{"stop waits", "what comes after stop", "fanout to nobody", "a call that nobody serves"},
			stopping(func(func()) func() { return func() {} })},
		{"calls that wait for a server that stops are lost", []string{"calls that wait for a server that stops"}, failing(func(ctx context.Context, err error) error {
			if errors.Is(err, queue.ErrNoListener) {
				<-ctx.Done()
				return ctx.Err()
			}
			return err
		})},
		{"close does not wait", []string{"close waits"}, spoiled(func(b *broken, bus queue.Bus) {
			b.close = func() error { go bus.Close(); return nil }
		})},
		{"close leaves calls waiting", []string{"close fails calls"}, failing(func(ctx context.Context, err error) error {
			if errors.Is(err, queue.ErrClosed) {
				<-ctx.Done()
				return ctx.Err()
			}
			return err
		})},
		{"a closed bus says that nobody serves", []string{"after close"}, failing(func(_ context.Context, err error) error {
			if errors.Is(err, queue.ErrClosed) {
				return queue.ErrNoListener
			}
			return err
		})},
		{"a second close fails", []string{"after close"}, spoiled(func(b *broken, bus queue.Bus) {
			n := 0
			b.close = func() error {
				if n++; n == 2 {
					return queue.ErrClosed
				}
				return bus.Close()
			}
		})},
		{"a closed bus still serves", []string{"after close"}, spoiled(func(b *broken, bus queue.Bus) {
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				stop, err := bus.Serve(topic, h)
				if err != nil {
					return func() {}, nil
				}
				return stop, nil
			}
		})},
		{"close closes the other buses", []string{"other buses go on"}, func() Env {
			bus := memqueue.New(small())
			return envOf(bus, bus)
		}},
		{"a data race of methods", []string{"all methods at once"}, spoiled(func(b *broken, bus queue.Bus) {
			inside := make(chan struct{}, 1)
			alone := func(fn func() error) error {
				select {
				case inside <- struct{}{}:
					defer func() { <-inside }()
					time.Sleep(time.Microsecond)
					return fn()
				default:
					return errdefs.ErrInternal
				}
			}
			b.cast = func(ctx context.Context, m queue.Message) error {
				return alone(func() error { return bus.Cast(ctx, m) })
			}
			b.fanout = func(ctx context.Context, m queue.Message) error {
				return alone(func() error { return bus.Fanout(ctx, m) })
			}
		})},
	}
}
