package amqp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/rabbittest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/amqp"
)

const patience = 60 * time.Second

func echo(_ context.Context, m queue.Message) ([]byte, error) { return m.Body, nil }

// journal counts what handlers see, and answers with it.
type journal struct {
	mu   sync.Mutex
	seen map[string]int
}

func (j *journal) handle(_ context.Context, m queue.Message) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.seen == nil {
		j.seen = map[string]int{}
	}
	j.seen[string(m.Body)]++
	return m.Body, nil
}

func (j *journal) count(body string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.seen[body]
}

func (j *journal) noneTwice(t *testing.T) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for body, n := range j.seen {
		require.LessOrEqual(t, n, 1, "%q was handled %d times", body, n)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, 20*time.Millisecond, what)
}

// serves waits until calls are answered.
func serves(t *testing.T, bus queue.Bus, topic string) {
	t.Helper()
	eventually(t, "the bus serves again", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		answer, err := bus.Call(ctx, queue.Message{Topic: topic, Body: []byte("again" + topic)})
		return err == nil && string(answer) == "again"+topic
	})
}

// clear tells whether an error is one that a caller can understand.
func clearError(err error) bool {
	return errdefs.IsUnavailable(err) || errors.Is(err, queue.ErrBacklog) || err == context.DeadlineExceeded
}

// victim returns the broker that tests kill and starve. It runs when a test begins.
func victim(t *testing.T) *rabbittest.Broker {
	t.Helper()
	rabbittest.Need(t)
	v := &second
	if v.broker == nil {
		v.dir, v.err = os.MkdirTemp("", "rabbit")
		require.NoError(t, v.err)
		v.broker, v.err = rabbittest.Start(within(t, 2*time.Minute), rabbittest.Config{Dir: v.dir})
		require.NoError(t, v.err)
	}
	t.Cleanup(func() {
		v.broker.Kill()
		require.NoError(t, v.broker.Restart(within(t, 2*time.Minute)))
	})
	return v.broker
}

// TestBrokerKilled kills the broker again and again while calls are under way.
func TestBrokerKilled(t *testing.T) {
	testneed.Slow(t)
	const restarts, callers = 20, 8
	broker := victim(t)
	cfg := small(broker.URL(), "kill")
	cfg.SendWait, cfg.MaxBackoff = 500*time.Millisecond, 200*time.Millisecond
	near, far := connect(t, cfg), connect(t, cfg)
	j := &journal{}
	_, err := far.Serve("work", func(ctx context.Context, m queue.Message) ([]byte, error) {
		if len(m.Body) > 5 && m.Body[0] == 's' { // slow: there are always some in a handler
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		if bytes.HasPrefix(m.Body, []byte("again")) {
			return m.Body, nil
		}
		return j.handle(ctx, m)
	})
	require.NoError(t, err)

	var answered, failed atomic.Int64
	for round := range restarts {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		unclear := make(chan error, callers)
		begun := answered.Load()
		for c := range callers {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					body := fmt.Sprintf("slow/%d/%d/%d", round, c, n)
					one, stop := context.WithTimeout(context.Background(), 2*time.Second)
					answer, err := near.Call(one, queue.Message{Topic: "work", Body: []byte(body)})
					stop()
					switch {
					case err == nil && string(answer) == body:
						answered.Add(1)
					case err != nil && clearError(err):
						failed.Add(1)
					default:
						unclear <- fmt.Errorf("round %d: Call = %q, %w", round, answer, err)
						return
					}
				}
			})
		}
		eventually(t, "calls are under way", func() bool { return answered.Load() >= begun+2*callers || len(unclear) > 0 })
		broker.Kill()
		require.NoError(t, broker.Restart(within(t, 2*time.Minute)))
		cancel()
		wg.Wait()
		select {
		case err := <-unclear:
			t.Fatal(err)
		default:
		}
		serves(t, near, "work")
	}
	j.noneTwice(t)
	require.NotZero(t, failed.Load(), "no call was under way when the broker was killed")
	t.Logf("%d restarts: %d calls answered, %d failed with a clear error", restarts, answered.Load(), failed.Load())
}

