package queue

import (
	"context"
	"sync"
	"time"
)

// HandlerContext is the context that a bus gives to a handler. It ends with the bus and at the message's deadline, and shows no
// values. Most handlers never ask when it ends, and timers take time: it has one only when it is asked. Buses use it; handlers
// see a [context.Context]. [HandlerContext.Begin] comes first, and only once.
type HandlerContext struct {
	life, caller context.Context
	deadline     time.Time // zero: none

	mu     sync.Mutex
	inner  context.Context
	cancel context.CancelFunc
	over   bool // the handler has returned
}

// Begin says when the context ends: with life, at the deadline unless that is zero, and when caller is canceled unless that is nil.
func (c *HandlerContext) Begin(life, caller context.Context, deadline time.Time) {
	c.life, c.caller, c.deadline = life, caller, deadline
}

// Deadline returns the message's.
func (c *HandlerContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Done is closed when the context ends.
func (c *HandlerContext) Done() <-chan struct{} { return c.context().Done() }

// Err says why the context has ended.
func (c *HandlerContext) Err() error { return c.context().Err() }

// Value returns what belongs to package context, and nothing else.
func (c *HandlerContext) Value(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		return nil
	}
	return c.inner.Value(key)
}

func (c *HandlerContext) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner != nil {
		return c.inner
	}
	if c.deadline.IsZero() {
		c.inner, c.cancel = context.WithCancel(c.life)
	} else {
		c.inner, c.cancel = context.WithDeadline(c.life, c.deadline)
	}
	if cancel, caller := c.cancel, c.caller; c.over {
		cancel()
	} else if caller != nil {
		unhook := context.AfterFunc(caller, func() {
			if caller.Err() == context.Canceled { // a deadline is ours too
				cancel()
			}
		})
		c.cancel = func() { unhook(); cancel() }
	}
	return c.inner
}

// Finish ends the context when the handler has returned.
func (c *HandlerContext) Finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}
