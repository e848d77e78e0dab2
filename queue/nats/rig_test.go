package nats_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is the longest that anything takes that must happen.
const patience = time.Minute

// start runs a server until the test ends.
func start(t testing.TB, cfg natsserver.Config) *natsserver.Server {
	t.Helper()
	s, err := natsserver.Start(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// open connects a bus, which is closed when the test ends.
func open(t testing.TB, cfg nats.Config) *nats.Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	bus, err := nats.Open(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	return bus
}

// until waits for ok to hold.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), what)
	}
}

func echo(_ context.Context, m queue.Message) ([]byte, error) { return m.Body, nil }

// call calls with the patience of the test.
func call(t testing.TB, bus queue.Bus, topic, body string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := bus.Call(ctx, queue.Message{Topic: topic, Body: []byte(body)})
	return string(answer), err
}

// answers returns what tells whether a topic is answered now. A call that the network loses costs it little of the patience.
func answers(t testing.TB, bus queue.Bus, topic string) func() bool {
	return func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience/30)
		defer cancel()
		answer, err := bus.Call(ctx, queue.Message{Topic: topic, Body: []byte("x")})
		return err == nil && string(answer) == "x"
	}
}

// book is a log that a test reads.
type book struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *book) count(what string) int { return strings.Count(b.String(), what) }

func (b *book) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
