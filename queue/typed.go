package queue

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
)

// Cast sends req as JSON to one server of topic, as [Bus.Cast] does.
func Cast[Req any](ctx context.Context, bus Bus, topic string, req Req) error {
	m, err := message(ctx, topic, req)
	if err != nil {
		return err
	}
	return bus.Cast(ctx, m)
}

// Fanout sends req as JSON to every server of topic, as [Bus.Fanout] does.
func Fanout[Req any](ctx context.Context, bus Bus, topic string, req Req) error {
	m, err := message(ctx, topic, req)
	if err != nil {
		return err
	}
	return bus.Fanout(ctx, m)
}

// Call sends req as JSON to one server of topic and returns its answer, as [Bus.Call] does. An answer that is not the
// JSON of a Resp is Internal.
func Call[Req, Resp any](ctx context.Context, bus Bus, topic string, req Req) (Resp, error) {
	var resp Resp
	m, err := message(ctx, topic, req)
	if err != nil {
		return resp, err
	}
	answer, err := bus.Call(ctx, m)
	if err != nil {
		return resp, err
	}
	return decode[Resp](topic, answer)
}

// CallAsync sends req as JSON to one server of topic and runs done with its answer, as [Bus.CallAsync] does.
func CallAsync[Req, Resp any](ctx context.Context, bus Bus, topic string, req Req, done func(Resp, error)) error {
	m, err := message(ctx, topic, req)
	if err != nil {
		return err
	}
	return bus.CallAsync(ctx, m, func(answer []byte, err error) {
		if err != nil {
			var none Resp
			done(none, err)
			return
		}
		done(decode[Resp](topic, answer))
	})
}

// Handle makes a [Handler] of a function that takes a Req and answers a Resp, both as JSON. A body that is not the JSON of
// a Req is InvalidArgument; members that Req does not have are ignored, so that newer senders can talk to older
// servers. The function's context has the message's [Origin].
func Handle[Req, Resp any](fn func(ctx context.Context, req Req) (Resp, error)) Handler {
	return func(ctx context.Context, m Message) ([]byte, error) {
		var req Req
		if err := json.Unmarshal(m.Body, &req); err != nil {
			return nil, fmt.Errorf("queue: message to %s: %v: %w", m.Topic, err, errdefs.ErrInvalidArgument)
		}
		if m.Caller != nil || m.Trace != "" {
			ctx = NewContext(ctx, Origin{Caller: m.Caller, Trace: m.Trace})
		}
		resp, err := fn(ctx, req)
		if err != nil {
			return nil, err
		}
		return encode(m.Topic, resp)
	}
}

func message(ctx context.Context, topic string, req any) (Message, error) {
	body, err := encode(topic, req)
	o := FromContext(ctx)
	return Message{Topic: topic, Caller: o.Caller, Trace: o.Trace, Body: body}, err
}

func encode(topic string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("queue: %T for %s: %v: %w", v, topic, err, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

func decode[Resp any](topic string, answer []byte) (Resp, error) {
	var resp, none Resp
	if err := json.Unmarshal(answer, &resp); err != nil {
		return none, fmt.Errorf("queue: answer of %s: %v: %w", topic, err, errdefs.ErrInternal)
	}
	return resp, nil
}
