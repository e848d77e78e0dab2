package scheduler

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// BenchmarkPeerPlace measures how many instances a second are placed and recorded, each in a transaction of its own, beside
// the same scheduler, filters and weighers without a sample: it looks at every host for every instance.
func BenchmarkPeerPlace(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint("hosts=", n), func(b *testing.B) {
			const rounds = 5
			var ours, peer, cpu []float64
			var spreads [2]string
			hosts := farm(n, Resources{64, 256 << 10, 4000})
			sides := []struct {
				sample, count int
				rate          *[]float64
			}{{0, 4000, &ours}, {n, 400000 / n, &peer}}
			for range rounds {
				for i, side := range sides {
					log := memstate.New(memstate.Config{})
					store := openStore(b, log)
					add(b, store, hosts...)
					s := newScheduler(b, Config{Sample: side.sample})
					before, begun := benchline.CPU(), time.Now()
					placeEach(b, store, s, side.count)
					*side.rate = append(*side.rate, float64(side.count)/time.Since(begun).Seconds())
					if i == 0 {
						cpu = append(cpu, float64((benchline.CPU()-before).Microseconds())/float64(side.count))
					}
					// How even it is, at four instances for each host, placed by calls for a hundred.
					if spreads[i] == "" && n == 1000 {
						for range (4*n - side.count) / 100 {
							_, err := place(context.Background(), store, s, Request{Resources: Resources{1, 2048, 20}}, 100)
							require.NoError(b, err)
						}
						least, most := spread(store)
						spreads[i] = fmt.Sprintf("%d to %d", least, most)
					}
					require.NoError(b, store.Close())
					require.NoError(b, log.Close())
				}
			}
			setup := fmt.Sprintf("%d hosts, 16 looked at for each instance; each placed and recorded in its own transaction, log in memory", n)
			if n == 1000 {
				setup += fmt.Sprintf("; at 4 instances for each host, a host has %s, by the peer %s", spreads[0], spreads[1])
			}
			l := benchline.Line{Name: fmt.Sprintf("scheduler: placements at %d hosts", n), Ours: benchline.Median(ours), Peer: benchline.Median(peer),
				PeerName: "scan of all hosts", Unit: "1/s", Goal: ">= 5x", CPU: benchline.Median(cpu), Runs: rounds, Setup: setup}
			l.Ratio = l.Ours / l.Peer
			l.Met = l.Ratio >= 5
			b.ReportMetric(l.Ours, "placements/s")
			benchline.Report(b, l)
		})
	}
}

func placeEach(b *testing.B, store *state.Store, s Scheduler, count int) {
	for range count {
		if _, err := place(context.Background(), store, s, Request{Resources: Resources{1, 2048, 20}}, 1); err != nil {
			b.Fatal(err)
		}
	}
}
