package nats_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
)

const (
	rounds   = 7
	perRound = 10_000
	body     = 64
)

// BenchmarkPeerCall measures calls from one bus to another over one server on the loopback interface, beside what the bare
// client library does on the same server with Request and Respond, which has no envelope, no deadline and no bounds.
func BenchmarkPeerCall(b *testing.B) {
	url := start(b, natsserver.Config{Listen: "127.0.0.1:0"}).URL()
	ours, bare := busCaller(b, url), bareCaller(b, url)
	for _, callers := range []int{1, 16} {
		var rates, peers, cpus, peerCPUs []float64
		for range b.N {
			for range rounds {
				rate, cpu := measure(b, bare, callers)
				peers, peerCPUs = append(peers, rate), append(peerCPUs, cpu)
				rate, cpu = measure(b, ours, callers)
				rates, cpus = append(rates, rate), append(cpus, cpu)
			}
		}
		rate, peer := benchline.Median(rates), benchline.Median(peers)
		benchline.Report(b, benchline.Line{
			Name: fmt.Sprintf("queue/nats: calls, %d at a time", callers), Ours: rate, Peer: peer, PeerName: "bare nats.go",
			Ratio: rate / peer, Unit: "1/s", Goal: ">= 0.9x", Met: rate >= 0.9*peer, CPU: benchline.Median(cpus), Runs: len(rates),
			Setup: fmt.Sprintf("64 B in and out, a ctx with a deadline, a server in the process, on loopback; processor time with the bare client %.3g us", benchline.Median(peerCPUs)),
		})
	}
}

// measure returns calls per second and the processor time of a call in microseconds, of all sides together.
func measure(b *testing.B, call func() error, callers int) (rate, cpu float64) {
	b.Helper()
	run := func(calls int) {
		var wg sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(calls))
		for range callers {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if err := call(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	run(perRound / 10) // warm
	used, start := benchline.CPU(), time.Now()
	run(perRound)
	took, cost := time.Since(start), benchline.CPU()-used
	return perRound / took.Seconds(), float64(cost.Nanoseconds()) / 1e3 / perRound
}

func busCaller(b *testing.B, url string) func() error {
	near, far := open(b, nats.Config{URLs: []string{url}}), open(b, nats.Config{URLs: []string{url}})
	_, err := far.Serve("echo", echo)
	require.NoError(b, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	b.Cleanup(cancel)
	m := queue.Message{Topic: "echo", Body: make([]byte, body)}
	return func() error {
		answer, err := near.Call(ctx, m)
		if err == nil && len(answer) != body {
			err = fmt.Errorf("%d bytes", len(answer))
		}
		return err
	}
}

func bareCaller(b *testing.B, url string) func() error {
	near, err := natsgo.Connect(url)
	require.NoError(b, err)
	b.Cleanup(near.Close)
	far, err := natsgo.Connect(url)
	require.NoError(b, err)
	b.Cleanup(far.Close)
	_, err = far.QueueSubscribe("echo", "servers", func(m *natsgo.Msg) { _ = m.Respond(m.Data) })
	require.NoError(b, err)
	require.NoError(b, far.Flush())
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	b.Cleanup(cancel)
	return func() error {
		answer, err := near.RequestWithContext(ctx, "echo", make([]byte, body))
		if err == nil && len(answer.Data) != body {
			err = fmt.Errorf("%d bytes", len(answer.Data))
		}
		return err
	}
}
