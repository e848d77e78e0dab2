package memqueue

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// call is what a message has for whose answer somebody waits.
type call struct {
	ctx    context.Context // the caller's
	result chan result     // of capacity 1; the message's fate is told once, and nobody may be there any more
	bound  time.Duration   // how long to wait, beyond ctx; 0: as long as ctx
}

type result struct {
	answer []byte
	err    error
}

// Call is as [queue.Bus] says.
func (b *Bus) Call(ctx context.Context, m queue.Message) ([]byte, error) {
	c, err := b.begin(ctx, m)
	if err != nil {
		return nil, err
	}
	return b.await(c)
}

// CallAsync is as [queue.Bus] says; it returns ErrNoListener itself.
func (b *Bus) CallAsync(ctx context.Context, m queue.Message, done func(answer []byte, err error)) error {
	if done == nil {
		return fmt.Errorf("memqueue: done of a call to %.40q is nil: %w", m.Topic, errdefs.ErrInvalidArgument)
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

	c, err := b.begin(ctx, m)
	if err != nil {
		b.finish()
		return err
	}
	go func() {
		defer b.finish()
		done(b.await(c))
	}()
	return nil
}

// finish takes an asynchronous call off the books.
func (b *Bus) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
	b.async.Done()
}

// begin sends a call on its way.
func (b *Bus) begin(ctx context.Context, m queue.Message) (*task, error) {
	if err := b.accept(ctx, &m); err != nil {
		return nil, err
	}
	c := call{ctx: ctx}
	if used, ok := b.results.Get().(chan result); ok {
		c.result = used
	} else {
		c.result = make(chan result, 1)
	}
	m.ReplyTo = b.name
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
	t := newTask(b, m, c)
	return t, b.send(t)
}

// await returns what comes of a call.
func (b *Bus) await(c *task) ([]byte, error) {
	var late <-chan time.Time
	if c.bound > 0 {
		timer := time.NewTimer(c.bound)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case r := <-c.result:
		b.results.Put(c.result) // the one result that there is has come
		if b.life.Err() != nil {
			return nil, queue.ErrClosed // and not what Close made of the handler
		}
		return r.answer, r.err
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	case <-late:
		return nil, context.DeadlineExceeded
	case <-b.life.Done():
		return nil, queue.ErrClosed
	}
}
