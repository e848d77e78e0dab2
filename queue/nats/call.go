package nats

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	natsgo "github.com/nats-io/nats.go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// call is a message for whose answer somebody waits. One that is over, and that nothing refers to any more, is used again.
type call struct {
	link   *link
	topic  string
	key    uint64        // the last word of the reply subject, in base 36
	to, re string        // the subjects of the call and of its answer
	data   []byte        // as it is sent
	result chan result   // of capacity 1: whoever takes the call out of link.calls tells its fate, once
	bound  time.Duration // how long to wait, beyond ctx; 0: as long as ctx
}

type result struct {
	answer   []byte
	err      error
	stopping bool // the server that got it stops, and no handler has seen it
}

// resends is how often a call may meet a server that stops. Between them is a short wait, in which the news of the stop
// spreads: 1 ms, 2 ms and so on to 128 ms.
const resends = 8

// Call is as [queue.Bus] says.
func (b *Bus) Call(ctx context.Context, m queue.Message) ([]byte, error) {
	if err := b.accept(ctx, &m); err != nil {
		return nil, err
	}
	return b.call(ctx, m)
}

// call makes a call that has been accepted.
func (b *Bus) call(ctx context.Context, m queue.Message) ([]byte, error) {
	l, err := b.connection(ctx, &m)
	if err != nil {
		return nil, err
	}
	c, err := b.begin(ctx, l, m)
	if err != nil {
		return nil, err
	}
	return b.await(ctx, c)
}

// connection returns the connection, and waits for it if there is none.
func (b *Bus) connection(ctx context.Context, m *queue.Message) (*link, error) {
	if l := b.link.Load(); l != nil {
		return l, nil
	}
	wait := b.cfg.CallWait
	if !m.Deadline.IsZero() {
		wait = min(wait, time.Until(m.Deadline))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		b.mu.Lock()
		l, up := b.link.Load(), b.up
		b.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-b.life.Done():
			return nil, queue.ErrClosed
		case <-timer.C:
			return nil, b.sent(m.Topic, natsgo.ErrDisconnected)
		}
	}
}

// CallAsync is as [queue.Bus] says; done gets ErrNoListener.
func (b *Bus) CallAsync(ctx context.Context, m queue.Message, done func(answer []byte, err error)) error {
	if done == nil {
		return fmt.Errorf("nats: done of a call to %.40q is nil: %w", m.Topic, errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	switch {
	case b.closed:
		b.mu.Unlock()
		return queue.ErrClosed
	case b.waiting == b.cfg.Async:
		b.mu.Unlock()
		return fmt.Errorf("topic %q: %d asynchronous calls wait already: %w", m.Topic, b.cfg.Async, queue.ErrBacklog)
	}
	b.waiting++
	b.async.Add(1)
	b.mu.Unlock()

	finish, err := b.start(ctx, m)
	if err != nil {
		b.finish()
		return err
	}
	go func() {
		defer b.finish()
		done(finish())
	}()
	return nil
}

// start does what can be done of a call without waiting, and returns the rest.
func (b *Bus) start(ctx context.Context, m queue.Message) (finish func() ([]byte, error), err error) {
	if err := b.accept(ctx, &m); err != nil {
		return nil, err
	}
	l := b.link.Load()
	if l == nil {
		m.Body, m.Caller = bytes.Clone(m.Body), bytes.Clone(m.Caller)
		return func() ([]byte, error) { return b.call(ctx, m) }, nil
	}
	c, err := b.begin(ctx, l, m)
	return func() ([]byte, error) { return b.await(ctx, c) }, err
}

// finish takes an asynchronous call off the books.
func (b *Bus) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
	b.async.Done()
}

// begin sends a call on its way.
func (b *Bus) begin(ctx context.Context, l *link, m queue.Message) (*call, error) {
	c, ok := b.calls.Get().(*call)
	if !ok {
		c = &call{result: make(chan result, 1)}
	}
	c.link, c.topic, c.key, c.bound = l, m.Topic, b.ids.Add(1), 0
	switch end, ok := ctx.Deadline(); {
	case ok && (m.Deadline.IsZero() || !end.After(m.Deadline)):
		m.Deadline = end
	case m.Deadline.IsZero():
		c.bound = b.cfg.CallTimeout
		m.Deadline = time.Now().Add(c.bound)
	default:
		if c.bound = time.Until(m.Deadline); c.bound <= 0 {
			return nil, context.DeadlineExceeded
		}
	}
	b.address(c)
	if m.ID == "" {
		m.ID = c.re[len(b.inbox)-len(b.name)-1:]
	}
	c.data = encode(c.data[:0], &m)
	return c, b.request(c)
}

// address makes the subjects of a call. They are one string, which takes less than two.
func (b *Bus) address(c *call) {
	var room [2 * maxSubject]byte
	both := append(append(append(room[:0], b.cfg.Prefix...), one...), c.topic...)
	cut := len(both)
	all := string(strconv.AppendUint(append(both, b.inbox...), c.key, 36))
	c.to, c.re = all[:cut], all[cut:]
}

const maxSubject = 300 // bytes that most subjects have at most

// usualSize is how many bytes a call may keep for the next one.
const usualSize = 4 << 10

// request sends a call, or sends it again.
func (b *Bus) request(c *call) error {
	l := c.link
	l.mu.Lock()
	if l.calls == nil {
		l.mu.Unlock()
		return b.sent(c.topic, natsgo.ErrConnectionClosed)
	}
	l.calls[c.key] = c
	l.mu.Unlock()
	err := l.nc.PublishRequest(c.to, c.re, c.data)
	if err != nil {
		l.take(c.key)
	}
	return b.sent(c.topic, err)
}

// take returns the call that waits under a key, which no longer does then; nil if none does.
func (l *link) take(key uint64) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[key]
	delete(l.calls, key)
	return c
}