// TestConnectionsClosed has an administrator close all connections under calls.
func TestConnectionsClosed(t *testing.T) {
	broker := shared(t)
	near, far := connect(t, small(broker.URL(), "closed")), connect(t, small(broker.URL(), "closed"))
	running, gate := make(chan struct{}, 1), make(chan struct{})
	_, err := far.Serve("held", func(context.Context, queue.Message) ([]byte, error) {
		running <- struct{}{}
		<-gate
		return nil, nil
	})
	require.NoError(t, err)
	_, err = far.Serve("work", echo)
	require.NoError(t, err)
	ends := make(chan error, 1)
	go func() {
		_, err := near.Call(within(t, patience), queue.Message{Topic: "held"})
		ends <- err
	}()
	<-running
	_, err = broker.Control(within(t, patience), "close_all_connections", "by the test")
	require.NoError(t, err)
	err = <-ends
	require.True(t, errdefs.IsUnavailable(err), err)
	require.NotErrorIs(t, err, queue.ErrNoListener, "the handler has run")
	serves(t, near, "work")
	close(gate)
}

// TestAlarm sets off the broker's memory alarm: senders wait, within their bounds, and go on after it.
func TestAlarm(t *testing.T) {
	broker := victim(t)
	var logged logBuffer
	cfg := small(broker.URL(), "alarm")
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	bus := connect(t, cfg)
	j := &journal{}
	stop, err := bus.Serve("work", j.handle)
	require.NoError(t, err)
	_, err = broker.Control(within(t, patience), "set_vm_memory_high_watermark", "0.0000001")
	require.NoError(t, err)
	eventually(t, "the bus hears of the alarm", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_ = bus.Fanout(ctx, queue.Message{Topic: "nobody"})
		return logged.has("takes no messages for now")
	})
	err = bus.Cast(within(t, 200*time.Millisecond), queue.Message{Topic: "work", Body: []byte("given up")})
	require.Equal(t, context.DeadlineExceeded, err)
	err = bus.Cast(context.Background(), queue.Message{Topic: "work", Body: []byte("given up too")})
	require.Equal(t, context.DeadlineExceeded, err, "after CallTimeout")
	waits := make(chan error, 1)
	go func() {
		_, err := bus.Call(within(t, patience), queue.Message{Topic: "work", Body: []byte("waits")})
		waits <- err
	}()
	_, err = broker.Control(within(t, patience), "set_vm_memory_high_watermark", "0.9")
	require.NoError(t, err)
	require.NoError(t, <-waits)
	require.Equal(t, 1, j.count("waits"))
	require.Zero(t, j.count("given up")+j.count("given up too"), "what was given up before it was written is not sent")
	eventually(t, "the log says so", func() bool { return logged.has("takes messages again") })
	stop()

	// A bus closes and a server stops while the broker takes nothing.
	_, err = broker.Control(within(t, patience), "set_vm_memory_high_watermark", "0.0000001")
	require.NoError(t, err)
	_ = bus.Fanout(within(t, 50*time.Millisecond), queue.Message{Topic: "nobody"})
	start := time.Now()
	require.NoError(t, bus.Close())
	require.Less(t, time.Since(start), patience)
}

// TestTheOnlyServerDies: callers know at once.
func TestTheOnlyServerDies(t *testing.T) {
	broker := shared(t)
	p, through := between(t, broker.URL())
	near, far := connect(t, small(broker.URL(), "only")), connect(t, small(through, "only"))
	_, err := far.Serve("work", echo)
	require.NoError(t, err)
	serves(t, near, "work")
	_ = p.listener.Close() // it can't come back
	p.cut()
	eventually(t, "the broker sees it", func() bool { // a call before that is lost
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := near.Call(ctx, queue.Message{Topic: "work"})
		return errors.Is(err, queue.ErrNoListener)
	})
	_, err = near.Call(within(t, patience), queue.Message{Topic: "work"})
	require.ErrorIs(t, err, queue.ErrNoListener)
	require.ErrorIs(t, near.Cast(within(t, patience), queue.Message{Topic: "work"}), queue.ErrNoListener)
}

