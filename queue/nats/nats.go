// Package nats is the message bus on NATS (https://nats.io), for a cloud of many machines. It uses NATS core: subjects and
// queue groups, no streams, nothing on a disk. natsserver, below, runs a server inside a program.
//
// # On the wire
//
// A topic t is two subjects: <prefix>.one.t, where its servers are one queue group, for Cast, Call and CallAsync, and
// <prefix>.all.t for Fanout. Answers come to <prefix>.re.<bus>.<call>, one subscription for each bus. A user of a NATS
// server that may publish and subscribe to <prefix>.> may use the bus.
//
// A message is a line of text and the body. The line is six fields with a blank between two: "dw1", the ID, the Trace, the
// Caller, the Deadline, and the sender's clock. ID and Trace are percent-encoded (RFC 3986 §2.1), the Caller is in base64
// (RFC 4648 §4), and times are nanoseconds since 1970, without a Deadline neither. An answer is its bytes and no more. An
// error is its text, with its class in the header Dewpoint-Failure; the header Dewpoint-Refused says that no handler has
// seen the call, and why: "backlog" or "stopping".
//
// Deadlines are the sender's clock, and hosts' clocks may be wrong. A message that seems to come from more than 2 s in
// the past or in the future comes from another clock, and its deadline is taken to be as far from its arrival as it
// was from its sending. That is logged, at most once a minute.
//
// # What this bus knows
//
// A Call without a server fails at once with [queue.ErrNoListener], since a NATS server says so. A call to a server whose
// backlog is full fails with [queue.ErrBacklog]. A call that a server has not begun when it stops goes to another. A
// Cast or Fanout has no such answer: with nobody to hear it, or with a full backlog (which the server's bus logs), it is
// lost. A handler's context does not end when its caller has gone, only at the message's deadline.
//
// In a cluster of NATS servers, that a topic is served, or no more, reaches the other servers of the cluster a moment
// after Serve or stop has returned.
//
// # Lost connections
//
// A bus connects again for ever, with back-off and jitter, logs each failure, and serves its topics again when it is
// connected. Until then Cast and Fanout fail at once with [ErrDisconnected]; Call and CallAsync wait for the connection,
// up to [Config].CallWait, and fail with it then. Calls that were sent when the connection is lost fail with it at
// once: their handlers may have run or may still run. Serve and stop work all the same. A connection that is silent is
// lost after three ping intervals, 15 s by default. When it is the server's side that loses its connection or dies, the
// caller is not told: its call ends with its ctx.
//
// A network that takes nothing more is given up after 1 s to 2 s. For so long a method may take, whatever its ctx says.
package nats

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	natsgo "github.com/nats-io/nats.go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// ErrDisconnected means that there is no connection to a NATS server, or that it was lost while a call waited for its
// answer. It is Unavailable.
var ErrDisconnected = fmt.Errorf("nats: no connection to a server: %w", errdefs.ErrUnavailable)

// Bus is a [queue.Bus] on NATS.
type Bus struct {
	cfg    Config
	log    *slog.Logger
	name   string // begins every message's ID, and is a word of the subject that answers come to
	inbox  string // that subject, but for the call
	ids    atomic.Uint64
	warned atomic.Int64 // when the last warning of a certain kind was logged, in nanoseconds since 1970

	life context.Context // ends when Close begins; handlers' contexts come from it
	end  context.CancelFunc
	link atomic.Pointer[link] // nil: no connection

	calls sync.Pool // of *call

	connecting context.Context // ends when Close is done with the connection
	disconnect context.CancelFunc
	ended      chan struct{} // closed when the goroutine that connects has ended
	done       chan struct{} // closed when Close has done all

	mu      sync.Mutex
	closed  bool
	up      chan struct{} // closed, and another one made, when there is a connection
	servers map[*server]struct{}
	waiting int            // async calls
	async   sync.WaitGroup // the same; Add only under mu while not closed
}

var _ queue.Bus = (*Bus)(nil)

