package memqueue

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// task is a message on its way to a handler, and the context that the handler gets.
type task struct {
	bus  *Bus
	m    queue.Message
	call // of which result is nil if nobody waits

	mu     sync.Mutex
	inner  context.Context // made when the handler first asks: most never do
	cancel context.CancelFunc
	over   bool // the handler has returned
}

func newTask(b *Bus, m queue.Message, c call) *task {
	m.Body, m.Caller = bytes.Clone(m.Body), bytes.Clone(m.Caller)
	return &task{bus: b, m: m, call: c}
}

// tell ends the wait of the caller, if there is one. It is called at most once for a task.
func (t *task) tell(answer []byte, err error) {
	if t.result != nil {
		t.result <- result{answer, err}
	}
}

// work handles t and then whatever waits for the server. A handler may end the goroutine: another takes over then.
func (s *server) work(t *task) {
	defer func() {
		if t == nil {
			return
		}
		if t = s.next(); t != nil {
			s.crew.start(s, t)
		}
	}()
	for t != nil {
		s.handle(t)
		t = s.next()
	}
}

func (s *server) handle(t *task) {
	if t.worthless() {
		return
	}
	queue.Invoke((*handlerContext)(t), s.handler, t.m, func(answer []byte, f *queue.Failure) {
		(*handlerContext)(t).finish()
		if f == nil {
			t.tell(bytes.Clone(answer), nil)
			return
		}
		if f.Stack != "" {
			s.bus.cfg.Logger.Error("memqueue: a handler panicked", "topic", t.m.Topic, "id", t.m.ID, "error", f.Text, "stack", f.Stack)
			f.Stack = ""
		} else if t.result == nil {
			s.bus.cfg.Logger.Debug("memqueue: a handler failed and nobody waits", "topic", t.m.Topic, "id", t.m.ID, "error", f.Text)
		}
		t.tell(nil, f)
	})
}

// worthless tells whether nobody is interested any more. Whoever called knows by itself that its time is over.
func (t *task) worthless() bool {
	if t.result != nil && (t.ctx.Err() != nil || t.bound == 0) {
		return t.ctx.Err() != nil
	}
	return !t.m.Deadline.IsZero() && !time.Now().Before(t.m.Deadline)
}

// handlerContext is a task as its handler's context. It ends with the bus, the message's deadline, and the caller's
// context; it shows none of the caller's values, as a bus between machines could not either.
type handlerContext task

// Deadline returns the message's.
func (c *handlerContext) Deadline() (time.Time, bool) { return c.m.Deadline, !c.m.Deadline.IsZero() }

// Done is closed when the context ends.
func (c *handlerContext) Done() <-chan struct{} { return c.context().Done() }

// Err says why the context has ended.
func (c *handlerContext) Err() error { return c.context().Err() }

// Value returns nothing that a caller has put into a context.
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
	if c.inner != nil {
		return c.inner
	}
	if c.m.Deadline.IsZero() {
		c.inner, c.cancel = context.WithCancel(c.bus.life)
	} else {
		c.inner, c.cancel = context.WithDeadline(c.bus.life, c.m.Deadline)
	}
	if cancel := c.cancel; c.over {
		cancel()
	} else if c.result != nil {
		caller := c.ctx
		unhook := context.AfterFunc(caller, func() {
			if caller.Err() == context.Canceled { // a deadline is ours too
				cancel()
			}
		})
		c.cancel = func() { unhook(); cancel() }
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
