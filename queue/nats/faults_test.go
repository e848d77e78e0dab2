package nats_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
)

// again is how a bus is set that shall connect again soon, and whose calls don't wait for that.
func again(cfg nats.Config) nats.Config {
	if cfg.CallWait == 0 {
		cfg.CallWait = time.Millisecond
	}
	cfg.MaxWait, cfg.PingInterval = 200*time.Millisecond, time.Second
	return cfg
}

// load calls without pause, and keeps the books.
type load struct {
	mu       sync.Mutex
	handled  map[string]int
	answered int
	failed   map[string]int
	wrong    []error
}

func (l *load) handle(_ context.Context, m queue.Message) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handled[string(m.Body)]++
	return m.Body, nil
}

// call makes one call, and returns whether it was answered.
func (l *load) call(t *testing.T, bus queue.Bus, body string) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	answer, err := bus.Call(ctx, queue.Message{Topic: "work", Body: []byte(body)})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && string(answer) == body:
		l.answered++
		return true
	case errors.Is(err, nats.ErrDisconnected):
		l.failed["disconnected"]++
	case errors.Is(err, queue.ErrNoListener):
		l.failed["nobody serves"]++
	case err == context.DeadlineExceeded: // the server's connection was lost with the call or its answer
		l.failed["deadline"]++
	default:
		l.wrong = append(l.wrong, fmt.Errorf("Call(%q) = %q, %w", body, answer, err))
	}
	return false
}

// TestServerRestarts stops and starts the server 20 times while calls are made without pause. Each call is answered rightly, or
// fails in time with what the contract has for it; none is handled twice; and each time all goes on by itself.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	s, err := natsserver.Start(t.Context(), natsserver.Config{Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	url := s.URL()
	defer func() { require.NoError(t, s.Close()) }()
	near, far := open(t, again(nats.Config{URLs: []string{url}})), open(t, again(nats.Config{URLs: []string{url}}))
	books := &load{handled: map[string]int{}, failed: map[string]int{}}
	_, err = far.Serve("work", books.handle)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var callers sync.WaitGroup
	var answered atomic.Int64
	for n := range 4 {
		callers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if books.call(t, near, fmt.Sprintf("%d/%d", n, i)) {
					answered.Add(1)
				} else {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	for range 20 {
		before := answered.Load()
		until(t, "calls are answered", func() bool { return answered.Load() > before+100 })
		require.NoError(t, s.Close())
		until(t, "both buses notice", func() bool { return !near.Connected() && !far.Connected() })
		s, err = natsserver.Start(t.Context(), natsserver.Config{Listen: strings.TrimPrefix(url, "nats://")})
		require.NoError(t, err)
	}
	before := answered.Load()
	until(t, "calls are answered after the last restart", func() bool { return answered.Load() > before+100 })
	cancel()
	callers.Wait()
	require.Empty(t, books.wrong)
	require.NotZero(t, books.failed["disconnected"])
	for body, times := range books.handled {
		require.Equal(t, 1, times, body)
	}
	t.Logf("%d calls answered, failed: %v", books.answered, books.failed)
}

// TestHerd has a hundred hosts, with TLS, when their server is started again.
func TestHerd(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	cfg := natsserver.Config{Listen: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{ours.sign(t)}}}
	s, err := natsserver.Start(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	const hosts = 100
	bus := nats.Config{URLs: []string{s.URL()}, TLS: &tls.Config{RootCAs: ours.pool}, Background: true}
	near := open(t, bus)
	for n := range hosts {
		_, err := open(t, bus).Serve(fmt.Sprint("host.", n), echo)
		require.NoError(t, err)
	}
	all := func() {
		for n := range hosts {
			until(t, "each host answers", answers(t, near, fmt.Sprint("host.", n)))
		}
	}
	all()
	cfg.Listen = strings.TrimPrefix(s.URL(), "tls://")
	require.NoError(t, s.Close())
	s, err = natsserver.Start(t.Context(), cfg)
	require.NoError(t, err)
	all()
}

// TestLostConnection cuts the caller off while its call is under way.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0"})
	p := newProxy(t, strings.TrimPrefix(s.URL(), "nats://"))
	near, far := open(t, again(nats.Config{URLs: []string{p.url()}, CallWait: patience})), open(t, nats.Config{URLs: []string{s.URL()}})
	running, gate := make(chan struct{}, 1), make(chan struct{})
	_, err := far.Serve("hang", func(context.Context, queue.Message) ([]byte, error) {
		running <- struct{}{}
		<-gate
		return []byte("late"), nil
	})
	require.NoError(t, err)
	_, err = near.Serve("near", echo)
	require.NoError(t, err)
	results := make(chan error, 2)
	go func() {
		_, err := call(t, near, "hang", "")
		results <- err
	}()
	<-running
	require.NoError(t, near.CallAsync(t.Context(), queue.Message{Topic: "hang"}, func(_ []byte, err error) { results <- err }))
	<-running
	p.block()
	for range 2 {
		err := <-results
		require.ErrorIs(t, err, nats.ErrDisconnected)
		require.True(t, errdefs.IsUnavailable(err))
	}
	close(gate)

	// What is cast is lost, and calls wait for the connection, but not longer than they may.
	m := queue.Message{Topic: "near", Body: []byte("waits")}
	require.ErrorIs(t, near.Cast(t.Context(), m), nats.ErrDisconnected)
	require.ErrorIs(t, near.Fanout(t.Context(), m), nats.ErrDisconnected)
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = near.Call(short, m)
	require.Equal(t, context.DeadlineExceeded, err)
	m.Deadline = time.Now().Add(20 * time.Millisecond)
	_, err = near.Call(t.Context(), m)
	require.ErrorIs(t, err, nats.ErrDisconnected)
	m.Deadline = time.Time{}
	waited := make(chan string, 2)
	require.NoError(t, near.CallAsync(t.Context(), m, func(answer []byte, err error) { waited <- fmt.Sprint(string(answer), err) }))
	copy(m.Body, "-----")
	go func() {
		answer, err := call(t, near, "near", "waits")
		waited <- fmt.Sprint(answer, err)
	}()

	// A topic that is served meanwhile, and one from before, and one that is no more.
	_, err = near.Serve("meanwhile", echo)
	require.NoError(t, err)
	stop, err := near.Serve("gone", echo)
	require.NoError(t, err)
	stop()
	p.pass()
	for range 2 {
		require.Equal(t, "waits<nil>", <-waited)
	}
	for _, topic := range []string{"near", "meanwhile"} {
		until(t, topic+" is served again", answers(t, far, topic))
	}
	_, err = call(t, far, "gone", "")
	require.ErrorIs(t, err, queue.ErrNoListener)
}

