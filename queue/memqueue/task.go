package memqueue

import (
	"bytes"
	"time"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// task is a message on its way to a handler.
type task struct {
	bus  *Bus
	m    queue.Message
	call // of which result is nil if nobody waits

	handling queue.HandlerContext
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
	t.handling.Begin(s.bus.life, t.ctx, t.m.Deadline)
	queue.Invoke(&t.handling, s.handler, t.m, func(answer []byte, f *queue.Failure) {
		t.handling.Finish()
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
