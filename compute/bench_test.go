package compute_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/bolt"
)

// recorder is a log that keeps what is committed.
type recorder struct {
	state.Log
	mu      sync.Mutex
	batches []state.Batch
}

func (l *recorder) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	rev, err := l.Log.Commit(ctx, b)
	if err == nil {
		l.mu.Lock()
		l.batches = append(l.batches, state.Batch{Ops: b.Ops})
		l.mu.Unlock()
	}
	return rev, err
}

// take returns what was committed since the last call.
func (l *recorder) take() []state.Batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.batches
	l.batches = nil
	return all
}

// counter is a bus that counts messages.
type counter struct {
	queue.Bus
	sent atomic.Int64
}

func (b *counter) Cast(ctx context.Context, m queue.Message) error {
	b.sent.Add(1)
	return b.Bus.Cast(ctx, m)
}

func (b *counter) Call(ctx context.Context, m queue.Message) ([]byte, error) {
	b.sent.Add(2)
	return b.Bus.Call(ctx, m)
}

// BenchmarkPeerLaunch measures launches per second, from Run to ACTIVE, in a cloud of 1,000 pretended hosts, each with its
// agent, whose records are in a file on the disk. The peer is the physical limit: the very batches that the cloud wrote,
// written again, straight to an empty log of the same kind, by nobody who thinks. (Nova's published 5.43 boots and deletes a
// second, with pretended hosts too, took about 52 cores.)
func BenchmarkPeerLaunch(b *testing.B) {
	testneed.Slow(b)
	const hosts, launches, callers, rounds, goal = 1000, 5000, 256, 5, 2000
	var ours, peer, cpu, median, worst, idle []float64
	var written, commits, messages float64
	for range b.N {
		for range rounds {
			log, err := bolt.Open(bolt.Config{Path: filepath.Join(b.TempDir(), "cloud")})
			require.NoError(b, err)
			rec := &recorder{Log: log}
			bus := &counter{}
			c := newCloudOver(b, rec, hosts, func(q queue.Bus) queue.Bus { bus.Bus = q; return bus })
			c.unlimited(b)
			stop := c.start(b)
			begun, used := time.Now(), benchline.CPU()
			time.Sleep(time.Second)
			idle = append(idle, float64(benchline.CPU()-used)/float64(time.Since(begun))*100)
			rec.take()
			bus.sent.Store(0)

			begun, used = time.Now(), benchline.CPU()
			took := c.launch(b, launches, callers)
			span := time.Since(begun).Seconds()
			batches := rec.take()
			ours = append(ours, launches/span)
			cpu = append(cpu, float64((benchline.CPU()-used).Microseconds())/launches)
			slices.Sort(took)
			median = append(median, took[len(took)/2])
			worst = append(worst, took[len(took)*99/100])
			messages = float64(bus.sent.Load()) / launches
			commits, written = float64(len(batches))/launches, 0
			for _, batch := range batches {
				written += float64(len(batch.Ops)) / launches
			}
			require.NoError(b, c.audit())
			stop()
			require.NoError(b, c.close())
			require.NoError(b, log.Close())

			log, err = bolt.Open(bolt.Config{Path: filepath.Join(b.TempDir(), "replay")})
			require.NoError(b, err)
			begun = time.Now()
			for _, batch := range batches {
				_, err := log.Commit(c.ctx, batch)
				require.NoError(b, err)
			}
			peer = append(peer, launches/time.Since(begun).Seconds())
			require.NoError(b, log.Close())
		}
	}
	rate, limit := benchline.Median(ours), benchline.Median(peer)
	benchline.Report(b, benchline.Line{Name: "launches, 1,000 hosts, durable", Ours: rate, Peer: limit,
		PeerName: "the same batches, straight to the log", Ratio: rate / limit, Unit: "1/s", Goal: ">= 2000/s", Met: rate >= goal,
		CPU: benchline.Median(cpu), Runs: rounds, Setup: fmt.Sprintf("%d hosts, %d launches by %d callers, state/bolt", hosts, launches, callers)})
	fmt.Printf("  one launch: %.1f records written, %.3f commits to the disk, %.1f messages; Run to ACTIVE: median %.0f ms, p99 %.0f ms\n",
		written, commits, messages, benchline.Median(median), benchline.Median(worst))
	fmt.Printf("  1,000 idle agents: %.1f %% of one processor\n", benchline.Median(idle))
	b.ReportMetric(rate, "launches/s")
	b.ReportMetric(written, "records/launch")
	b.ReportMetric(messages, "messages/launch")
}

// launch runs n instances, one a request, and returns how long each took from Run to ACTIVE, in milliseconds.
func (c *cloud) launch(b *testing.B, n, callers int) []float64 {
	took := make([]float64, n)
	var next atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for at := next.Add(1) - 1; at < int64(n); at = next.Add(1) - 1 {
				begun := time.Now()
				made, err := c.service.Run(c.ctx, compute.RunRequest{Name: "web", Image: debianID, Flavor: "m1.tiny"})
				if err == nil {
					_, err = c.service.WaitActive(c.ctx, made[0].ID)
				}
				if err != nil {
					b.Error(err)
					return
				}
				took[at] = float64(time.Since(begun).Microseconds()) / 1000
			}
		})
	}
	all.Wait()
	return took
}
