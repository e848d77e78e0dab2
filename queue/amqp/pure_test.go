package amqp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// delivered is a publishing as it comes out of the broker.
func delivered(p amqp091.Publishing) *amqp091.Delivery {
	return &amqp091.Delivery{Type: p.Type, MessageId: p.MessageId, Headers: p.Headers, Body: p.Body, ReplyTo: p.ReplyTo,
		CorrelationId: p.CorrelationId, AppId: p.AppId}
}

// TestEnvelope sends any message through its envelope.
func TestEnvelope(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := func(name string) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, name)) }
		m := queue.Message{ID: some("id"), Topic: "a.b", Caller: []byte(some("caller")), Trace: some("trace"), Body: []byte(some("body"))}
		now := time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(t, "now"))
		if rapid.Bool().Draw(t, "deadline") {
			m.Deadline = now.Add(time.Duration(rapid.Int64Range(1, 1<<60).Draw(t, "left")))
		}
		kind := rapid.SampledFrom([]string{isCall, isCast, isFanout}).Draw(t, "kind")
		p := envelop(kind, m, now)
		require.NoError(t, p.Headers.Validate())
		if kind == isCall {
			p.ReplyTo, m.ReplyTo = "mailbox", "mailbox"
		}
		got, err := open("a.b", delivered(p))
		require.NoError(t, err)
		require.Equal(t, string(m.Caller), string(got.Caller))
		require.Less(t, m.Deadline.Sub(got.Deadline), time.Microsecond)
		require.GreaterOrEqual(t, m.Deadline.Sub(got.Deadline), time.Duration(0))
		if p.Expiration != "" {
			ms, err := strconv.ParseUint(p.Expiration, 10, 32)
			require.NoError(t, err, "what a broker takes")
			require.GreaterOrEqual(t, time.Duration(ms)*time.Millisecond, m.Deadline.Sub(now), "it does not expire early")
		} else {
			require.True(t, m.Deadline.IsZero() || m.Deadline.Sub(now) >= longest)
		}
		m.Caller, m.Deadline, got.Caller, got.Deadline = nil, time.Time{}, nil, time.Time{}
		require.Equal(t, m, got)
	})
}

// TestForeignEnvelopes are refused and never panic.
func TestForeignEnvelopes(t *testing.T) {
	for name, d := range map[string]amqp091.Delivery{
		"no type":           {},
		"a call to nowhere": {Type: isCall},
		"an answer":         {Type: isAnswer},
		"caller":            {Type: isCast, Headers: amqp091.Table{headCaller: "text"}},
		"no caller":         {Type: isCast, Headers: amqp091.Table{headCaller: nil}},
		"trace":             {Type: isCast, Headers: amqp091.Table{headTrace: []byte("x")}},
		"deadline":          {Type: isCast, AppId: until + "tomorrow"},
		"no deadline":       {Type: isCast, AppId: until},
		"a long trace":      {Type: isCast, Headers: amqp091.Table{headTrace: string(make([]byte, 201))}},
		"a long body":       {Type: isCast, Body: make([]byte, queue.MaxBody+1)},
	} {
		_, err := open("a", &d)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
	}
	_, err := open("a", &amqp091.Delivery{Type: isCast, AppId: "another", Headers: amqp091.Table{"x-other": int64(1), "x-death": []any{}}})
	require.NoError(t, err, "headers of brokers are none of ours")
}

