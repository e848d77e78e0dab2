package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Message is the envelope that a bus carries. A sender sets Topic and Body, and may set the others.
type Message struct {
	ID      string // unique among all messages of all processes; "": set by the bus
	Topic   string // required
	ReplyTo string // where the answer goes, in the bus's own terms, for Call and CallAsync; set by the bus, "" otherwise

	// Deadline is when the message is worth nothing any more. For Call and CallAsync the bus sets it to the deadline of ctx
	// if that is earlier. Zero: never.
	Deadline time.Time

	// Caller says on whose behalf the message is sent, in bytes that the bus does not look into. A handler may trust it as
	// far as it trusts everybody who can send on the bus.
	Caller []byte
	Trace  string // an id that the messages of one request have in common; "": none
	Body   []byte // JSON, if it comes from this package's functions
}

// Check returns InvalidArgument, naming the field and the limit, if a bus must not carry m. Buses call it; senders need
// not.
func (m Message) Check() error {
	if err := CheckTopic(m.Topic); err != nil {
		return err
	}
	for _, f := range []struct {
		name     string
		len, max int
	}{{"Body", len(m.Body), MaxBody}, {"ID", len(m.ID), maxField}, {"Trace", len(m.Trace), maxField}, {"Caller", len(m.Caller), maxCaller}} {
		if f.len > f.max {
			return fmt.Errorf("queue: Message.%s to %q has %d bytes, at most %d are possible: %w",
				f.name, m.Topic, f.len, f.max, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

const (
	maxField  = 200
	maxCaller = 8 << 10
)

// CheckTopic returns InvalidArgument if topic is not one.
func CheckTopic(topic string) error {
	if len(topic) == 0 || len(topic) > MaxTopic {
		return fmt.Errorf("queue: the topic has %d bytes, must have 1 to %d: %w", len(topic), MaxTopic, errdefs.ErrInvalidArgument)
	}
	dot := true
	for i := range len(topic) {
		switch c := topic[i]; {
		case c == '.' && !dot:
			dot = true
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			dot = false
		default:
			return fmt.Errorf("queue: byte %d of the topic %q: it must be words of letters, digits, - and _, joined by dots: %w",
				i, topic, errdefs.ErrInvalidArgument)
		}
	}
	if dot {
		return fmt.Errorf("queue: the topic %q ends in a dot: %w", topic, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Origin is who and what a message comes from: it travels in the envelope, from the context of the sender that used
// this package's functions to the context of the [Handle] function.
type Origin struct {
	Caller []byte // as in Message
	Trace  string // as in Message
}

type originKey struct{}

// NewContext returns a context whose messages come from o.
func NewContext(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// FromContext returns the origin that messages sent with ctx have: in a [Handle] function, that of the message at hand.
func FromContext(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin)
	return o
}
