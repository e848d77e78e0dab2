package memqueue_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
)

func echo(_ context.Context, m queue.Message) ([]byte, error) { return m.Body, nil }

func TestConfigIsChecked(t *testing.T) {
	for field, cfg := range map[string]memqueue.Config{
		"Workers": {Workers: -1}, "Backlog": {Backlog: -1}, "Async": {Async: -1}, "CallTimeout": {CallTimeout: -1},
	} {
		require.Panics(t, func() { memqueue.New(cfg) }, field)
	}
	bus := memqueue.New(memqueue.Config{})
	_, err := bus.Serve("a", nil)
	require.True(t, errdefs.IsInvalidArgument(err), err)
	err = bus.CallAsync(t.Context(), queue.Message{Topic: "a"}, nil)
	require.True(t, errdefs.IsInvalidArgument(err), err)
	require.NoError(t, bus.Close())
}

// TestDefaults counts what a bus with no settings takes.
func TestDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memqueue.New(memqueue.Config{})
		gate, running := make(chan struct{}), atomic.Int64{}
		_, err := bus.Serve("a", func(context.Context, queue.Message) ([]byte, error) {
			running.Add(1)
			<-gate
			return nil, nil
		})
		require.NoError(t, err)
		taken := 0
		for ; bus.Cast(t.Context(), queue.Message{Topic: "a"}) == nil; taken++ {
		}
		synctest.Wait()
		require.EqualValues(t, 64, running.Load())
		require.Equal(t, 64+4096, taken)

		start := time.Now()
		_, err = bus.Serve("b", func(context.Context, queue.Message) ([]byte, error) { <-gate; return nil, nil })
		require.NoError(t, err)
		_, err = bus.Call(context.Background(), queue.Message{Topic: "b"})
		require.Equal(t, context.DeadlineExceeded, err)
		require.Equal(t, time.Minute, time.Since(start))
		close(gate)
		synctest.Wait()
		require.EqualValues(t, taken, running.Load())
		require.NoError(t, bus.Close())
	})
}

// TestNoGoroutineWithoutServers is the promise of the package comment.
func TestNoGoroutineWithoutServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		bus := memqueue.New(memqueue.Config{})
		for range 3 {
			first, err := bus.Serve("a", echo)
			require.NoError(t, err)
			second, err := bus.Serve("b", echo)
			require.NoError(t, err)
			for range 10 {
				_, err := bus.Call(t.Context(), queue.Message{Topic: "a"})
				require.NoError(t, err)
			}
			first()
			second()
			synctest.Wait()
			require.Equal(t, before, runtime.NumGoroutine())
		}
		require.NoError(t, bus.Close())
	})
}

// TestFewIdleGoroutines bounds what stays after a burst.
func TestFewIdleGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		bus := memqueue.New(memqueue.Config{Workers: 1000})
		gate := make(chan struct{})
		_, err := bus.Serve("a", func(context.Context, queue.Message) ([]byte, error) { <-gate; return nil, nil })
		require.NoError(t, err)
		for range 1000 {
			require.NoError(t, bus.Cast(t.Context(), queue.Message{Topic: "a"}))
		}
		synctest.Wait()
		require.GreaterOrEqual(t, runtime.NumGoroutine(), 1000)
		close(gate)
		synctest.Wait()
		require.LessOrEqual(t, runtime.NumGoroutine()-before, 4*runtime.GOMAXPROCS(0)+1)
		require.NoError(t, bus.Close())
	})
}

