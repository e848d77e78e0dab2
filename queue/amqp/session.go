package amqp

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// grace is how long the broker may take for what it is asked when a server comes or goes and when a bus is closed. After it
// the connection is dropped, which ends every wait.
const grace = 10 * time.Second

// session is one connection and what depends on it. It ends as a whole: when any of its channels fails, all of it does.
type session struct {
	bus  *Bus
	raw  net.Conn
	conn *amqp091.Connection

	publish, answers, replies *amqp091.Channel

	mailbox   string        // the queue that answers come to
	sends     chan *sending // to be published
	room      chan struct{} // holds one for each message that is not confirmed
	incoming  <-chan amqp091.Delivery
	returned  chan amqp091.Return // without buffer: it is taken before the confirmation of the same message is read
	confirmed chan amqp091.Confirmation

	dead  chan struct{} // closed when it has ended
	once  sync.Once
	loops sync.WaitGroup

	mu          sync.Mutex
	over        bool
	refused     string        // why the broker ended it, if that was a message that the user may not send
	gate        chan struct{} // closed while the broker takes messages
	unconfirmed map[uint64]*sending
	calls       map[uint64]*sending // that wait for an answer
}

// connect makes a session. ctx bounds that alone.
func (b *Bus) connect(ctx context.Context) (*session, error) {
	dialer := net.Dialer{Timeout: b.at.dialTimeout}
	raw, err := dialer.DialContext(ctx, "tcp", b.at.address)
	if err != nil {
		return nil, b.at.refused(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	s, err := b.greet(ctx, raw)
	if !stop() && err == nil {
		s.end()
		s.loops.Wait()
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return s, nil
}

// greet makes a session of a connection.
func (b *Bus) greet(ctx context.Context, raw net.Conn) (*session, error) {
	_ = raw.SetDeadline(time.Now().Add(b.at.dialTimeout)) // of the handshakes; the client clears it
	carrier := raw
	if b.at.secure {
		client := tls.Client(raw, b.at.tls)
		if err := client.HandshakeContext(ctx); err != nil {
			return nil, b.at.refused(err)
		}
		carrier = client
	}
	name := b.cfg.Name
	if name == "" {
		name = b.name
	}
	conn, err := amqp091.Open(carrier, amqp091.Config{
		SASL:  []amqp091.Authentication{&amqp091.PlainAuth{Username: b.at.user, Password: b.at.password}},
		Vhost: b.at.vhost, FrameSize: 128 << 10, Heartbeat: b.cfg.Heartbeat, Locale: "en_US",
		Properties: amqp091.Table{"product": "dewpoint", "connection_name": name},
	})
	if err != nil {
		return nil, b.at.refused(err)
	}
	s := &session{bus: b, raw: raw, conn: conn, mailbox: b.cfg.Prefix + ".answers." + rand.Text(), sends: make(chan *sending),
		room: make(chan struct{}, b.cfg.Inflight), dead: make(chan struct{}), gate: make(chan struct{}),
		unconfirmed: map[uint64]*sending{}, calls: map[uint64]*sending{}}
	close(s.gate)
	if err := s.open(); err != nil {
		_ = conn.CloseDeadline(time.Now().Add(time.Second))
		return nil, err
	}
	return s, nil
}

// open makes the channels, declares what there must be, and starts the loops.
func (s *session) open() error {
	for _, ch := range []**amqp091.Channel{&s.publish, &s.answers, &s.replies} {
		made, err := s.conn.Channel()
		if err != nil {
			return translate("opening a channel", err)
		}
		*ch = made
	}
	cfg := &s.bus.cfg
	if err := cfg.declareShared(s.replies); err != nil {
		return err
	}
	if err := declareOwn(s.replies, s.mailbox, s.mailbox, cfg.replyExchange(), nil); err != nil {
		return err
	}
	var err error
	if s.incoming, err = s.replies.Consume(s.mailbox, "", true, true, false, false, nil); err != nil {
		return translate("consuming the queue "+s.mailbox, err)
	}
	if err := s.publish.Confirm(false); err != nil {
		return translate("asking for confirmations", err)
	}
	s.returned = s.publish.NotifyReturn(make(chan amqp091.Return))
	s.confirmed = s.publish.NotifyPublish(make(chan amqp091.Confirmation, 256))
	blocked := s.conn.NotifyBlocked(make(chan amqp091.Blocking, 8))
	var ends []<-chan *amqp091.Error
	ends = append(ends, s.conn.NotifyClose(make(chan *amqp091.Error, 1)))
	for _, ch := range []*amqp091.Channel{s.publish, s.answers, s.replies} {
		ends = append(ends, ch.NotifyClose(make(chan *amqp091.Error, 1)))
	}
	for _, loop := range []func(){s.publishAll, s.confirmAll, s.collect, func() { s.obey(blocked) }, func() { s.watch(ends) }} {
		s.loops.Go(loop)
	}
	return nil
}

// watch ends the session when the connection or one of its channels ends.
func (s *session) watch(ends []<-chan *amqp091.Error) {
	var err *amqp091.Error
	select {
	case err = <-ends[0]:
	case err = <-ends[1]:
	case err = <-ends[2]:
	case err = <-ends[3]:
	case <-s.dead:
		return
	}
	text := "closed"
	if err != nil {
		text = translate("the broker", err).Error()
		if err.Code == amqp091.AccessRefused {
			s.mu.Lock()
			s.refused = err.Reason
			s.mu.Unlock()
		}
	}
	s.bus.cfg.Logger.Warn("amqp: the connection to the broker ended", "broker", s.bus.at.address, "error", text)
	s.end()
}

// end ends the session and all that waits for it.
func (s *session) end() {
	s.once.Do(func() {
		s.mu.Lock()
		s.over = true
		lost := make([]*sending, 0, len(s.unconfirmed)+len(s.calls))
		for _, all := range []map[uint64]*sending{s.unconfirmed, s.calls} {
			for _, p := range all {
				lost = append(lost, p)
			}
			clear(all)
		}
		refused := s.refused
		s.mu.Unlock()
		close(s.dead)
		for _, p := range lost {
			if strings.Contains(refused, "'"+p.exchange+"'") {
				p.tell(fate{err: fmt.Errorf("amqp: topic %q: the broker does not allow the user to send: %w", p.topic, errdefs.ErrPermissionDenied)})
			} else {
				p.tell(fate{err: errLost})
			}
		}
		_ = s.conn.CloseDeadline(time.Now().Add(time.Second))
		_ = s.raw.Close()
	})
}

// drop ends the session when the broker takes too long for what is done until the returned function is called.
func (s *session) drop(what string) (done func()) {
	timer := time.AfterFunc(grace, func() {
		s.bus.cfg.Logger.Warn("amqp: the broker does not answer, dropping the connection", "broker", s.bus.at.address, "asked", what)
		_ = s.raw.Close()
	})
	return func() { timer.Stop() }
}

// obey keeps the gate: a broker that is short of memory or disk blocks who publishes.
func (s *session) obey(blocked <-chan amqp091.Blocking) {
	for state := range blocked {
		s.mu.Lock()
		select {
		case <-s.gate:
			if state.Active {
				s.gate = make(chan struct{})
			}
		default:
			if !state.Active {
				close(s.gate)
			}
		}
		s.mu.Unlock()
		if state.Active {
			s.bus.cfg.Logger.Warn("amqp: the broker takes no messages for now", "broker", s.bus.at.address, "reason", state.Reason)
		} else {
			s.bus.cfg.Logger.Info("amqp: the broker takes messages again", "broker", s.bus.at.address)
		}
	}
}

// answer sends what a handler or server says to whoever waits for it. If that one has gone the broker drops it.
func (s *session) answer(m *amqp091.Delivery, kind string, body []byte) {
	if m.Type != isCall || m.ReplyTo == "" {
		return
	}
	err := s.answers.PublishWithContext(context.Background(), s.bus.cfg.replyExchange(), m.ReplyTo, false, false, amqp091.Publishing{
		Type: kind, CorrelationId: m.CorrelationId, DeliveryMode: amqp091.Transient, Body: body})
	if err != nil {
		s.bus.cfg.Logger.Debug("amqp: an answer is lost", "id", m.MessageId, "error", fmt.Sprint(err))
	}
}
