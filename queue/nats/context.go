package nats

import (
	"context"
	"sync"
	"time"
)

// handlerContext is the context of a handler. It ends with the bus and at the message's deadline. Most handlers never ask
// when it ends, and timers take time: it has one only when it is asked.
type handlerContext struct {
	life     context.Context
	deadline time.Time // zero: none

	mu     sync.Mutex
	inner  context.Context
	cancel context.CancelFunc
	over   bool // the handler has returned
}

// Deadline returns the message's.
func (c *handlerContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Done is closed when the context ends.
func (c *handlerContext) Done() <-chan struct{} { return c.context().Done() }

// Err says why the context has ended.
func (c *handlerContext) Err() error { return c.context().Err() }

// Value returns what belongs to package context, and nothing else.
func (c *handlerContext) Value(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		return nil
	}
	return c.inner.Value(key)
}

func (c *handlerContext) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		if c.deadline.IsZero() {
			c.inner, c.cancel = context.WithCancel(c.life)
		} else {
			c.inner, c.cancel = context.WithDeadline(c.life, c.deadline)
		}
		if c.over {
			c.cancel()
		}
	}
	return c.inner
}

// finish ends the context when the handler has returned.
func (c *handlerContext) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}
