package queue_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMessagesAreChecked(t *testing.T) {
	good := queue.Message{Topic: "a", ID: strings.Repeat("i", 200), Trace: strings.Repeat("t", 200), Caller: make([]byte, 8<<10), Body: make([]byte, queue.MaxBody)}
	require.NoError(t, good.Check())
	for field, spoil := range map[string]func(m *queue.Message){
		"ID": func(m *queue.Message) { m.ID += "x" }, "Trace": func(m *queue.Message) { m.Trace += "x" },
		"Caller": func(m *queue.Message) { m.Caller = append(m.Caller, 0) }, "Body": func(m *queue.Message) { m.Body = append(m.Body, 0) },
		"topic": func(m *queue.Message) { m.Topic += "." },
	} {
		m := good
		spoil(&m)
		err := m.Check()
		require.True(t, errdefs.IsInvalidArgument(err), field)
		require.ErrorContains(t, err, field)
	}
}

func FuzzCheckTopic(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "compute.host-7.console", ".", "a.", "..", "*", strings.Repeat("x", 201)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		ok := len(topic) <= queue.MaxTopic
		for _, word := range strings.Split(topic, ".") {
			ok = ok && word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
		}
		if err := queue.CheckTopic(topic); (err == nil) != ok || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("CheckTopic(%q) = %v", topic, err)
		}
	})
}

func TestFailuresTravel(t *testing.T) {
	for _, err := range []error{
		errdefs.ErrUnknown, errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrPermissionDenied,
		errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition, errdefs.ErrConflict, errdefs.ErrNotModified, errdefs.ErrAborted,
		errdefs.ErrOutOfRange, errdefs.ErrNotImplemented, errdefs.ErrInternal, errdefs.ErrUnavailable, errdefs.ErrDataLoss,
		errdefs.ErrUnauthenticated,
	} {
		f := queue.FailureOf(fmt.Errorf("text: %w", err))
		require.ErrorIs(t, f, err)
		require.Equal(t, "text: "+err.Error(), f.Error())
		require.Equal(t, errdefs.Resolve(err), errdefs.Resolve(f))
	}
	f := queue.FailureOf(fmt.Errorf("text: %w", context.Canceled))
	require.True(t, errdefs.IsCanceled(f) && !errors.Is(f, context.Canceled))
	f = queue.FailureOf(context.DeadlineExceeded)
	require.True(t, errdefs.IsDeadlineExceeded(f) && !errors.Is(f, context.DeadlineExceeded))
	require.True(t, errdefs.IsUnknown(queue.FailureOf(errors.New("plain"))))
	require.True(t, errdefs.IsUnknown(&queue.Failure{Class: "from a newer version"}))

	long := queue.FailureOf(errors.New(strings.Repeat("é", 4<<10) + "end"))
	require.Less(t, len(long.Text), 4<<10+10)
	require.True(t, utf8.ValidString(long.Text))
}

func TestInvoke(t *testing.T) {
	for what, c := range map[string]struct {
		handler queue.Handler
		class   error
		text    string
	}{
		"panic":  {func(context.Context, queue.Message) ([]byte, error) { panic("p") }, errdefs.ErrInternal, "panicked: p"},
		"goexit": {func(context.Context, queue.Message) ([]byte, error) { runtime.Goexit(); return nil, nil }, errdefs.ErrInternal, "ended its goroutine"},
		"error":  {func(context.Context, queue.Message) ([]byte, error) { return []byte("x"), errdefs.ErrConflict }, errdefs.ErrConflict, "conflict"},
		"large":  {func(context.Context, queue.Message) ([]byte, error) { return make([]byte, queue.MaxBody+1), nil }, errdefs.ErrInternal, "524289 bytes"},
	} {
		reports := make(chan *queue.Failure, 2)
		go queue.Invoke(t.Context(), c.handler, queue.Message{Topic: "a"}, func(answer []byte, f *queue.Failure) {
			require.Nil(t, answer, what)
			reports <- f
		})
		f := <-reports
		require.ErrorIs(t, f, c.class, what)
		require.ErrorContains(t, f, c.text, what)
		require.Equal(t, what == "panic", f.Stack != "", what)
	}
	queue.Invoke(t.Context(), func(_ context.Context, m queue.Message) ([]byte, error) { return m.Body, nil }, queue.Message{Body: []byte("b")},
		func(answer []byte, f *queue.Failure) {
			require.Nil(t, f)
			require.Equal(t, "b", string(answer))
		})
}

func TestWhatIsNoJSON(t *testing.T) {
	bus := memqueue.New(memqueue.Config{})
	defer func() { require.NoError(t, bus.Close()) }()
	_, err := bus.Serve("typed", queue.Handle(func(_ context.Context, n int) (any, error) {
		if n == 0 {
			return func() {}, nil
		}
		return "text", nil
	}))
	require.NoError(t, err)
	ctx := t.Context()

	_, err = queue.Call[string, string](ctx, bus, "typed", "no number")
	require.True(t, errdefs.IsInvalidArgument(err), "the server can't read it: %v", err)
	_, err = queue.Call[int, int](ctx, bus, "typed", 1)
	require.True(t, errdefs.IsInternal(err), "the caller can't read the answer: %v", err)
	_, err = queue.Call[int, int](ctx, bus, "typed", 0)
	require.True(t, errdefs.IsInvalidArgument(err), "the answer has no JSON: %v", err)

	async := make(chan error, 1)
	require.NoError(t, queue.CallAsync(ctx, bus, "typed", 1, func(_ int, err error) { async <- err }))
	require.True(t, errdefs.IsInternal(<-async))
	require.NoError(t, queue.CallAsync(ctx, bus, "typed", "x", func(_ int, err error) { async <- err }))
	require.True(t, errdefs.IsInvalidArgument(<-async))

	for _, err := range []error{
		queue.Cast(ctx, bus, "typed", func() {}), queue.Fanout(ctx, bus, "typed", func() {}),
		queue.CallAsync(ctx, bus, "typed", func() {}, func(int, error) { t.Error("done runs") }),
	} {
		require.True(t, errdefs.IsInvalidArgument(err), err)
	}
	_, err = queue.Call[func(), int](ctx, bus, "typed", func() {})
	require.True(t, errdefs.IsInvalidArgument(err), err)
}
