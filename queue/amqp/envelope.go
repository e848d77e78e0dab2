package amqp

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// What a message is, in its property "type".
const (
	isCall   = "call"
	isCast   = "cast"
	isFanout = "fanout"

	isAnswer  = "answer"  // the body is a handler's answer
	isFailure = "failure" // the body is a queue.Failure as JSON
	isNobody  = "nobody"  // the server left before a handler began, and there is no other
	isLate    = "late"    // the deadline had passed by the server's clock
	isDropped = "dropped" // a server ended while it had the message
)

// Headers of a message.
const (
	headCaller = "caller" // bytes
	headTrace  = "trace"  // text
)

// until begins the property "app-id" of a message with a deadline; microseconds since 1970 UTC follow. It is no header
// because most messages have a deadline and nothing else, and a table of headers alone costs the broker a tenth of a call.
const until = "until="

// longest is the longest expiration that a broker takes; it has 32 bits for the milliseconds.
const longest = (1<<32 - 1) * time.Millisecond

// envelop returns m as it travels, but for what its connection adds: the correlation id and where the answer goes.
func envelop(kind string, m queue.Message, now time.Time) amqp091.Publishing {
	p := amqp091.Publishing{Type: kind, MessageId: m.ID, DeliveryMode: amqp091.Transient, Body: m.Body}
	if len(m.Caller) > 0 || m.Trace != "" {
		p.Headers = amqp091.Table{headCaller: m.Caller, headTrace: m.Trace}
	}
	if !m.Deadline.IsZero() {
		p.AppId = until + strconv.FormatInt(m.Deadline.UnixMicro(), 10)
		if left := m.Deadline.Sub(now); left < longest {
			p.Expiration = strconv.FormatInt(max(1, int64((left+time.Millisecond-1)/time.Millisecond)), 10)
		}
	}
	return p
}

// open returns the message of a delivery to a server of topic. What comes was written by others: it is checked as strictly
// as what is sent.
func open(topic string, d *amqp091.Delivery) (queue.Message, error) {
	m := queue.Message{ID: d.MessageId, Topic: topic, Body: d.Body}
	if d.Type != isCall && d.Type != isCast && d.Type != isFanout {
		return m, fmt.Errorf("amqp: a message of the type %.40q: %w", d.Type, errdefs.ErrInvalidArgument)
	}
	if d.Type == isCall {
		if m.ReplyTo = d.ReplyTo; m.ReplyTo == "" {
			return m, fmt.Errorf("amqp: a call that says not where its answer goes: %w", errdefs.ErrInvalidArgument)
		}
	}
	if text, ok := strings.CutPrefix(d.AppId, until); ok {
		at, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return m, fmt.Errorf("amqp: the deadline of a message is %.40q: %w", text, errdefs.ErrInvalidArgument)
		}
		m.Deadline = time.UnixMicro(at)
	}
	for name, value := range d.Headers {
		ok := true
		switch name {
		case headCaller:
			m.Caller, ok = value.([]byte)
		case headTrace:
			m.Trace, ok = value.(string)
		}
		if !ok {
			return m, fmt.Errorf("amqp: the header %s of a message is a %T: %w", name, value, errdefs.ErrInvalidArgument)
		}
	}
	return m, m.Check()
}

// encode returns what a handler's end is in an answer.
func encode(answer []byte, f *queue.Failure) (kind string, body []byte) {
	if f == nil {
		return isAnswer, answer
	}
	body, err := json.Marshal(f)
	if err != nil { // a struct of two strings
		body = []byte("{}")
	}
	return isFailure, body
}

// decode returns what an answer says.
func decode(topic string, d *amqp091.Delivery) ([]byte, error) {
	switch d.Type {
	case isAnswer:
		if len(d.Body) > queue.MaxBody {
			return nil, fmt.Errorf("amqp: an answer of %q has %d bytes, at most %d are possible: %w", topic, len(d.Body), queue.MaxBody, errdefs.ErrInternal)
		}
		return d.Body, nil
	case isFailure:
		f := &queue.Failure{}
		if err := json.Unmarshal(d.Body, f); err != nil {
			return nil, fmt.Errorf("amqp: a failure of %q can't be read: %w", topic, errdefs.ErrInternal)
		}
		return nil, f
	case isNobody:
		return nil, unheard(topic)
	case isLate:
		return nil, errLate
	case isDropped:
		return nil, fmt.Errorf("amqp: a server of %q ended while it had the message, which may have been handled: %w", topic, errdefs.ErrUnavailable)
	}
	return nil, fmt.Errorf("amqp: an answer of %q has the type %.40q: %w", topic, d.Type, errdefs.ErrInternal)
}

// errLate is the answer of a server that finds the deadline passed.
var errLate = fmt.Errorf("amqp: the deadline has passed by the server's clock: do the clocks of the hosts differ?: %w", errdefs.ErrFailedPrecondition)

// unheard is the error of a message to a topic that has no server.
func unheard(topic string) error { return fmt.Errorf("topic %q: %w", topic, queue.ErrNoListener) }
