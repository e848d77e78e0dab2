package nats

import (
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	natsgo "github.com/nats-io/nats.go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// group is the name of the queue group that the servers of a topic are.
const group = "servers"

// server is a handler and what it is doing.
//
// Its goroutines take what arrives and handle it. As many as Workers handle something at a time; one at least is always free
// to look at what arrives meanwhile, which it puts into the backlog, or refuses if that is full.
type server struct {
	bus     *Bus
	topic   string
	handler queue.Handler
	arrived chan *natsgo.Msg // what the client library has received; closed when nothing comes any more
	all     sync.WaitGroup   // its goroutines
	quit    chan struct{}    // closed when it has left and all of them have ended

	// Guarded by the lock of the bus.
	link *link
	subs []*natsgo.Subscription // on that link

	mu      sync.Mutex
	looking int // goroutines that wait for what arrives
	running int // goroutines that handle something
	left    bool
	backlog backlog
}

// idlers is how many goroutines of a server may wait for what arrives; others end when they have nothing to do. More of them
// would each get one message of those that arrive together, and answers that are sent together cost less.
const idlers = 2

// task is a message that has arrived.
type task struct {
	in       *natsgo.Msg
	at       time.Time
	handling queue.HandlerContext
}

// Serve is as [queue.Bus] says. Without a connection it returns at once, and messages reach h when there is one. A
// user who may not subscribe gets PermissionDenied; without a connection, the log tells.
func (b *Bus) Serve(topic string, h queue.Handler) (stop func(), err error) {
	if err := queue.CheckTopic(topic); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, fmt.Errorf("nats: the handler of %s is nil: %w", topic, errdefs.ErrInvalidArgument)
	}
	s := &server{bus: b, topic: topic, handler: h, arrived: make(chan *natsgo.Msg, unseenMsgs), quit: make(chan struct{})}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, queue.ErrClosed
	}
	b.servers[s] = struct{}{}
	s.look()
	l := b.link.Load()
	if l != nil {
		err = s.subscribe(l)
	}
	b.mu.Unlock()
	if l != nil && err == nil {
		err = l.nc.FlushTimeout(b.cfg.DialTimeout)
	}
	if err == nil && l != nil && (l.forbids(b.one(topic)) || l.forbids(b.all(topic))) {
		b.stop(s)
		return nil, fmt.Errorf("topic %q: the NATS server does not allow this user to subscribe to it: %w", topic, errdefs.ErrPermissionDenied)
	}
	if err != nil { // the connection has just been lost, or is about to be: the next one serves
		b.log.Warn("nats: a topic is served when there is a connection again", "topic", topic, "error", err)
	}
	return func() { b.stop(s) }, nil
}

// subscribe makes messages that come on a link reach the server. It is called under the lock of the bus.
func (s *server) subscribe(l *link) error {
	s.link, s.subs = l, nil
	one, err := l.nc.ChanQueueSubscribe(s.bus.one(s.topic), group, s.arrived)
	if err != nil {
		return err
	}
	s.subs = append(s.subs, one)
	all, err := l.nc.ChanSubscribe(s.bus.all(s.topic), s.arrived)
	if err == nil {
		s.subs = append(s.subs, all)
	}
	return err
}

// stop makes servers leave, and returns when their handlers have returned.
func (b *Bus) stop(servers ...*server) {
	var first []*server
	for _, s := range servers {
		if s.leave() {
			first = append(first, s)
		}
	}
	subs := map[*link][]*natsgo.Subscription{}
	b.mu.Lock()
	for _, s := range first {
		if s.link != nil {
			subs[s.link] = append(subs[s.link], s.subs...)
		}
	}
	b.mu.Unlock()
	for l, all := range subs {
		l.quit(all)
	}
	for _, s := range first {
		close(s.arrived) // nobody sends any more: the subscriptions have ended, with those of connections that were lost
		s.handOver()
	}
	for _, s := range first {
		s.all.Wait()
		b.mu.Lock()
		delete(b.servers, s)
		b.mu.Unlock()
		close(s.quit)
	}
	for _, s := range servers {
		<-s.quit
	}
}

// leave makes the server begin nothing new. It returns false if it has left already.
func (s *server) leave() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.left
	s.left = true
	return first
}

func (s *server) hasLeft() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// handOver gives what waits to other servers.
func (s *server) handOver() {
	s.mu.Lock()
	waiting := s.backlog.tasks[s.backlog.head:]
	s.backlog = backlog{}
	s.mu.Unlock()
	for _, t := range waiting {
		s.pass(t.in)
	}
}

// look adds a goroutine that looks at what arrives. It is called under the server's lock, or before others know the server.
func (s *server) look() {
	s.looking++
	s.all.Add(1)
	go s.work(nil)
}

// work handles t, if there is one, and then what waits and what arrives.
func (s *server) work(t *task) {
	defer s.all.Done()
	returned := false
	defer func() {
		if !returned { // a handler has ended the goroutine: another takes over
			if t, looks := s.next(); t != nil || looks {
				s.all.Add(1)
				go s.work(t)
			}
		}
	}()
	for {
		looks := true
		for t != nil {
			s.handle(t)
			t, looks = s.next()
		}
		if looks {
			t = s.await()
		}
		if t == nil {
			returned = true
			return
		}
	}
}