// await returns what comes of a call.
func (b *Bus) await(ctx context.Context, c *call) ([]byte, error) {
	var late <-chan time.Time
	if c.bound > 0 {
		timer := time.NewTimer(c.bound)
		defer timer.Stop()
		late = timer.C
	}
	for sends := 0; ; sends++ {
		select {
		case r := <-c.result:
			switch {
			case b.life.Err() != nil:
				return nil, queue.ErrClosed // and not what Close made of the handler
			case !r.stopping:
				if cap(c.data) <= usualSize {
					b.calls.Put(c) // the one result that there is has come
				}
				return r.answer, r.err
			case sends == resends:
				return nil, fmt.Errorf("topic %q: %w", c.topic, queue.ErrNoListener)
			}
		case <-ctx.Done():
			c.link.take(c.key)
			return nil, ctx.Err()
		case <-late:
			c.link.take(c.key)
			return nil, context.DeadlineExceeded
		}
		select {
		case <-time.After(time.Millisecond << sends):
			if err := b.request(c); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late:
			return nil, context.DeadlineExceeded
		case <-b.life.Done():
			return nil, queue.ErrClosed
		}
	}
}

// answered gives an answer to the call that waits for it.
func (b *Bus) answered(l *link) natsgo.MsgHandler {
	return func(in *natsgo.Msg) {
		if len(in.Subject) <= len(b.inbox) {
			return
		}
		key, err := strconv.ParseUint(in.Subject[len(b.inbox):], 36, 64)
		if err != nil {
			return
		}
		c := l.take(key)
		if c == nil {
			return // nobody waits any more
		}
		var r result
		switch {
		case len(in.Header) == 0:
			r.answer = in.Data
		case len(in.Data) == 0 && first(in.Header, "Status") == "503": // of the NATS server: no responders
			r.err = fmt.Errorf("topic %q: %w", c.topic, queue.ErrNoListener)
		case first(in.Header, headerRefused) == refusedStopping:
			r.stopping = true
		case first(in.Header, headerRefused) == refusedBacklog:
			r.err = fmt.Errorf("topic %q: the server that was chosen: %w", c.topic, queue.ErrBacklog)
		case first(in.Header, headerFailure) != "":
			r.err = &queue.Failure{Class: first(in.Header, headerFailure), Text: string(in.Data)}
		default:
			r.answer = in.Data
		}
		c.result <- r
	}
}
