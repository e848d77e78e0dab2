package memqueue

import (
	"fmt"
	"sync"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// topic is a name and the servers that compete for its messages. Whenever its lock is free, either its backlog is empty or
// every server is at its limit.
type topic struct {
	bus  *Bus
	name string

	mu      sync.Mutex
	servers []*server
	turn    int     // the server that is asked first
	backlog backlog // waits for any server
	gone    bool    // the last server has left; whoever still holds the topic looks for its successor
}

// server is a handler and what it is doing. Its topic's lock guards it.
type server struct {
	bus     *Bus
	crew    *crew
	topic   *topic
	handler queue.Handler
	running int
	fanned  backlog // waits for this server
	backFan bool    // the next message comes from fanned, if both have some
	left    bool
	idle    chan struct{} // closed when it has left and nothing runs
}

// send gives a message to one server of its topic.
func (b *Bus) send(t *task) error {
	found, ok := b.topics.Load(t.m.Topic)
	if !ok {
		return b.unheard(t.m.Topic)
	}
	return found.(*topic).send(t)
}

func (tp *topic) send(t *task) error {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if tp.gone {
		return tp.bus.unheard(tp.name)
	}
	for i := range tp.servers {
		at := (tp.turn + i) % len(tp.servers)
		if s := tp.servers[at]; s.running < tp.bus.cfg.Workers {
			tp.turn = at + 1
			s.running++
			s.crew.start(s, t)
			return nil
		}
	}
	if tp.backlog.len() == tp.bus.cfg.Backlog {
		return tp.full()
	}
	tp.backlog.push(t)
	return nil
}

// fan gives a message to every server.
func (tp *topic) fan(message func() *task) (err error) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, s := range tp.servers {
		switch {
		case s.running < tp.bus.cfg.Workers:
			s.running++
			s.crew.start(s, message())
		case s.fanned.len() == tp.bus.cfg.Backlog:
			err = tp.full()
		default:
			s.fanned.push(message())
		}
	}
	return err
}

func (tp *topic) full() error {
	return fmt.Errorf("topic %q: %d messages wait already: %w", tp.name, tp.bus.cfg.Backlog, queue.ErrBacklog)
}

// join adds a server and gives it what waits. It returns false if the topic is gone.
func (tp *topic) join(s *server) bool {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if tp.gone {
		return false
	}
	s.topic = tp
	tp.servers = append(tp.servers, s)
	for s.running < tp.bus.cfg.Workers && tp.backlog.len() > 0 {
		s.running++
		s.crew.start(s, tp.backlog.pop())
	}
	return true
}

// leave makes the server take no more. With the last one, the topic ends, and so do the calls that wait there.
func (s *server) leave() {
	tp := s.topic
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if s.left {
		return
	}
	s.left = true
	s.fanned = backlog{}
	if s.running == 0 {
		close(s.idle)
	}
	kept := make([]*server, 0, len(tp.servers))
	for _, other := range tp.servers {
		if other != s {
			kept = append(kept, other)
		}
	}
	tp.servers = kept
	if len(kept) > 0 {
		return
	}
	tp.gone = true
	tp.bus.topics.CompareAndDelete(tp.name, tp)
	for tp.backlog.len() > 0 {
		tp.backlog.pop().tell(nil, tp.bus.unheard(tp.name))
	}
}

// next returns the message that a goroutine of the server goes on with, nil if it is to end.
func (s *server) next() *task {
	tp := s.topic
	tp.mu.Lock()
	defer tp.mu.Unlock()
	fan, shared := s.fanned.len() > 0, tp.backlog.len() > 0
	switch {
	case s.left || !fan && !shared:
		if s.running--; s.left && s.running == 0 {
			close(s.idle)
		}
		return nil
	case fan && (s.backFan || !shared):
		s.backFan = false
		return s.fanned.pop()
	}
	s.backFan = true
	return tp.backlog.pop()
}

// backlog is a queue of messages, first in, first out.
type backlog struct {
	tasks []*task
	head  int
}

func (q *backlog) len() int { return len(q.tasks) - q.head }

func (q *backlog) push(t *task) {
	if q.head > len(q.tasks)/2 {
		n := copy(q.tasks, q.tasks[q.head:])
		clear(q.tasks[n:])
		q.tasks, q.head = q.tasks[:n], 0
	}
	q.tasks = append(q.tasks, t)
}

func (q *backlog) pop() *task {
	t := q.tasks[q.head]
	q.tasks[q.head] = nil
	if q.head++; q.head == len(q.tasks) {
		*q = backlog{} // a long backlog is rare: don't keep its memory
	}
	return t
}
