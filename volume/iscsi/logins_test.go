package iscsi

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// TestAHundredThousandLogins: sessions have numbers of 16 bits, and none of them, nor any memory, is gone with a session.
func TestAHundredThousandLogins(t *testing.T) {
	testneed.Slow(t)
	s, addr := serve(t, Config{})
	require.NoError(t, s.Export(t.Context(), exportOf(newMemory(1<<20))))
	witness := dial(t, addr, testInitiator)
	require.NoError(t, witness.login(testTarget, secrets{}))
	require.NoError(t, witness.nc.SetDeadline(time.Time{}))
	var n atomic.Int64
	logins := func(until int64) {
		var group sync.WaitGroup
		for k := range 4 {
			group.Go(func() {
				for n.Add(1) <= until {
					nc, err := net.Dial("tcp", addr)
					if err != nil {
						t.Error(err)
						return
					}
					// No port of ours is to be left waiting behind it.
					err = nc.(*net.TCPConn).SetLinger(0)
					i := newInitiator(nc, testInitiator2)
					i.isid = byte(k)
					if err == nil {
						err = i.login(testTarget, secrets{})
					}
					nc.Close()
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		group.Wait()
		n.Store(until)
		require.Eventually(t, func() bool { return len(s.Sessions()) == 1 }, time.Minute, 5*time.Millisecond)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	logins(10_000)
	before, routines := heap(), runtime.NumGoroutine()
	logins(100_000)
	// The last connections may still be ending.
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= routines+8 }, time.Minute, 5*time.Millisecond)
	require.Less(t, heap(), before+4<<20, "each login would cost 45 bytes")
	require.Equal(t, 1, s.exports[testTarget].unit.Attached())
	witness.good(t, testUnitReady, nil, 0)
}

// BenchmarkPeerSlowStore: a store that takes 1 ms is to be kept busy.
func BenchmarkPeerSlowStore(b *testing.B) {
	store := newMemory(1 << 20)
	store.delay = time.Millisecond
	_, i, _ := session(b, store)
	press := func(depth int) float64 {
		begun := time.Now()
		done, err := load{size: 4096, random: true, depth: depth}.press(i, 0, 1<<20, begun.Add(500*time.Millisecond))
		i.r.BeforeRead = nil
		require.NoError(b, err)
		return float64(done) / time.Since(begun).Seconds()
	}
	const rounds = 5
	for b.Loop() {
		var one, many []float64
		for range rounds {
			one, many = append(one, press(1)), append(many, press(32))
		}
		ours, peer := benchline.Median(many), benchline.Median(one)
		benchline.Report(b, benchline.Line{Name: "iscsi-1ms-store-qd32", Ours: ours, Peer: peer, PeerName: "itself at depth 1", Ratio: ours / peer, Unit: "1/s",
			Goal: ">= 20x", Met: ours >= 20*peer, Runs: rounds, Setup: "4 KiB random reads of a store that takes 1 ms for each, one session"})
	}
}
