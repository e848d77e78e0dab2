package amqp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// server is a handler, over as many sessions as it takes.
type server struct {
	bus     *Bus
	topic   string
	handler queue.Handler
	slots   chan struct{} // holds one for each handler that runs

	once    sync.Once
	leaving chan struct{} // closed when it is to take no more
	gone    chan struct{} // closed when it has left and its handlers have returned
	posts   sync.WaitGroup
}

// post is a server on one session: a channel with two consumers.
type post struct {
	server  *server
	session *session
	channel *amqp091.Channel
	tags    []string       // of the consumers
	pumps   sync.WaitGroup // end when the consumers have ended
	ended   chan struct{}  // closed when a consumer has ended
	once    sync.Once
	busy    sync.WaitGroup // deliveries that are not acknowledged
}

// Serve is as [queue.Bus] says. Beside InvalidArgument and ErrClosed it returns FailedPrecondition if the topic's queue
// exists with another Backlog, PermissionDenied if the user may not have it, and Unavailable if there is no connection for
// [Config].SendWait.
func (b *Bus) Serve(topic string, h queue.Handler) (stop func(), err error) {
	if err := queue.CheckTopic(topic); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, fmt.Errorf("amqp: the handler of %s is nil: %w", topic, errdefs.ErrInvalidArgument)
	}
	s := &server{bus: b, topic: topic, handler: h, slots: make(chan struct{}, b.cfg.Workers), leaving: make(chan struct{}), gone: make(chan struct{})}
	b.mu.Lock()
	if b.closed != nil {
		b.mu.Unlock()
		return nil, queue.ErrClosed
	}
	b.servers[s] = struct{}{}
	b.mu.Unlock()
	stop = func() {
		s.leave()
		<-s.gone
	}
	first := make(chan error, 1)
	go s.keep(first)
	late := time.NewTimer(b.cfg.SendWait + grace)
	defer late.Stop()
	select {
	case err = <-first:
	case <-late.C:
		err = fmt.Errorf("amqp: the broker lets nobody serve %q: %w", topic, errdefs.ErrUnavailable)
	}
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

func (s *server) leave() { s.once.Do(func() { close(s.leaving) }) }

// keep serves until it is told to leave. What comes of the first attempt is told to first.
func (s *server) keep(first chan<- error) {
	defer func() {
		s.posts.Wait()
		s.bus.mu.Lock()
		delete(s.bus.servers, s)
		s.bus.mu.Unlock()
		close(s.gone)
	}()
	ctx, cancel := context.WithCancel(s.bus.life)
	defer cancel()
	go func() {
		select {
		case <-s.leaving:
			cancel()
		case <-ctx.Done():
		}
	}()
	fresh := true
	for failures := 0; ; {
		session, err := s.bus.session(ctx, nil)
		if err == nil {
			var p *post
			if p, err = s.attach(session); err == nil {
				if failures = 0; fresh {
					fresh = false
					first <- nil
				}
				if !p.serve() {
					return
				}
				continue
			}
		}
		if fresh && (lasting(err) || failures > 8 || errors.Is(err, queue.ErrClosed) || session == nil) {
			first <- err
			return
		}
		if ctx.Err() != nil {
			first <- err
			return
		}
		d := pause(failures, s.bus.cfg.MaxBackoff)
		failures++
		if session != nil && !fresh {
			s.bus.cfg.Logger.Warn("amqp: a topic can't be served", "topic", s.topic, "error", err, "next", d)
		}
		sleep(ctx, d, nil)
	}
}

// attach declares what the server needs and begins to consume.
func (s *server) attach(on *session) (_ *post, err error) {
	defer on.drop("to serve " + s.topic)()
	ch, err := on.conn.Channel()
	if err != nil {
		return nil, translate("opening a channel for "+s.topic, err)
	}
	p := &post{server: s, session: on, channel: ch, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			p.retire()
		}
	}()
	cfg, fan := &s.bus.cfg, s.bus.cfg.Prefix+".fan."+rand.Text()
	if err := ch.Qos(cfg.Workers, 0, false); err != nil {
		return nil, translate("limiting what is served at a time", err)
	}
	if err := cfg.declareTopic(ch, s.topic); err != nil {
		return nil, err
	}
	if err := declareOwn(ch, fan, s.topic, cfg.fanExchange(), cfg.bounded()); err != nil {
		return nil, err
	}
	for _, name := range []string{fan, cfg.topicQueue(s.topic)} {
		tag := rand.Text()
		in, err := ch.Consume(name, tag, false, false, false, false, nil)
		if err != nil {
			return nil, translate("consuming the queue "+name, err)
		}
		p.tags = append(p.tags, tag)
		p.pumps.Go(func() { p.pump(in, name == fan) })
	}
	return p, nil
}