// Open returns a bus that is connected, or with [Config].Background one that will be. Without, it waits for a server that
// can't be reached until ctx ends, and returns an error at once if a server is there and refuses: Unauthenticated
// for wrong credentials, PermissionDenied for a user who may not use Prefix, FailedPrecondition for a certificate that does not match cfg.TLS, a missing encryption, or limits
// that are too small for the bus. Wrong settings are InvalidArgument. ctx bounds Open only.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	b := &Bus{cfg: cfg, log: cfg.Logger, name: rand.Text(),
		ended: make(chan struct{}), done: make(chan struct{}), up: make(chan struct{}), servers: map[*server]struct{}{}}
	b.inbox = cfg.Prefix + ".re." + b.name + "."
	b.life, b.end = context.WithCancel(context.Background())
	b.connecting, b.disconnect = context.WithCancel(context.Background())
	opening, opened := context.WithCancel(ctx)
	defer opened()
	outcome := make(chan error)
	go b.keepConnected(func(err error) {
		select {
		case outcome <- err:
		case <-opening.Done():
		}
	})
	if cfg.Background {
		return b, nil
	}
	for last := ErrDisconnected; ; {
		select {
		case err := <-outcome:
			if err == nil {
				return b, nil
			}
			if last = err; !errdefs.IsUnavailable(err) {
				_ = b.Close()
				return nil, err
			}
		case <-ctx.Done():
			_ = b.Close()
			return nil, fmt.Errorf("%w (%w)", last, ctx.Err())
		}
	}
}

// Connected tells whether there is a connection to a server now.
func (b *Bus) Connected() bool { return b.link.Load() != nil }

// Close is as [queue.Bus] says. Answers of handlers that were running are sent before the connection ends, if that takes no
// longer than 2 s.
func (b *Bus) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		<-b.done
		return nil
	}
	b.closed = true
	servers := make([]*server, 0, len(b.servers))
	for s := range b.servers {
		servers = append(servers, s)
	}
	b.mu.Unlock()
	b.end()
	if l := b.link.Load(); l != nil {
		l.fail(queue.ErrClosed)
	}
	b.stop(servers...)
	b.async.Wait()
	if l := b.link.Load(); l != nil {
		l.flush()
	}
	b.disconnect()
	<-b.ended
	close(b.done)
	return nil
}

// Cast is as [queue.Bus] says. It does not know whether anybody serves the topic.
func (b *Bus) Cast(ctx context.Context, m queue.Message) error {
	return b.send(ctx, b.one(m.Topic), m)
}

// Fanout is as [queue.Bus] says. It does not know whether a server missed the message.
func (b *Bus) Fanout(ctx context.Context, m queue.Message) error {
	return b.send(ctx, b.all(m.Topic), m)
}

// The subjects of a topic.
func (b *Bus) one(topic string) string { return b.cfg.Prefix + one + topic }
func (b *Bus) all(topic string) string { return b.cfg.Prefix + ".all." + topic }

const one = ".one."

func (b *Bus) send(ctx context.Context, subject string, m queue.Message) error {
	if err := b.accept(ctx, &m); err != nil {
		return err
	}
	if m.ID == "" {
		m.ID = b.name + "." + strconv.FormatUint(b.ids.Add(1), 36)
	}
	l := b.link.Load()
	if l == nil {
		return b.sent(m.Topic, natsgo.ErrDisconnected)
	}
	return b.sent(m.Topic, l.nc.Publish(subject, encode(nil, &m)))
}

// accept checks a message.
func (b *Bus) accept(ctx context.Context, m *queue.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	if b.life.Err() != nil {
		return queue.ErrClosed
	}
	m.ReplyTo = ""
	return nil
}

// sent is the bus's error for what became of sending a message.
func (b *Bus) sent(topic string, err error) error {
	switch {
	case err == nil:
		return nil
	case b.life.Err() != nil:
		return queue.ErrClosed
	case err == natsgo.ErrDisconnected, err == natsgo.ErrConnectionClosed:
		return fmt.Errorf("topic %q: %w", topic, ErrDisconnected)
	case err == natsgo.ErrMaxPayload:
		return fmt.Errorf("topic %q: the message is larger than the NATS server takes: %w", topic, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("topic %q: %w: %v", topic, ErrDisconnected, err)
}

// rarely tells whether to log what may happen for each message: once a minute.
func (b *Bus) rarely() bool {
	last, now := b.warned.Load(), time.Now().UnixNano()
	return now-last >= int64(time.Minute) && b.warned.CompareAndSwap(last, now)
}
