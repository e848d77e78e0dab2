package queuetest

import (
	"bytes"
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

// broken is a bus with one thing wrong.
type broken struct {
	queue.Bus
	cast   func(context.Context, queue.Message) error
	call   func(context.Context, queue.Message) ([]byte, error)
	async  func(context.Context, queue.Message, func([]byte, error)) error
	fanout func(context.Context, queue.Message) error
	serve  func(string, queue.Handler) (func(), error)
	close  func() error
}

func (b *broken) Cast(ctx context.Context, m queue.Message) error           { return b.cast(ctx, m) }
func (b *broken) Call(ctx context.Context, m queue.Message) ([]byte, error) { return b.call(ctx, m) }
func (b *broken) CallAsync(ctx context.Context, m queue.Message, done func([]byte, error)) error {
	return b.async(ctx, m, done)
}
func (b *broken) Fanout(ctx context.Context, m queue.Message) error { return b.fanout(ctx, m) }
func (b *broken) Serve(topic string, h queue.Handler) (func(), error) {
	return b.serve(topic, h)
}
func (b *broken) Close() error { return b.close() }

// fault is something wrong and the rows that must find it.
type fault struct {
	fault string
	rows  []string
	env   func() Env
}

// spoiled is an environment whose bus is spoiled.
func spoiled(spoil func(b *broken, bus queue.Bus)) func() Env {
	return func() Env {
		bus := memqueue.New(small())
		b := &broken{Bus: bus, cast: bus.Cast, call: bus.Call, async: bus.CallAsync, fanout: bus.Fanout, serve: bus.Serve, close: bus.Close}
		spoil(b, bus)
		return envOf(b)
	}
}

// barred is an environment that has a user who may nothing, but for what is spoiled.
func barred(spoil func(b *broken)) func() Env {
	return func() Env {
		bus, denied := memqueue.New(small()), errdefs.ErrPermissionDenied
		env := envOf(bus)
		env.Barred = func() queue.Bus {
			b := &broken{Bus: bus,
				cast: func(context.Context, queue.Message) error { return denied },
				call: func(context.Context, queue.Message) ([]byte, error) { return nil, denied },
				async: func(_ context.Context, _ queue.Message, done func([]byte, error)) error {
					go done(nil, denied)
					return nil
				},
				fanout: func(context.Context, queue.Message) error { return denied },
				serve:  func(string, queue.Handler) (func(), error) { return nil, denied },
				close:  func() error { return nil },
			}
			spoil(b)
			return b
		}
		return env
	}
}

// handling changes what handlers get or answer.
func handling(wrap func(h queue.Handler) queue.Handler) func() Env {
	return spoiled(func(b *broken, bus queue.Bus) {
		b.serve = func(topic string, h queue.Handler) (func(), error) { return bus.Serve(topic, wrap(h)) }
	})
}

// arriving changes the messages that handlers get.
func arriving(change func(m *queue.Message)) func() Env {
	return handling(func(h queue.Handler) queue.Handler {
		return func(ctx context.Context, m queue.Message) ([]byte, error) {
			change(&m)
			return h(ctx, m)
		}
	})
}

// failing changes what calls end with.
func failing(change func(ctx context.Context, err error) error) func() Env {
	return spoiled(func(b *broken, bus queue.Bus) {
		b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
			answer, err := bus.Call(ctx, m)
			return answer, change(ctx, err)
		}
	})
}

// set changes what the bus is set to, or what the environment says of it.
func set(change func(cfg *memqueue.Config, env *Env)) func() Env {
	return func() Env {
		cfg, env := small(), envOf()
		change(&cfg, &env)
		env.Buses = []queue.Bus{memqueue.New(cfg)}
		return env
	}
}

func faults() []fault {
	return append(append(sendingFaults(), answerFaults()...), servingFaults()...)
}