// TestAServerDiesWithMessages: another one does not handle them again. They become dead letters, and callers are told.
func TestAServerDiesWithMessages(t *testing.T) {
	broker := shared(t)
	p, through := between(t, broker.URL())
	near, dies, stays := connect(t, small(broker.URL(), "dies")), connect(t, small(through, "dies")), connect(t, small(broker.URL(), "dies"))
	gate, running := make(chan struct{}), make(chan struct{}, 2)
	defer close(gate)
	_, err := dies.Serve("work", func(context.Context, queue.Message) ([]byte, error) {
		running <- struct{}{}
		<-gate
		return nil, nil
	})
	require.NoError(t, err)
	ends := make(chan error, 1)
	go func() {
		_, err := near.Call(within(t, patience), queue.Message{Topic: "work", Body: []byte("call")})
		ends <- err
	}()
	require.NoError(t, near.Cast(within(t, patience), queue.Message{Topic: "work", Body: []byte("cast"), Trace: "trace"}))
	<-running
	<-running
	j := &journal{}
	_, err = stays.Serve("work", j.handle)
	require.NoError(t, err)
	_ = p.listener.Close()
	p.cut()
	err = <-ends
	require.True(t, errdefs.IsUnavailable(err), err)
	require.NotErrorIs(t, err, queue.ErrNoListener)
	require.ErrorContains(t, err, "may have been handled")
	dead := letters(t, broker, "dies", 2)
	require.Zero(t, j.count("call")+j.count("cast"))
	require.ElementsMatch(t, []string{"call", "cast"}, []string{string(dead[0].Body), string(dead[1].Body)})
	serves(t, near, "work")
}

// letters takes a number of dead letters.
func letters(t *testing.T, broker *rabbittest.Broker, prefix string, n int) []amqp091.Delivery {
	t.Helper()
	ch := bare(t, broker)
	var all []amqp091.Delivery
	eventually(t, fmt.Sprintf("%d dead letters", n), func() bool {
		d, ok, err := ch.Get(prefix+".dead", true)
		require.NoError(t, err)
		if ok {
			all = append(all, d)
		}
		return len(all) == n
	})
	_, more, err := ch.Get(prefix+".dead", true)
	require.NoError(t, err)
	require.False(t, more, "more than %d dead letters", n)
	return all
}