// TestPartition lets nothing through, and ends no connection.
func TestPartition(t *testing.T) {
	t.Parallel()
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0"})
	p := newProxy(t, strings.TrimPrefix(s.URL(), "nats://"))
	near, far := open(t, again(nats.Config{URLs: []string{p.url()}})), open(t, again(nats.Config{URLs: []string{s.URL()}}))
	_, err := far.Serve("echo", echo)
	require.NoError(t, err)
	_, err = call(t, near, "echo", "before")
	require.NoError(t, err)
	p.hold()
	_, err = call(t, near, "echo", "cut off") // its ctx ends after patience
	require.ErrorIs(t, err, nats.ErrDisconnected)
	require.False(t, near.Connected())
	p.cut()
	p.pass()
	until(t, "calls are answered again", answers(t, near, "echo"))
}

// TestSlowConsumer stops reading at the serving side until the NATS server has enough of it. The sender goes on, and when the
// serving side reads again, it connects and serves again.
func TestSlowConsumer(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0"})
	p := newProxy(t, strings.TrimPrefix(s.URL(), "nats://"))
	cfg := again(nats.Config{URLs: []string{p.url()}})
	cfg.PingInterval = patience // it is the NATS server that ends the connection
	near, far := open(t, nats.Config{URLs: []string{s.URL()}}), open(t, cfg)
	_, err := far.Serve("slow", echo)
	require.NoError(t, err)
	_, err = near.Serve("free", echo)
	require.NoError(t, err)
	p.hold()
	m := queue.Message{Topic: "slow", Body: bytes.Repeat([]byte("x"), queue.MaxBody)}
	for end := time.Now().Add(patience); s.Clients() == 2; {
		require.True(t, time.Now().Before(end))
		require.NoError(t, near.Cast(t.Context(), m))
		answer, err := call(t, near, "free", "x")
		require.NoError(t, err)
		require.Equal(t, "x", answer)
	}
	_, err = call(t, near, "slow", "")
	require.ErrorIs(t, err, queue.ErrNoListener)
	p.pass()
	until(t, "it is served again", answers(t, near, "slow"))
}

