package amqp

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// call is a call that has been checked.
type call struct {
	ctx      context.Context
	sending  *sending
	deadline time.Time
	bound    time.Duration // how long to wait, beyond ctx; 0: as long as ctx
}

// Call is as [queue.Bus] says. It fails with Unavailable if there is no connection, if the connection ends before the
// answer, and if the server dies with the message and another one finds it.
func (b *Bus) Call(ctx context.Context, m queue.Message) ([]byte, error) {
	c, err := b.begin(ctx, m)
	if err != nil {
		return nil, err
	}
	return b.await(c)
}

// CallAsync is as [queue.Bus] says; ErrNoListener is given to done.
func (b *Bus) CallAsync(ctx context.Context, m queue.Message, done func(answer []byte, err error)) error {
	if done == nil {
		return fmt.Errorf("amqp: done of a call to %.40q is nil: %w", m.Topic, errdefs.ErrInvalidArgument)
	}
	c, err := b.begin(ctx, m)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed != nil:
		return queue.ErrClosed
	case b.waiting == b.cfg.Async:
		return fmt.Errorf("topic %q: %d asynchronous calls wait already: %w", m.Topic, b.cfg.Async, queue.ErrBacklog)
	}
	b.waiting++
	b.async.Add(1)
	go func() {
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.waiting--
			b.async.Done()
		}()
		done(b.await(c))
	}()
	return nil
}

// begin makes a call of m.
func (b *Bus) begin(ctx context.Context, m queue.Message) (*call, error) {
	if err := b.accept(ctx, &m); err != nil {
		return nil, err
	}
	c, now := &call{ctx: ctx}, time.Now()
	switch end, ok := ctx.Deadline(); {
	case ok && (m.Deadline.IsZero() || !end.After(m.Deadline)):
		m.Deadline = end
	case m.Deadline.IsZero():
		c.bound = b.cfg.CallTimeout
		m.Deadline = now.Add(c.bound)
	default:
		c.bound = m.Deadline.Sub(now)
	}
	if !now.Before(m.Deadline) {
		return nil, context.DeadlineExceeded
	}
	c.deadline = m.Deadline
	c.sending = &sending{topic: m.Topic, exchange: b.cfg.workExchange(), mandatory: true, call: true, message: envelop(isCall, m, now),
		fate: make(chan fate, 1)}
	return c, nil
}

// await sends the call and returns what comes of it.
func (b *Bus) await(c *call) ([]byte, error) {
	var late <-chan time.Time
	if c.bound > 0 {
		timer := time.NewTimer(c.bound)
		defer timer.Stop()
		late = timer.C
	}
	answer, err := b.send(c.ctx, c.sending, late)
	if err == errLate && !time.Now().Before(c.deadline) {
		return nil, context.DeadlineExceeded // by our clock too, which has not rung yet
	}
	return answer, err
}
