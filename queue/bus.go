// Package queue carries messages between the parts of a cloud, in one process or in many: [Bus] is the contract,
// memqueue the bus inside a process, and queuetest the suite that every bus passes.
//
// The bus is a doorbell and the store is the truth. A message that gets lost costs time, never work: whoever a doorbell
// is for also looks at the store when it starts, when it reconnects and on a slow tick. That is why delivery at most
// once is enough, and why nothing that must not be lost is only in a message.
package queue

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Bus is the message bus (in the root package: MessageBus).
//
// # Topics
//
// A topic is a role or a host: "scheduler" is answered by any scheduler, "compute.<host>" by one node, and a suffix tells
// a node's services apart ("compute.<host>.console"). It has 1 to [MaxTopic] bytes: words of ASCII letters, digits, "-"
// and "_", joined by dots. Topics come to be when they are served and need not be declared.
//
// # Delivery
//
// A message reaches a handler at most once, and perhaps never: a bus may lose it when a server, a broker or a connection
// ends. The servers of a topic compete: each Cast, Call or CallAsync goes to one of them. A Fanout goes to each of them.
// There is no order: two messages, of one sender or of several, may be handled in any order and at the same time. A
// message whose Deadline has passed when a server comes to it is not handled.
//
// A message and an answer are copied on their way: neither side sees what the other does to its bytes later, and the
// bytes that a handler or a caller gets are its own.
//
// # Errors
//
// An error that a handler returns comes out of the caller's Call with the same class of package errdefs and the same
// text, as a [*Failure]; nothing else of it travels, so a caller can ask errdefs.IsNotFound(err) but not compare
// it with a variable. A handler that panics, or ends its goroutine, is answered with Internal; the server goes on. What
// the bus itself has to say is [ErrNoListener], [ErrBacklog], [ErrClosed], InvalidArgument for a topic or body outside
// the limits, or the error of the caller's ctx, unwrapped. A bus with a network behind it that has no connection, or loses
// it while a call waits, says so with an error of class Unavailable; one that the network does not allow to send or
// serve, with PermissionDenied.
//
// # Bounds
//
// Nothing grows without limit. A server handles a bounded number of messages at a time, and a bounded number more wait
// for it; over that, sending fails with ErrBacklog (a bus that can't know this drops the message). A body and an
// answer have at most [MaxBody] bytes. No call is forever: one whose ctx has no deadline is bounded by the bus.
//
// # Use
//
// Most code uses [Call], [Cast], [Fanout], [CallAsync] and [Handle], which carry Go values as JSON:
//
//	stop, err := bus.Serve("compute."+host, queue.Handle(func(ctx context.Context, req Reboot) (Rebooted, error) { … }))
//	answer, err := queue.Call[Reboot, Rebooted](ctx, bus, "compute."+host, Reboot{ID: id})
//
// All methods are safe for concurrent use, also from handlers, except that a handler must not call the stop function
// of its own server, or Close: both would wait for it to return.
type Bus interface {
	// Cast sends m to one server of m.Topic and does not wait for it. ctx bounds the sending only. nil means that the bus
	// has taken the message, not that a handler will see it. With no server the message is lost, or waits for one if
	// the bus keeps messages; a bus that knows that it is lost returns ErrNoListener. A handler's answer or error goes
	// nowhere.
	Cast(ctx context.Context, m Message) error

	// Call sends m to one server of m.Topic and returns its answer. With no server it fails at once with ErrNoListener. It
	// returns when ctx ends, with ctx's error, whatever the handler is doing; a call whose ctx has no deadline ends
	// after a time that the bus sets, with context.DeadlineExceeded. After any error but ErrNoListener, ErrBacklog and
	// InvalidArgument of the bus itself, the handler may have run or may still run.
	Call(ctx context.Context, m Message) ([]byte, error)

	// CallAsync sends m as Call does and returns at once. If it returns nil, done runs exactly once, on a goroutine of
	// the bus, with what Call would have returned. If it returns an error, done never runs: what is known without waiting
	// (InvalidArgument, ErrBacklog, ErrClosed, the error of a ctx that has ended, with most buses ErrNoListener) is
	// returned so. done may block and may use the bus; the number of calls whose done has not returned is bounded, with
	// ErrBacklog beyond. A panic in it is not caught.
	CallAsync(ctx context.Context, m Message, done func(answer []byte, err error)) error

	// Fanout sends m to every server that m.Topic has now, on any host, and does not wait for them. No server at all is
	// success. A server whose backlog is full misses the message; a bus that knows it returns ErrBacklog, and the
	// others have got the message nevertheless.
	Fanout(ctx context.Context, m Message) error

	// Serve makes h a server of topic. When it returns, messages sent from now on reach it. h is called on goroutines of
	// the bus, several at a time. Its context carries no values of the sender's context; it ends at the message's Deadline
	// and when the bus is closed, and a bus that knows that nobody waits for the answer any more may end it earlier.
	//
	// stop makes the server take no more messages and returns when the running handlers have returned; it does not end
	// their contexts. Calls that no handler has begun go to another server of the topic or fail with ErrNoListener. A
	// second stop only waits.
	Serve(topic string, h Handler) (stop func(), err error)

	// Close ends all servers of this bus value and the contexts of their handlers, fails the calls that wait with
	// ErrClosed, and returns when the running handlers and done functions have returned. Everything after it fails with
	// ErrClosed. A second Close returns nil.
	Close() error
}

// Handler answers a message. The answer of a Cast or Fanout is dropped. The message's bytes are the handler's own. The
// bus copies the answer after the return, so its bytes must not be changed from then on; the caller can't change them.
type Handler func(ctx context.Context, m Message) (answer []byte, err error)

// Limits of every bus.
const (
	MaxTopic = 200     // bytes of a topic
	MaxBody  = 1 << 19 // bytes of a body and of an answer: half of what a NATS server takes by default
)

// What a bus itself refuses with.
var (
	// ErrNoListener means that nobody serves the topic. It is Unavailable.
	ErrNoListener = fmt.Errorf("queue: nobody serves the topic: %w", errdefs.ErrUnavailable)
	// ErrBacklog means that as many messages wait as may. It is ResourceExhausted.
	ErrBacklog = fmt.Errorf("queue: the backlog is full: %w", errdefs.ErrResourceExhausted)
	// ErrClosed means that Close was called on this bus. It is Unavailable.
	ErrClosed = fmt.Errorf("queue: the bus is closed: %w", errdefs.ErrUnavailable)
)
