// Package amqp is the message bus between machines on RabbitMQ, or on another broker that speaks AMQP 0-9-1 with its
// extensions (publisher confirms, basic.nack, dead-letter exchanges, limits of queues). It is tested with RabbitMQ 3.10 and
// uses nothing that RabbitMQ 4 has dropped.
//
// # What is declared
//
// All names begin with [Config].Prefix, so a user of the broker needs permission for ^prefix\. and nothing else. Exchanges
// are durable and direct:
//
//	<prefix>.work   the topic is the key: to <prefix>.topic.<topic>, one queue for all servers of a topic
//	<prefix>.fan    the topic is the key: to one exclusive queue for each server
//	<prefix>.reply  the queue is the key: to one exclusive queue for each connection, where answers come in
//	<prefix>.dead   dead letters, all to the queue <prefix>.dead
//
// One exchange for the fanouts of all topics does what one for each topic would, leaves none behind when a topic is
// used no more, and a fanout to nobody meets no exchange that is missing, which would end its channel.
//
// The queue of a topic is durable and auto-delete: it is there exactly as long as it has a consumer. A call is published
// with the mandatory flag, so with no server the broker returns it at once, and that is ErrNoListener; the same when the
// last server's process dies. A broker that restarts brings the queue back without consumers; if none comes for
// 15 seconds the queue expires, and until then calls wait in it. A server that stops looks whether it is the last one,
// and if so tells the calls that still wait there. One that arrives in the instant between that look and the end of the
// queue is lost, as is what waits where the last server's process dies: such a call ends with its deadline.
//
// The queue holds at most [Config].Backlog messages that no server has taken; the broker refuses more, which is
// ErrBacklog. The limit is an argument of the queue, so all buses with one Prefix must have the same Backlog: the other
// ones can't Serve (FailedPrecondition).
//
// # At most once
//
// A server acknowledges a message when its handler has returned and the answer is sent, and has at most
// [Config].Workers messages that it has not acknowledged. When its process or connection dies, the broker gives what was
// not acknowledged to another server, marked as redelivered. A handler may have seen such a message, so it is not handled
// again: it becomes a dead letter, and if it was a call, its caller is told with Unavailable. Messages are not written to
// the broker's disk, though queues are durable: a broker that was killed may have forgotten which messages were
// acknowledged, and would deliver them once more.
//
// Dead letters are for people to look at, nothing reads them: messages of servers that died, messages that are none of
// this package's, and messages whose deadline passed in the queue. The queue keeps the last 10,000 of them, each for a week.
//
// # Connections
//
// A [Bus] has one connection, with a channel for publishing, one for answers, one for what is answered to it, and one for
// each server. When it ends, calls that were sent fail with Unavailable, as their handlers may have run; the bus
// connects again, waiting longer each time and never as long as others do, declares everything anew and goes on serving.
// What is sent meanwhile waits for that up to [Config].SendWait. A broker that has an alarm and blocks publishers makes
// senders wait, until their contexts end or the time that calls have.
//
// The broker ends the channel of a user who sends what he may not, and with it the connection: that message fails with
// PermissionDenied, others that wait fail as if the connection were lost.
//
// Of the client library's own recovery, which is experimental, nothing is used: it would publish and consume again what
// must not be doubled.
//
// A deadline travels as a point in time. Hosts whose clocks differ by more than calls take don't understand each other: a
// call that reaches its server too late by that one's clock, and not by the caller's, fails with FailedPrecondition.
package amqp