// serve waits for the end: it returns false if the server leaves, true if it is to attach again.
func (p *post) serve() bool {
	again := true
	select {
	case <-p.ended:
		select {
		case <-p.session.dead:
		default:
			p.server.bus.cfg.Logger.Warn("amqp: the broker ended a consumer, serving again", "topic", p.server.topic)
		}
	case <-p.server.leaving:
		again = false
	case <-p.server.bus.life.Done():
		again = false
	}
	if !again {
		p.drain()
	}
	p.retire()
	return again
}

// retire takes no more, and lets the channel go when all it has brought is acknowledged.
func (p *post) retire() {
	done := p.session.drop("to stop serving " + p.server.topic)
	for _, tag := range p.tags {
		_ = p.channel.Cancel(tag, false) // an error means that the channel has ended
	}
	p.pumps.Wait()
	done()
	p.server.posts.Go(func() {
		p.busy.Wait()
		defer p.session.drop("to close a channel")()
		_ = p.channel.Close()
	})
}

// drain tells the calls that wait, if this is the topic's last consumer: with it the queue ends. Casts are lost.
func (p *post) drain() {
	defer p.session.drop("who else serves " + p.server.topic)()
	name := p.server.bus.cfg.topicQueue(p.server.topic)
	q, err := p.channel.QueueDeclarePassive(name, true, true, false, false, nil)
	if err != nil || q.Consumers != 1 {
		return
	}
	for range p.server.bus.cfg.Backlog + 1 { // whoever is faster than that sends to a topic without servers
		d, ok, err := p.channel.Get(name, true)
		if err != nil || !ok {
			return
		}
		p.session.answer(&d, isNobody, nil)
	}
}

// pump hands out what one consumer gets. It must not stop before the consumer ends.
func (p *post) pump(in <-chan amqp091.Delivery, fan bool) {
	defer p.once.Do(func() { close(p.ended) })
	for d := range in {
		p.busy.Add(1)
		go func() {
			defer p.busy.Done()
			p.take(&d, fan)
		}()
	}
}

// take handles a delivery, or not.
func (p *post) take(d *amqp091.Delivery, fan bool) {
	s, log := p.server, p.server.bus.cfg.Logger
	m, err := open(s.topic, d)
	if err != nil {
		log.Warn("amqp: a message that is none", "topic", s.topic, "error", err)
		_ = d.Reject(false)
		return
	}
	if d.Redelivered {
		log.Warn("amqp: a server ended while it had a message: not handled again", "topic", s.topic, "id", m.ID)
		p.session.answer(d, isDropped, nil)
		_ = d.Reject(false)
		return
	}
	// Whoever leaves handles what has come to it, but begins nothing that would have to wait.
	select {
	case s.slots <- struct{}{}:
	default:
		select {
		case s.slots <- struct{}{}:
		case <-s.leaving:
			p.settle(d, isNobody, nil)
			return
		case <-s.bus.life.Done():
			p.settle(d, isNobody, nil)
			return
		}
	}
	switch {
	case s.bus.life.Err() != nil:
		<-s.slots
		p.settle(d, isNobody, nil)
		return
	case !m.Deadline.IsZero() && !time.Now().Before(m.Deadline):
		<-s.slots
		p.settle(d, isLate, nil)
		return
	}
	ctx := &queue.HandlerContext{}
	ctx.Begin(s.bus.life, nil, m.Deadline)
	queue.Invoke(ctx, s.handler, m, func(answer []byte, f *queue.Failure) {
		ctx.Finish()
		<-s.slots
		if f != nil && f.Stack != "" {
			log.Error("amqp: a handler panicked", "topic", m.Topic, "id", m.ID, "error", f.Text, "stack", f.Stack)
		} else if f != nil && d.Type != isCall {
			log.Debug("amqp: a handler failed and nobody waits", "topic", m.Topic, "id", m.ID, "error", f.Text)
		}
		kind, body := encode(answer, f)
		p.settle(d, kind, body)
	})
}

// settle answers a delivery and acknowledges it.
func (p *post) settle(d *amqp091.Delivery, kind string, body []byte) {
	p.session.answer(d, kind, body)
	if err := d.Ack(false); err != nil {
		p.server.bus.cfg.Logger.Debug("amqp: an acknowledgement is lost", "topic", p.server.topic, "id", d.MessageId, "error", err.Error())
	}
}
