package memqueue_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
)

// BenchmarkCall measures calls of 64 bytes in and out, one after the other and from several goroutines, with what
// callers have in life: a context that can end. Channel is the same round trip over two bare channels, without a bus:
// the physical limit.
func BenchmarkCall(b *testing.B) {
	body := make([]byte, 64)
	open := func(b *testing.B) (context.Context, *memqueue.Bus) {
		bus := memqueue.New(memqueue.Config{})
		_, err := bus.Serve("echo", func(_ context.Context, m queue.Message) ([]byte, error) { return m.Body, nil })
		require.NoError(b, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		b.Cleanup(func() {
			cancel()
			require.NoError(b, bus.Close())
		})
		b.ReportAllocs()
		return ctx, bus
	}
	m := queue.Message{Topic: "echo", Body: body}

	b.Run("Bus/serial", func(b *testing.B) {
		ctx, bus := open(b)
		took := make([]time.Duration, 0, 1<<20)
		for b.Loop() {
			start := time.Now()
			if _, err := bus.Call(ctx, m); err != nil {
				b.Fatal(err)
			}
			if len(took) < cap(took) {
				took = append(took, time.Since(start))
			}
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
	})
	b.Run("Bus/parallel", func(b *testing.B) {
		ctx, bus := open(b)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := bus.Call(ctx, m); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("Bus/without deadline", func(b *testing.B) {
		_, bus := open(b)
		for b.Loop() {
			if _, err := bus.Call(context.Background(), m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Channel/serial", func(b *testing.B) {
		in, out := make(chan []byte), make(chan []byte)
		go func() {
			defer close(out)
			for m := range in {
				out <- m
			}
		}()
		b.ReportAllocs()
		for b.Loop() {
			in <- body
			<-out
		}
		close(in)
		<-out
	})
	b.Run("Channel/parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			in, out := make(chan []byte), make(chan []byte)
			go func() {
				defer close(out)
				for m := range in {
					out <- m
				}
			}()
			for pb.Next() {
				in <- body
				<-out
			}
			close(in)
			<-out
		})
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
