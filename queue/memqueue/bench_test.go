package memqueue_test

import (
	"context"
	"fmt"
	"net"
	"net/rpc"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
)

// caller makes calls one after the other, of 64 bytes in and out.
type caller func(calls int, took []time.Duration) error

const (
	rounds   = 7
	perRound = 200_000
)

// BenchmarkPeerCall measures calls with what callers have in life, a context that can end, beside the same round trip over
// two bare channels, which is the physical limit, and beside net/rpc over a unix socket, which is what a process without a
// bus would do.
func BenchmarkPeerCall(b *testing.B) {
	bus, channel, socket := busCaller(b), channelCaller(b), rpcCaller(b)
	var rates, channels, sockets, p99s, cpus []float64
	for range b.N {
		for range rounds {
			rate, _, _ := measure(b, channel, perRound)
			channels = append(channels, rate)
			rate, p99, cpu := measure(b, bus, perRound)
			rates, p99s, cpus = append(rates, rate), append(p99s, p99), append(cpus, cpu)
			rate, _, _ = measure(b, socket, perRound/20)
			sockets = append(sockets, rate)
		}
	}
	ours, cpu, p99 := benchline.Median(rates), benchline.Median(cpus), benchline.Median(p99s)
	for _, peer := range []struct {
		name string
		rate float64
		goal string
	}{{"two channels", benchline.Median(channels), ">= 1e6/s"}, {"net/rpc, unix socket", benchline.Median(sockets), ">= 1e6/s"}} {
		benchline.Report(b, benchline.Line{
			Name: "queue/memqueue: calls, " + peer.name, Ours: ours, Peer: peer.rate, PeerName: peer.name, Ratio: ours / peer.rate,
			Unit: "1/s", Goal: peer.goal, Met: ours >= 1e6, CPU: cpu, Runs: len(rates),
			Setup: "one caller, 64 B in and out, a ctx with a deadline",
		})
	}
	benchline.Report(b, benchline.Line{
		Name: "queue/memqueue: 99% of calls within", Ours: p99, Peer: 20, PeerName: "the goal", Ratio: 20 / p99,
		Unit: "us", Goal: "<= 20 us", Met: p99 <= 20, CPU: cpu, Runs: len(p99s),
		Setup: "one caller, 64 B in and out, a ctx with a deadline; timing each call costs some of its time",
	})
}

// measure returns the calls per second; of as many more, timed each, the 99th percentile in microseconds; and the processor
// time of a call in microseconds.
func measure(b *testing.B, call caller, calls int) (rate, p99, cpu float64) {
	b.Helper()
	require.NoError(b, call(calls/20, nil)) // warm
	used, start := benchline.CPU(), time.Now()
	require.NoError(b, call(calls, nil))
	rate = float64(calls) / time.Since(start).Seconds()
	cpu = float64((benchline.CPU() - used).Nanoseconds()) / 1e3 / float64(calls)
	took := make([]time.Duration, calls)
	require.NoError(b, call(calls, took))
	slices.Sort(took)
	return rate, float64(took[len(took)*99/100].Nanoseconds()) / 1e3, cpu
}

// repeat makes a caller of one call.
func repeat(call func() error) caller {
	return func(calls int, took []time.Duration) error {
		if took == nil {
			for range calls {
				if err := call(); err != nil {
					return err
				}
			}
			return nil
		}
		for i := range took {
			start := time.Now()
			if err := call(); err != nil {
				return err
			}
			took[i] = time.Since(start)
		}
		return nil
	}
}

func busCaller(b *testing.B) caller {
	bus := memqueue.New(memqueue.Config{})
	_, err := bus.Serve("echo", func(_ context.Context, m queue.Message) ([]byte, error) { return m.Body, nil })
	require.NoError(b, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	b.Cleanup(func() {
		cancel()
		require.NoError(b, bus.Close())
	})
	m := queue.Message{Topic: "echo", Body: make([]byte, 64)}
	return repeat(func() error {
		answer, err := bus.Call(ctx, m)
		if err == nil && len(answer) != 64 {
			err = fmt.Errorf("%d bytes", len(answer))
		}
		return err
	})
}

func channelCaller(b *testing.B) caller {
	in, out := make(chan []byte), make(chan []byte)
	go func() {
		defer close(out)
		for m := range in {
			out <- m
		}
	}()
	b.Cleanup(func() {
		close(in)
		<-out
	})
	body := make([]byte, 64)
	return repeat(func() error {
		in <- body
		<-out
		return nil
	})
}

// Echo is what net/rpc serves.
type Echo struct{}

// Echo answers with what it gets.
func (Echo) Echo(in []byte, out *[]byte) error {
	*out = in
	return nil
}

func rpcCaller(b *testing.B) caller {
	server := rpc.NewServer()
	require.NoError(b, server.Register(Echo{}))
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	require.NoError(b, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if conn, err := l.Accept(); err == nil {
			server.ServeConn(conn)
		}
	}()
	client, err := rpc.Dial("unix", l.Addr().String())
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, client.Close())
		<-served
		_ = l.Close()
	})
	body := make([]byte, 64)
	return repeat(func() error {
		var answer []byte
		return client.Call("Echo.Echo", body, &answer)
	})
}

// BenchmarkCall shows what a call allocates, and calls from several goroutines at once.
func BenchmarkCall(b *testing.B) {
	bus := memqueue.New(memqueue.Config{})
	defer bus.Close()
	_, err := bus.Serve("echo", func(_ context.Context, m queue.Message) ([]byte, error) { return m.Body, nil })
	require.NoError(b, err)
	m := queue.Message{Topic: "echo", Body: make([]byte, 64)}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := bus.Call(ctx, m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := bus.Call(ctx, m); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("without deadline", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := bus.Call(context.Background(), m); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCast measures casts to a handler that does nothing.
func BenchmarkCast(b *testing.B) {
	bus := memqueue.New(memqueue.Config{Backlog: 1 << 20})
	defer bus.Close()
	_, err := bus.Serve("sink", func(context.Context, queue.Message) ([]byte, error) { return nil, nil })
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if err := bus.Cast(context.Background(), queue.Message{Topic: "sink", Body: []byte("{}")}); err != nil {
			b.Fatal(err)
		}
	}
}