func sendingFaults() []fault {
	return []fault{
		{"loses casts", []string{"at most once", "cast does not wait", "served at once"}, spoiled(func(b *broken, bus queue.Bus) {
			n := 0
			b.cast = func(ctx context.Context, m queue.Message) error {
				if n++; n%2 == 0 {
					return ctx.Err()
				}
				return bus.Cast(ctx, m)
			}
		})},
		{"loses calls", []string{"answers", "servers compete"}, spoiled(func(b *broken, bus queue.Bus) {
			n, one := 0, make(chan struct{}, 1)
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
				one <- struct{}{}
				n++
				lost := n%7 == 0
				<-one
				if lost {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return bus.Call(ctx, m)
			}
		})},
		{"doubles casts", []string{"at most once", "what a cast's handler answers", "from handlers", "typed messages"}, spoiled(func(b *broken, bus queue.Bus) {
			b.cast = func(ctx context.Context, m queue.Message) error {
				return errors.Join(bus.Cast(ctx, m), bus.Cast(ctx, m))
			}
		})},
		{"doubles fanouts", []string{"fanout reaches each", "what a fanout's handler answers"}, spoiled(func(b *broken, bus queue.Bus) {
			b.fanout = func(ctx context.Context, m queue.Message) error {
				return errors.Join(bus.Fanout(ctx, m), bus.Fanout(ctx, m))
			}
		})},
		{"casts wait for the handler", []string{"cast does not wait", "at the same time"}, spoiled(func(b *broken, bus queue.Bus) {
			b.cast = func(ctx context.Context, m queue.Message) error {
				_, err := bus.Call(ctx, m)
				return err
			}
		})},
		{"casts to nobody vanish, though the bus knows", []string{"a cast that nobody serves"}, spoiled(func(b *broken, bus queue.Bus) {
			b.cast = func(ctx context.Context, m queue.Message) error {
				if err := bus.Cast(ctx, m); !errors.Is(err, queue.ErrNoListener) {
					return err
				}
				return nil
			}
		})},
		{"does not keep what it says it keeps", []string{"a cast that nobody serves"},
			set(func(_ *memqueue.Config, env *Env) { env.Knows = Knows{Kept: true} })},
		{"the sender's context goes to the handler", []string{"a cast outlives its ctx", "the values of a context"}, spoiled(func(b *broken, bus queue.Bus) {
			var sent sync.Map
			n := 0
			mark := func(ctx context.Context, m *queue.Message) {
				n++
				m.ID = fmt.Sprint(n)
				sent.Store(m.ID, ctx)
			}
			b.cast = func(ctx context.Context, m queue.Message) error { mark(ctx, &m); return bus.Cast(ctx, m) }
			b.fanout = func(ctx context.Context, m queue.Message) error { mark(ctx, &m); return bus.Fanout(ctx, m) }
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				return bus.Serve(topic, func(ctx context.Context, m queue.Message) ([]byte, error) {
					if c, ok := sent.Load(m.ID); ok {
						ctx = c.(context.Context)
					}
					return h(ctx, m)
				})
			}
		})},
		{"bytes are not copied", []string{"what was sent stays as it was", "what comes is the receiver's own"}, spoiled(func(b *broken, bus queue.Bus) {
			var sent sync.Map
			n := 0
			mark := func(m *queue.Message) {
				n++
				m.ID = fmt.Sprint(n)
				sent.Store(m.ID, *m)
			}
			b.cast = func(ctx context.Context, m queue.Message) error { mark(&m); return bus.Cast(ctx, m) }
			b.fanout = func(ctx context.Context, m queue.Message) error { mark(&m); return bus.Fanout(ctx, m) }
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				one := make(chan struct{}, 1) // no race: the suite is to find it by what it sees
				return bus.Serve(topic, func(ctx context.Context, m queue.Message) ([]byte, error) {
					one <- struct{}{}
					defer func() { <-one }()
					if s, ok := sent.Load(m.ID); ok {
						m = s.(queue.Message)
					}
					return h(ctx, m)
				})
			}
		})},
		{"answers are not copied", []string{"what was sent stays as it was"}, spoiled(func(b *broken, bus queue.Bus) {
			var mu sync.Mutex
			var last []byte
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				return bus.Serve(topic, func(ctx context.Context, m queue.Message) ([]byte, error) {
					answer, err := h(ctx, m)
					mu.Lock()
					defer mu.Unlock()
					last = answer
					return answer, err
				})
			}
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
				_, err := bus.Call(ctx, m)
				mu.Lock()
				defer mu.Unlock()
				return last, err
			}
		})},
		{"ids are not unique", []string{"ids"}, arriving(func(m *queue.Message) { m.ID = "same" })},
		{"ids of the sender are replaced", []string{"ids"}, arriving(func(m *queue.Message) { m.ID += "x" })},
		{"no reply address", []string{"where the answer goes"}, arriving(func(m *queue.Message) { m.ReplyTo = "" })},
		{"a reply address where nobody waits", []string{"where the answer goes"}, arriving(func(m *queue.Message) { m.ReplyTo = "here" })},
		{"deadlines do not travel", []string{"deadlines"}, arriving(func(m *queue.Message) { m.Deadline = time.Time{} })},
		{"deadlines are ignored", []string{"past the deadline when sent", "past the deadline when its turn comes", "the end of a handler's context"}, spoiled(func(b *broken, bus queue.Bus) {
			b.cast = func(ctx context.Context, m queue.Message) error { m.Deadline = time.Time{}; return bus.Cast(ctx, m) }
		})},
		{"callers do not travel", []string{"caller, trace and body"}, arriving(func(m *queue.Message) { m.Caller = nil })},
		{"text must be UTF-8", []string{"caller, trace and body"}, arriving(func(m *queue.Message) { m.Trace = strings.ToValidUTF8(m.Trace, "?") })},
		{"bodies are trimmed", []string{"caller, trace and body"}, arriving(func(m *queue.Message) { m.Body = bytes.TrimRight(m.Body, "\xff") })},
		{"small letters are large ones", []string{"topics are apart"}, spoiled(func(b *broken, bus queue.Bus) {
			lower := func(m queue.Message) queue.Message { m.Topic = strings.ToLower(m.Topic); return m }
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) { return bus.Call(ctx, lower(m)) }
			b.fanout = func(ctx context.Context, m queue.Message) error { return bus.Fanout(ctx, lower(m)) }
			b.serve = func(topic string, h queue.Handler) (func(), error) { return bus.Serve(strings.ToLower(topic), h) }
		})},
		{"any topic will do", []string{"what is no topic", "an async call that can't be"}, spoiled(func(b *broken, bus queue.Bus) {
			b.async = func(ctx context.Context, m queue.Message, done func([]byte, error)) error {
				m.Topic = "any"
				return bus.CallAsync(ctx, m, done)
			}
		})},
		{"long topics are refused", []string{"topics"}, spoiled(func(b *broken, bus queue.Bus) {
			b.serve = func(topic string, h queue.Handler) (func(), error) {
				if len(topic) > 127 {
					return nil, errdefs.ErrInvalidArgument
				}
				return bus.Serve(topic, h)
			}
		})},
		{"topics must be declared", []string{"topics are not declared"}, spoiled(func(b *broken, bus queue.Bus) {
			b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
				if strings.HasSuffix(m.Topic, ".new") {
					return nil, errdefs.ErrNotFound
				}
				return bus.Call(ctx, m)
			}
		})},
		{"a call waits for a network that is lost", []string{"a lost network"}, func() Env {
			env := spoiled(func(*broken, queue.Bus) {})()
			env.Sever = func() {}
			return env
		}},
		{"a call without a network just ends", []string{"a lost network"}, func() Env {
			severed := make(chan struct{})
			env := spoiled(func(b *broken, bus queue.Bus) {
				b.call = func(ctx context.Context, m queue.Message) ([]byte, error) {
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					go func() {
						select {
						case <-severed:
							cancel()
						case <-ctx.Done():
						}
					}()
					return bus.Call(ctx, m)
				}
			})()
			env.Sever = func() { close(severed) }
			return env
		}},
		{"a user who may not is only not heard", []string{"a user who may not"}, barred(func(b *broken) {
			b.call = func(ctx context.Context, _ queue.Message) ([]byte, error) { return nil, queue.ErrNoListener }
		})},
		{"a user who may not casts", []string{"a user who may not"}, barred(func(b *broken) { b.cast = b.Bus.Cast })},
		{"a user who may not serves", []string{"a user who may not"}, barred(func(b *broken) { b.serve = b.Bus.Serve })},
		{"a fanout goes to one", []string{"fanout reaches each", "what comes is the receiver's own"}, spoiled(func(b *broken, bus queue.Bus) {
			b.fanout = bus.Cast
		})},
		{"a fanout to nobody fails", []string{"fanout to nobody"}, spoiled(func(b *broken, bus queue.Bus) { b.fanout = bus.Cast })},
		{"a fanout says nothing of those that missed it", []string{"the backlog of fanout"}, spoiled(func(b *broken, bus queue.Bus) {
			b.fanout = func(ctx context.Context, m queue.Message) error {
				_ = bus.Fanout(ctx, m)
				return nil
			}
		})},
		{"what a handler answers is an error of the cast", []string{"what a cast's handler answers"}, spoiled(func(b *broken, bus queue.Bus) {
			b.cast = func(ctx context.Context, m queue.Message) error { _, err := bus.Call(ctx, m); return err }
		})},
	}
}