// TestFlood sends more than is handled. What is over the backlog is dropped, once a minute with a word in the log, and the bus
// goes on.
func TestFlood(t *testing.T) {
	t.Parallel()
	var log book
	s := start(t, natsserver.Config{})
	near := open(t, nats.Config{InProcess: s})
	far := open(t, nats.Config{InProcess: s, Workers: 2, Backlog: 1000, BacklogBytes: 1 << 20, Logger: log.logger()})
	gate, handled := make(chan struct{}), atomic.Int64{}
	_, err := far.Serve("busy", func(_ context.Context, m queue.Message) ([]byte, error) {
		<-gate
		handled.Add(1)
		return m.Body, nil
	})
	require.NoError(t, err)
	_, err = far.Serve("free", echo)
	require.NoError(t, err)
	for n := range 20_000 {
		size := 0
		if n < 10 {
			size = queue.MaxBody // two of them wait: more are more than 1 MiB with their envelopes
		}
		require.NoError(t, near.Cast(t.Context(), queue.Message{Topic: "busy", Body: make([]byte, size)}))
	}
	_, err = call(t, near, "busy", "")
	require.ErrorIs(t, err, queue.ErrBacklog)
	answer, err := call(t, near, "free", "x")
	require.NoError(t, err)
	require.Equal(t, "x", answer)
	close(gate)
	until(t, "there is room again", answers(t, near, "busy"))
	require.LessOrEqual(t, handled.Load(), int64(2+1000+1))
	require.Equal(t, 1, log.count("the backlog is full"))
}

// TestStopHandsOver stops a server that has calls and casts in its backlog: another handles them.
func TestStopHandsOver(t *testing.T) {
	t.Parallel()
	s := start(t, natsserver.Config{})
	near, far := open(t, nats.Config{InProcess: s}), open(t, nats.Config{InProcess: s, Workers: 1})
	running, gate := make(chan struct{}, 10), make(chan struct{})
	stop, err := far.Serve("work", func(_ context.Context, m queue.Message) ([]byte, error) {
		running <- struct{}{}
		<-gate
		return []byte("first"), nil
	})
	require.NoError(t, err)
	require.NoError(t, near.Cast(t.Context(), queue.Message{Topic: "work"}))
	<-running
	answers := make(chan string, 3)
	for range 3 {
		require.NoError(t, near.CallAsync(t.Context(), queue.Message{Topic: "work"}, func(answer []byte, err error) {
			answers <- fmt.Sprint(string(answer), err)
		}))
		require.NoError(t, near.Cast(t.Context(), queue.Message{Topic: "work"}))
	}
	_, err = call(t, near, "nobody", "") // all that was sent before has reached the NATS server
	require.ErrorIs(t, err, queue.ErrNoListener)
	var others atomic.Int64
	_, err = near.Serve("work", func(context.Context, queue.Message) ([]byte, error) {
		others.Add(1)
		return []byte("second"), nil
	})
	require.NoError(t, err)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	for range 3 {
		require.Equal(t, "second<nil>", <-answers)
	}
	until(t, "the other server handles the casts too", func() bool { return others.Load() == 6 })
	close(gate)
	<-stopped
	require.Empty(t, running)
}

// TestCloseCutOff closes a bus that the network has forsaken, with a call and a handler under way.
func TestCloseCutOff(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0"})
	p := newProxy(t, strings.TrimPrefix(s.URL(), "nats://"))
	bus := open(t, nats.Config{URLs: []string{p.url()}, PingInterval: time.Hour})
	running := make(chan struct{})
	_, err := bus.Serve("hang", func(ctx context.Context, _ queue.Message) ([]byte, error) {
		close(running)
		<-ctx.Done()
		return nil, nil
	})
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() {
		_, err := call(t, bus, "hang", "")
		result <- err
	}()
	<-running
	p.hold()
	closed := make(chan error, 1)
	go func() { closed <- bus.Close() }()
	require.ErrorIs(t, <-result, queue.ErrClosed)
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(patience):
		require.Fail(t, "Close hangs")
	}
}

// TestCloseWhileConnecting does not wait for a server that accepts and says nothing.
func TestCloseWhileConnecting(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	cfg := nats.Config{URLs: []string{"nats://" + l.Addr().String()}, DialTimeout: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	go func() {
		_, err := nats.Open(ctx, cfg)
		opened <- err
	}()
	defer (<-accepted).Close()
	cancel()
	err = <-opened
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, nats.ErrDisconnected)

	cfg.Background = true
	bus, err := nats.Open(t.Context(), cfg)
	require.NoError(t, err)
	defer (<-accepted).Close()
	require.False(t, bus.Connected())
	require.NoError(t, bus.Close())
	require.ErrorIs(t, bus.Cast(t.Context(), queue.Message{Topic: "a"}), queue.ErrClosed)
}