// next returns the message that a goroutine goes on with that has handled one, or whether it is to look at what arrives. If
// neither, it is to end.
func (s *server) next() (t *task, looks bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.left && s.backlog.len() > 0 {
		return s.backlog.pop(), false
	}
	s.running--
	if looks = s.looking < idlers; looks {
		s.looking++
	}
	return nil, looks
}

// await looks at what arrives until there is something to handle. It returns nil when nothing comes any more.
func (s *server) await() *task {
	for in := range s.arrived {
		t := &task{in: in, at: time.Now()}
		s.mu.Lock()
		switch {
		case s.left:
			s.mu.Unlock()
			s.pass(in)
		case s.running < s.bus.cfg.Workers:
			s.running++
			if s.looking--; s.looking == 0 {
				s.look()
			}
			s.mu.Unlock()
			return t
		case s.backlog.len() < s.bus.cfg.Backlog && s.backlog.bytes+in.Size() <= s.bus.cfg.BacklogBytes:
			s.backlog.push(t)
			s.mu.Unlock()
		default:
			s.mu.Unlock()
			s.refuse(in, refusedBacklog)
			if s.bus.rarely() {
				s.bus.log.Warn("nats: the backlog is full, messages are dropped", "topic", s.topic)
			}
		}
	}
	return nil // it does not matter any more who looks
}

// called tells whether somebody waits for an answer to a message: to a fanout never.
func (s *server) called(in *natsgo.Msg) bool { return in.Reply != "" && in.Sub.Queue == group }

// pass makes a message that no handler has seen go to another server of the topic: a caller sends it again, and for a cast
// this server does. A fanout is only for this one.
func (s *server) pass(in *natsgo.Msg) {
	if in.Reply == "" && in.Sub.Queue == group {
		s.publish(in.Subject, nil, in.Data)
	} else {
		s.refuse(in, refusedStopping)
	}
}

// refuse tells a caller, if there is one, that no handler has seen its call.
func (s *server) refuse(in *natsgo.Msg, why string) {
	if s.called(in) {
		s.publish(in.Reply, natsgo.Header{headerRefused: {why}}, nil)
	}
}

// publish sends what is lost if it can't be sent.
func (s *server) publish(subject string, header natsgo.Header, data []byte) {
	err := error(natsgo.ErrDisconnected)
	if l := s.bus.link.Load(); l != nil && header == nil {
		err = l.nc.Publish(subject, data)
	} else if l != nil {
		err = l.nc.PublishMsg(&natsgo.Msg{Subject: subject, Header: header, Data: data})
	}
	if err != nil {
		s.bus.log.Debug("nats: an answer is lost", "topic", s.topic, "error", err)
	}
}

func (s *server) handle(t *task) {
	m, skew, err := decode(s.topic, t.in, t.at)
	if skew != 0 && s.bus.rarely() {
		s.bus.log.Warn("nats: the clock of another host differs", "topic", s.topic, "id", m.ID, "behind", skew.Round(time.Millisecond))
	}
	if err != nil {
		s.bus.log.Warn("nats: a message is not one of a bus", "topic", s.topic, "error", err)
		s.answer(t.in, m.ID, nil, queue.FailureOf(err))
		return
	}
	if !s.called(t.in) {
		m.ReplyTo = ""
	}
	if !m.Deadline.IsZero() && !time.Now().Before(m.Deadline) {
		return // whoever called knows by itself
	}
	t.handling.Begin(s.bus.life, nil, m.Deadline)
	queue.Invoke(&t.handling, s.handler, m, func(answer []byte, f *queue.Failure) {
		t.handling.Finish()
		s.answer(t.in, m.ID, answer, f)
	})
}

// answer sends what a handler said to whoever waits for it, and logs what nobody else would see.
func (s *server) answer(in *natsgo.Msg, id string, answer []byte, f *queue.Failure) {
	called := s.called(in)
	if f != nil && f.Stack != "" {
		s.bus.log.Error("nats: a handler panicked", "topic", s.topic, "id", id, "error", f.Text, "stack", f.Stack)
	} else if f != nil && !called {
		s.bus.log.Debug("nats: a handler failed and nobody waits", "topic", s.topic, "id", id, "error", f.Text)
	}
	switch {
	case called && f == nil:
		s.publish(in.Reply, nil, answer)
	case called:
		s.publish(in.Reply, natsgo.Header{headerFailure: {f.Class}}, []byte(f.Text))
	}
}

// backlog is a queue of messages, first in, first out.
type backlog struct {
	tasks []*task
	head  int
	bytes int
}

func (q *backlog) len() int { return len(q.tasks) - q.head }

func (q *backlog) push(t *task) {
	if q.head > len(q.tasks)/2 {
		n := copy(q.tasks, q.tasks[q.head:])
		clear(q.tasks[n:])
		q.tasks, q.head = q.tasks[:n], 0
	}
	q.tasks = append(q.tasks, t)
	q.bytes += t.in.Size()
}

func (q *backlog) pop() *task {
	t := q.tasks[q.head]
	q.tasks[q.head] = nil
	q.bytes -= t.in.Size()
	if q.head++; q.head == len(q.tasks) {
		*q = backlog{} // a long backlog is rare: don't keep its memory
	}
	return t
}
