package amqp

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// Bus is a [queue.Bus] on a broker.
type Bus struct {
	cfg  Config
	at   broker
	life context.Context // ends with Close; handlers' contexts come from it
	stop context.CancelFunc
	name string // begins every message's ID
	ids  atomic.Uint64
	last chan struct{} // closed when the connection is to end for good
	ran  chan struct{} // closed when it has

	mu      sync.Mutex
	closed  chan struct{} // nil until Close is called, then closed when it is done
	current *session      // nil while there is none
	changed chan struct{} // closed and replaced when current changes
	failed  error         // the last attempt to connect
	servers map[*server]struct{}
	waiting int            // async calls
	async   sync.WaitGroup // the same; Add only under mu while not closed
}

var _ queue.Bus = (*Bus)(nil)

// Open connects to the broker and returns an open bus, which from then on connects again by itself. If there is no broker it
// tries again, logging and with longer pauses, until ctx ends; ctx bounds the opening only.
//
// Errors: InvalidArgument for a bad Config; Unauthenticated if the broker does not accept the user and password or has
// a certificate of somebody else; PermissionDenied if the user may not use the virtual host or the names; FailedPrecondition
// if the broker has something else under one of the names, or speaks no TLS; Unavailable with the reason if there is no
// broker when the deadline of ctx comes; the error of a ctx that is canceled.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	at, err := cfg.check()
	if err != nil {
		return nil, err
	}
	b := &Bus{cfg: cfg, at: at, name: rand.Text(), last: make(chan struct{}), ran: make(chan struct{}),
		changed: make(chan struct{}), servers: map[*server]struct{}{}}
	first, err := b.dial(ctx, true)
	if err != nil {
		return nil, err
	}
	b.life, b.stop = context.WithCancel(context.Background())
	b.become(first)
	go b.run(first)
	return b, nil
}

// dial connects, trying until ctx ends; if picky, only as long as trying can help.
func (b *Bus) dial(ctx context.Context, picky bool) (*session, error) {
	var last error
	for failures := 0; ; failures++ {
		s, err := b.connect(ctx)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() == nil:
			last = err
		}
		switch end := ctx.Err(); {
		case end != nil && (last == nil || errors.Is(end, context.Canceled)):
			return nil, end
		case end != nil, picky && lasting(last):
			return nil, last
		}
		b.mu.Lock()
		b.failed = last
		b.mu.Unlock()
		d := pause(failures, b.cfg.MaxBackoff)
		b.cfg.Logger.Warn("amqp: no connection to the broker", "broker", b.at.address, "error", last, "attempt", failures+1, "next", d)
		sleep(ctx, d, nil)
	}
}

// run keeps the bus connected.
func (b *Bus) run(s *session) {
	defer close(b.ran)
	for {
		select {
		case <-s.dead:
		case <-b.last:
			s.end()
		}
		b.become(nil)
		s.loops.Wait()
		next, err := b.dial(b.life, false)
		if err != nil {
			return
		}
		s = next
		b.cfg.Logger.Info("amqp: connected again", "broker", b.at.address)
		b.become(s)
	}
}

func (b *Bus) become(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = s
	close(b.changed)
	b.changed = make(chan struct{})
}

// session returns the session that there is, or waits for one.
func (b *Bus) session(ctx context.Context, late <-chan time.Time) (*session, error) {
	var enough <-chan time.Time
	for {
		b.mu.Lock()
		s, changed, closed, failed := b.current, b.changed, b.closed != nil, b.failed
		b.mu.Unlock()
		if closed {
			return nil, queue.ErrClosed
		}
		if s != nil {
			select {
			case <-s.dead:
			default:
				return s, nil
			}
		}
		if enough == nil {
			timer := time.NewTimer(b.cfg.SendWait)
			defer timer.Stop()
			enough = timer.C
		}
		select {
		case <-changed:
		case <-enough:
			return nil, fmt.Errorf("amqp: there has been no connection to the broker for %s (last: %v): %w", b.cfg.SendWait, failed, errdefs.ErrUnavailable)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late:
			return nil, context.DeadlineExceeded
		case <-b.life.Done():
			return nil, queue.ErrClosed
		}
	}
}

// Close is as [queue.Bus] says. Handlers that run on for ten seconds after it can't answer any more. It waits no longer than
// that for the broker.
func (b *Bus) Close() error {
	b.mu.Lock()
	if b.closed != nil {
		b.mu.Unlock()
		<-b.closed
		return nil
	}
	b.closed = make(chan struct{})
	servers := make([]*server, 0, len(b.servers))
	for s := range b.servers {
		servers = append(servers, s)
	}
	session := b.current
	b.mu.Unlock()
	b.stop()
	if session != nil {
		defer session.drop("to close")()
	}
	for _, s := range servers {
		s.leave()
	}
	for _, s := range servers {
		<-s.gone
	}
	b.async.Wait()
	close(b.last)
	<-b.ran
	close(b.closed)
	return nil
}

func (b *Bus) full(topic string) error {
	return fmt.Errorf("topic %q: %d messages wait already: %w", topic, b.cfg.Backlog, queue.ErrBacklog)
}

// accept checks a message, fills in what the bus fills in, and makes the bytes the bus's own.
func (b *Bus) accept(ctx context.Context, m *queue.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	m.ReplyTo = ""
	if m.ID == "" {
		m.ID = b.name + "-" + strconv.FormatUint(b.ids.Add(1), 36)
	}
	m.Body, m.Caller = bytes.Clone(m.Body), bytes.Clone(m.Caller)
	return nil
}

// Cast is as [queue.Bus] says. It returns when the broker has confirmed that it has the message; with no server it
// returns ErrNoListener, and ErrBacklog if the backlog is full. It returns Unavailable if there is no connection, or if it
// ends before the confirmation; in the latter case a server may get the message.
func (b *Bus) Cast(ctx context.Context, m queue.Message) error {
	return b.tell(ctx, m, isCast, b.cfg.workExchange(), true)
}

// Fanout is as [queue.Bus] says; if a server missed the message, it returns ErrBacklog, and Unavailable as Cast does.
func (b *Bus) Fanout(ctx context.Context, m queue.Message) error {
	return b.tell(ctx, m, isFanout, b.cfg.fanExchange(), false)
}

func (b *Bus) tell(ctx context.Context, m queue.Message, kind, exchange string, mandatory bool) error {
	if err := b.accept(ctx, &m); err != nil {
		return err
	}
	now := time.Now()
	if !m.Deadline.IsZero() && !now.Before(m.Deadline) {
		return context.DeadlineExceeded
	}
	late := time.NewTimer(b.cfg.CallTimeout)
	defer late.Stop()
	_, err := b.send(ctx, &sending{topic: m.Topic, exchange: exchange, mandatory: mandatory, message: envelop(kind, m, now),
		fate: make(chan fate, 1)}, late.C)
	return err
}