// TestFanoutIsNotStarved fills the shared backlog, and the fanned-out message still gets its turn.
func TestFanoutIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memqueue.New(memqueue.Config{Workers: 1, Backlog: 100})
		var order []string // one worker: no two handlers at once
		step := make(chan struct{})
		_, err := bus.Serve("a", func(_ context.Context, m queue.Message) ([]byte, error) {
			<-step
			order = append(order, string(m.Body))
			return nil, nil
		})
		require.NoError(t, err)
		for range 50 {
			require.NoError(t, bus.Cast(t.Context(), queue.Message{Topic: "a", Body: []byte("cast")}))
		}
		for range 2 {
			require.NoError(t, bus.Fanout(t.Context(), queue.Message{Topic: "a", Body: []byte("fan")}))
		}
		close(step)
		synctest.Wait()
		require.NoError(t, bus.Close())
		require.Len(t, order, 52)
		require.Equal(t, []string{"cast", "cast", "fan", "cast", "fan"}, order[:5])
	})
}

// TestJoiningServerTakesWhatWaits does not wait for the busy server.
func TestJoiningServerTakesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memqueue.New(memqueue.Config{Workers: 2})
		gate := make(chan struct{})
		slow := func(context.Context, queue.Message) ([]byte, error) { <-gate; return nil, nil }
		_, err := bus.Serve("a", slow)
		require.NoError(t, err)
		for range 5 {
			require.NoError(t, bus.Cast(t.Context(), queue.Message{Topic: "a"}))
		}
		var taken atomic.Int64
		_, err = bus.Serve("a", func(context.Context, queue.Message) ([]byte, error) { taken.Add(1); return nil, nil })
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 3, taken.Load())
		close(gate)
		require.NoError(t, bus.Close())
	})
}

// TestNobodyWaitsAnyMore drops a call from the backlog whose caller has gone.
func TestNobodyWaitsAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memqueue.New(memqueue.Config{Workers: 1})
		gate, handled := make(chan struct{}), atomic.Int64{}
		_, err := bus.Serve("a", func(context.Context, queue.Message) ([]byte, error) {
			handled.Add(1)
			<-gate
			return nil, nil
		})
		require.NoError(t, err)
		require.NoError(t, bus.Cast(t.Context(), queue.Message{Topic: "a"}))
		for _, how := range []func() (context.Context, context.CancelFunc){
			func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), time.Second) },
			func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			},
		} {
			ctx, cancel := how()
			_, err = bus.Call(ctx, queue.Message{Topic: "a"})
			require.Equal(t, ctx.Err(), err)
			cancel()
		}
		close(gate)
		synctest.Wait()
		require.EqualValues(t, 1, handled.Load())
		require.NoError(t, bus.Close())
	})
}

// TestAContextOutlivesItsHandler as an ended one.
func TestAContextOutlivesItsHandler(t *testing.T) {
	bus := memqueue.New(memqueue.Config{})
	kept := make(chan context.Context, 1)
	_, err := bus.Serve("a", func(ctx context.Context, _ queue.Message) ([]byte, error) { kept <- ctx; return nil, nil })
	require.NoError(t, err)
	_, err = bus.Call(t.Context(), queue.Message{Topic: "a"})
	require.NoError(t, err)
	ctx := <-kept
	<-ctx.Done()
	require.Equal(t, context.Canceled, ctx.Err())
	require.NoError(t, bus.Close())
}

func TestPanicsAreLogged(t *testing.T) {
	var log bytes.Buffer
	bus := memqueue.New(memqueue.Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	_, err := bus.Serve("a", func(context.Context, queue.Message) ([]byte, error) { panic("by the test") })
	require.NoError(t, err)
	_, err = bus.Serve("b", func(context.Context, queue.Message) ([]byte, error) { return nil, errdefs.ErrDataLoss })
	require.NoError(t, err)
	_, err = bus.Call(t.Context(), queue.Message{Topic: "a", ID: "mine"})
	require.True(t, errdefs.IsInternal(err))
	require.NotContains(t, err.Error(), "goroutine", "the stack does not travel")
	require.NoError(t, bus.Cast(t.Context(), queue.Message{Topic: "b"}))
	require.NoError(t, bus.Close())
	require.Contains(t, log.String(), `a handler panicked" topic=a id=mine`)
	require.Contains(t, log.String(), "memqueue_test.go")
	require.Contains(t, log.String(), `a handler failed and nobody waits" topic=b`)
}