// bare is a channel of the client library alone.
func bare(t testing.TB, broker *rabbittest.Broker) *amqp091.Channel {
	t.Helper()
	conn, err := amqp091.Dial(broker.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	require.NoError(t, err)
	return ch
}

// TestASilentBroker: nobody says that the connection is gone.
func TestASilentBroker(t *testing.T) {
	broker := shared(t)
	p, through := between(t, broker.URL())
	cfg := small(through, "silent")
	cfg.Heartbeat = time.Second
	bus, other := connect(t, cfg), connect(t, small(broker.URL(), "silent"))
	_, err := bus.Serve("work", echo)
	require.NoError(t, err)
	serves(t, other, "work")
	p.hang()
	_, err = bus.Call(within(t, 300*time.Millisecond), queue.Message{Topic: "work"})
	require.Equal(t, context.DeadlineExceeded, err)
	_, err = bus.Call(within(t, patience), queue.Message{Topic: "work"})
	require.True(t, errdefs.IsUnavailable(err), err)
	p.resume()
	p.cut()
	serves(t, other, "work")
	p.hang()
	start := time.Now()
	require.NoError(t, bus.Close())
	require.Less(t, time.Since(start), 30*time.Second)
}

// TestWhatAnAdministratorDeletes comes back.
func TestWhatAnAdministratorDeletes(t *testing.T) {
	broker := shared(t)
	near, far := connect(t, small(broker.URL(), "admin")), connect(t, small(broker.URL(), "admin"))
	_, err := far.Serve("work", echo)
	require.NoError(t, err)
	serves(t, near, "work")
	ch := bare(t, broker)
	_, err = ch.QueueDelete("admin.topic.work", false, false, false)
	require.NoError(t, err)
	serves(t, near, "work")
	for _, exchange := range []string{"admin.work", "admin.reply", "admin.fan"} {
		require.NoError(t, ch.ExchangeDelete(exchange, false, false))
		_ = near.Fanout(within(t, patience), queue.Message{Topic: "work"}) // meets what is missing
		// The exchanges come back with the next connection of any bus; bindings with that of their server.
		_, err = broker.Control(within(t, patience), "close_all_connections", "by the test")
		require.NoError(t, err)
		ch = bare(t, broker)
		serves(t, near, "work")
	}
}

// TestForeignMessages sends a server what no bus sends.
func TestForeignMessages(t *testing.T) {
	broker := shared(t)
	bus := connect(t, small(broker.URL(), "foreign"))
	j := &journal{}
	_, err := bus.Serve("work", j.handle)
	require.NoError(t, err)
	ch := bare(t, broker)
	bad := []amqp091.Publishing{
		{}, {Type: "other"}, {Type: "call"}, {Type: "cast", Headers: amqp091.Table{"caller": "text"}},
		{Type: "cast", Headers: amqp091.Table{"trace": int64(1)}}, {Type: "cast", AppId: "until=soon"},
		{Type: "cast", Body: make([]byte, queue.MaxBody+1)}, {Type: "call", ReplyTo: "x", Headers: amqp091.Table{"caller": make([]byte, 9<<10)}},
	}
	for _, p := range bad {
		require.NoError(t, ch.PublishWithContext(context.Background(), "foreign.work", "work", true, false, p))
	}
	letters(t, broker, "foreign", len(bad))
	serves(t, bus, "work")
	require.Len(t, j.seen, 1)
}

// TestTwoPrefixes share a broker and hear nothing of each other, and neither do two buses of one process.
func TestTwoPrefixes(t *testing.T) {
	broker := shared(t)
	one, two := connect(t, small(broker.URL(), "one")), connect(t, small(broker.URL(), "two"))
	j := &journal{}
	_, err := one.Serve("work", j.handle)
	require.NoError(t, err)
	_, err = two.Call(within(t, patience), queue.Message{Topic: "work"})
	require.ErrorIs(t, err, queue.ErrNoListener)
	require.NoError(t, two.Fanout(within(t, patience), queue.Message{Topic: "work"}))
	serves(t, one, "work")
	require.Len(t, j.seen, 1)
	require.NoError(t, two.Close())
	serves(t, one, "work")
}

// TestClocksDiffer sends a message whose deadline has not passed by the caller's clock.
func TestClocksDiffer(t *testing.T) {
	broker := shared(t)
	bus := connect(t, small(broker.URL(), "clock"))
	j := &journal{}
	_, err := bus.Serve("work", j.handle)
	require.NoError(t, err)
	ch := bare(t, broker)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	require.NoError(t, err)
	require.NoError(t, ch.QueueBind(q.Name, q.Name, "clock.reply", false, nil))
	in, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	require.NoError(t, err)
	require.NoError(t, ch.PublishWithContext(context.Background(), "clock.work", "work", true, false, amqp091.Publishing{
		Type: "call", ReplyTo: q.Name, CorrelationId: "mine", AppId: "until=" + strconv.FormatInt(time.Now().Add(-time.Hour).UnixMicro(), 10)}))
	d := <-in
	require.Equal(t, "late", d.Type)
	require.Equal(t, "mine", d.CorrelationId)
	require.Empty(t, j.seen)
}

var _ queue.Bus = (*amqp.Bus)(nil)

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.buf.Bytes(), []byte(text))
}

func (l *logBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
