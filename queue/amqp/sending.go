package amqp

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// sending is a message on its way to the broker.
type sending struct {
	topic     string
	exchange  string
	mandatory bool // ErrNoListener where nobody serves
	call      bool // waits for an answer
	message   amqp091.Publishing
	fate      chan fate // of capacity 1: told once

	state atomic.Int32 // waiting, then one of the others
	tag   uint64       // of its session; guarded by that one
}

const (
	waiting   = iota
	written   // or being written: the broker may have it
	abandoned // the sender has given up before it was written
)

// fate is what becomes of a sending.
type fate struct {
	answer []byte
	err    error
	again  bool // it was not written: another session may take it
}

// tell ends the wait of the sender. Only the first counts.
func (p *sending) tell(f fate) {
	select {
	case p.fate <- f:
	default:
	}
}

// send sends p and waits for its fate, over as many sessions as it takes to write it. late ends it too.
func (b *Bus) send(ctx context.Context, p *sending, late <-chan time.Time) ([]byte, error) {
	var s *session
	giveUp := func(err error) ([]byte, error) {
		p.state.CompareAndSwap(waiting, abandoned)
		if s != nil {
			s.forget(p)
		}
		return nil, err
	}
	for {
		var err error
		if s, err = b.session(ctx, late); err != nil {
			return giveUp(err)
		}
		select {
		case s.sends <- p:
		case <-s.dead:
			continue
		case <-ctx.Done():
			return giveUp(ctx.Err())
		case <-late:
			return giveUp(context.DeadlineExceeded)
		case <-b.life.Done():
			return giveUp(queue.ErrClosed)
		}
		select {
		case f := <-p.fate:
			if f.again {
				continue
			}
			if b.life.Err() != nil {
				return giveUp(queue.ErrClosed) // and not what Close made of the handler
			}
			return f.answer, f.err
		case <-ctx.Done():
			return giveUp(ctx.Err())
		case <-late:
			return giveUp(context.DeadlineExceeded)
		case <-b.life.Done():
			return giveUp(queue.ErrClosed)
		}
	}
}

// forget takes a call off the books whose caller has gone.
func (s *session) forget(p *sending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[p.tag] == p {
		delete(s.calls, p.tag)
	}
}

// publishAll writes what is sent. It alone writes to its channel: a write can block for as long as a broker likes, and a
// sender must be able to leave.
func (s *session) publishAll() {
	for {
		select {
		case <-s.dead:
			return
		case p := <-s.sends:
			if !s.ready() {
				p.tell(fate{again: true})
				return
			}
			if !p.state.CompareAndSwap(waiting, written) {
				<-s.room
				continue
			}
			s.write(p)
		}
	}
}

// ready waits until the broker takes a message. It returns false if the session ends first.
func (s *session) ready() bool {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	select {
	case <-gate:
	case <-s.dead:
		return false
	}
	select {
	case s.room <- struct{}{}:
		return true
	case <-s.dead:
		return false
	}
}

// write registers p before it is written: what comes of it may come at once.
func (s *session) write(p *sending) {
	tag := s.publish.GetNextPublishSeqNo()
	p.message.CorrelationId = strconv.FormatUint(tag, 36)
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		p.state.Store(waiting)
		p.tell(fate{again: true})
		return
	}
	p.tag = tag
	s.unconfirmed[tag] = p
	if p.call {
		p.message.ReplyTo = s.mailbox
		s.calls[tag] = p
	}
	s.mu.Unlock()
	if err := s.publish.PublishWithContext(context.Background(), p.exchange, p.topic, p.mandatory, false, p.message); err != nil {
		s.bus.cfg.Logger.Debug("amqp: publishing failed", "topic", p.topic, "error", err.Error())
		if err != amqp091.ErrClosed { // of a channel that has ended, watch hears why
			s.loops.Go(s.end) // which fails p with all others
		}
	}
}

// confirmAll reads what the broker says of messages. It never waits for anything else, or the whole connection would.
func (s *session) confirmAll() {
	returned, confirmed := s.returned, s.confirmed
	for returned != nil || confirmed != nil {
		select {
		case r, ok := <-returned:
			if !ok {
				returned = nil
			} else if tag, err := strconv.ParseUint(r.CorrelationId, 36, 64); err == nil {
				s.undeliverable(tag)
			}
		case c, ok := <-confirmed:
			if !ok {
				confirmed = nil
			} else {
				s.confirm(c.DeliveryTag, c.Ack)
			}
		}
	}
}

func (s *session) undeliverable(tag uint64) {
	s.mu.Lock()
	p := s.unconfirmed[tag]
	delete(s.calls, tag)
	s.mu.Unlock()
	if p != nil {
		p.tell(fate{err: unheard(p.topic)})
	}
}

func (s *session) confirm(tag uint64, taken bool) {
	s.mu.Lock()
	p := s.unconfirmed[tag]
	delete(s.unconfirmed, tag)
	if !taken {
		delete(s.calls, tag)
	}
	s.mu.Unlock()
	if p == nil {
		return // the session ends
	}
	<-s.room
	switch {
	case !taken:
		p.tell(fate{err: s.bus.full(p.topic)})
	case !p.call:
		p.tell(fate{})
	}
}

// collect takes in answers.
func (s *session) collect() {
	for d := range s.incoming {
		tag, err := strconv.ParseUint(d.CorrelationId, 36, 64)
		if err != nil {
			continue
		}
		s.mu.Lock()
		p := s.calls[tag]
		delete(s.calls, tag)
		s.mu.Unlock()
		if p != nil {
			answer, err := decode(p.topic, &d)
			p.tell(fate{answer: answer, err: err})
		}
	}
	s.loops.Go(s.end) // the queue of answers has ended, and the session with it
}