func TestAnswers(t *testing.T) {
	through := func(answer []byte, f *queue.Failure) ([]byte, error) {
		kind, body := encode(answer, f)
		return decode("a", &amqp091.Delivery{Type: kind, Body: body})
	}
	answer, err := through([]byte("x"), nil)
	require.NoError(t, err)
	require.Equal(t, "x", string(answer))
	_, err = through(nil, queue.FailureOf(fmt.Errorf("no such thing: %w", errdefs.ErrNotFound)))
	require.True(t, errdefs.IsNotFound(err))
	require.EqualError(t, err, "no such thing: not found")
	for _, c := range []struct {
		d  amqp091.Delivery
		is func(error) bool
	}{
		{amqp091.Delivery{Type: isNobody}, func(err error) bool { return errors.Is(err, queue.ErrNoListener) }},
		{amqp091.Delivery{Type: isDropped}, errdefs.IsUnavailable},
		{amqp091.Delivery{Type: isLate}, errdefs.IsFailedPrecondition},
		{amqp091.Delivery{Type: isFailure, Body: []byte("{")}, errdefs.IsInternal},
		{amqp091.Delivery{Type: isAnswer, Body: make([]byte, queue.MaxBody+1)}, errdefs.IsInternal},
		{amqp091.Delivery{Type: "other"}, errdefs.IsInternal},
	} {
		_, err := decode("a", &c.d)
		require.True(t, c.is(err), "%s: %v", c.d.Type, err)
	}
	_, err = decode("a", &amqp091.Delivery{Type: isDropped})
	require.NotErrorIs(t, err, queue.ErrNoListener, "that would say that no handler has run")
}

func TestTranslate(t *testing.T) {
	require.NoError(t, translate("x", nil))
	for code, is := range map[int]func(error) bool{
		amqp091.AccessRefused: errdefs.IsPermissionDenied, amqp091.NotAllowed: errdefs.IsPermissionDenied,
		amqp091.PreconditionFailed: errdefs.IsFailedPrecondition, amqp091.NotFound: errdefs.IsNotFound,
		amqp091.ResourceLocked: errdefs.IsConflict, amqp091.ResourceError: errdefs.IsResourceExhausted,
		amqp091.NotImplemented: errdefs.IsNotImplemented, amqp091.InternalError: errdefs.IsInternal,
		amqp091.ConnectionForced: errdefs.IsUnavailable, amqp091.ChannelError: errdefs.IsUnavailable,
	} {
		err := translate("doing", fmt.Errorf("wrapped: %w", &amqp091.Error{Code: code, Reason: "refused for user 'me'"}))
		require.True(t, is(err), "%d: %v", code, err)
		if code == amqp091.AccessRefused || code == amqp091.NotAllowed {
			require.NotContains(t, err.Error(), "'me'")
		}
	}
	require.True(t, errdefs.IsUnavailable(translate("x", io.EOF)))
	require.True(t, lasting(translate("x", &amqp091.Error{Code: amqp091.PreconditionFailed})))
	require.False(t, lasting(translate("x", io.EOF)))
}

// TestPause grows, stays within its bound, and is random.
func TestPause(t *testing.T) {
	seen := map[time.Duration]bool{}
	for failures := range 100 {
		want := min(time.Second, firstPause<<min(failures, 10))
		for range 20 {
			d := pause(failures, time.Second)
			require.LessOrEqual(t, d, want)
			require.GreaterOrEqual(t, d, want/2)
			seen[d] = true
		}
	}
	require.Greater(t, len(seen), 1000)
}

func TestDefaults(t *testing.T) {
	cfg := Config{URL: "amqps://u:p@broker.example/v%2Fh"}
	at, err := cfg.check()
	require.NoError(t, err)
	require.Equal(t, "broker.example:5671", at.address)
	require.Equal(t, "v/h", at.vhost)
	require.Equal(t, "broker.example", at.tls.ServerName)
	require.Equal(t, []int{64, 4096, 4096, 1024}, []int{cfg.Workers, cfg.Backlog, cfg.Async, cfg.Inflight})
	require.Equal(t, []time.Duration{time.Minute, 5 * time.Second, 5 * time.Second, 10 * time.Second},
		[]time.Duration{cfg.CallTimeout, cfg.SendWait, cfg.MaxBackoff, cfg.Heartbeat})
	require.Equal(t, "dewpoint.work", cfg.workExchange())
	require.LessOrEqual(t, len((&Config{Prefix: string(make([]byte, 32))}).topicQueue(string(make([]byte, queue.MaxTopic)))), 255,
		"the longest name of a queue")
}

// TestNoBroker is what a bus says where nobody listens, without any broker.
func TestNoBroker(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, Config{URL: "amqp://user:s3cret@127.0.0.1:1/"})
	require.True(t, errdefs.IsUnavailable(err), err)
	require.ErrorContains(t, err, "127.0.0.1:1")
	require.NotContains(t, err.Error(), "s3cret")
}
