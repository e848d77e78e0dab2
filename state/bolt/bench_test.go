package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// machine is a record like those of a cloud: about 400 bytes of JSON.
type machine struct {
	ID, Project, Name, Host, Flavor, Image, State, Task, KeyName, Zone string
	Cores, MemoryMiB, DiskGiB                                          int
	Epoch                                                              uint64
	Addresses                                                          [4]string
}

func newMachine(n int) machine {
	return machine{ID: fmt.Sprintf("%08x-0000-7000-8000-%012x", n, n), Project: fmt.Sprint("project-", n%100), Name: fmt.Sprint("machine-", n),
		Host: fmt.Sprint("host-", n%500), Flavor: "small", Image: "0191d3c4-aaaa-7bbb-8ccc-0123456789ab", State: "active", KeyName: "mine", Zone: "nova",
		Cores: 1, MemoryMiB: 2048, DiskGiB: 20, Epoch: 1, Addresses: [4]string{fmt.Sprintf("10.0.%d.%d", n/250%250, n%250)}}
}

var machines = state.NewTable("machine", func(m machine) string { return m.ID },
	state.Index("host", func(m machine) []string { return []string{m.Host} }),
	state.Index("project", func(m machine) []string { return []string{m.Project} }))

// rate runs f on n goroutines for a while and returns how often per second it was done, and the CPU time for each.
func rate(n int, f func(worker, i int)) (perSecond, cpuMicros float64) {
	var done atomic.Int64
	var wg sync.WaitGroup
	begun, cpu := time.Now(), benchline.CPU()
	until := begun.Add(700 * time.Millisecond)
	for w := range n {
		wg.Go(func() {
			for i := 0; time.Now().Before(until); i++ {
				f(w, i)
				done.Add(1)
			}
		})
	}
	wg.Wait()
	count := float64(done.Load())
	return count / time.Since(begun).Seconds(), float64((benchline.CPU() - cpu).Microseconds()) / count
}

// BenchmarkPeerCommit measures durable updates of a Store, a record of 400 bytes with two indexes each, beside what bbolt does by
// itself with the same bytes, and beside a bare write and flush.
func BenchmarkPeerCommit(b *testing.B) {
	dir := b.TempDir()
	log, err := Open(Config{Path: filepath.Join(dir, "ours")})
	require.NoError(b, err)
	defer log.Close()
	store, err := state.Open(b.Context(), state.Config{Log: log, Schema: []state.Schema{machines}})
	require.NoError(b, err)
	defer store.Close()
	bare, err := bbolt.Open(filepath.Join(dir, "bare"), 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	require.NoError(b, err)
	defer bare.Close()
	bare.MaxBatchSize = 1024
	bare.MaxBatchDelay = time.Millisecond
	require.NoError(b, bare.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("b")); return err }))
	raw, err := os.Create(filepath.Join(dir, "raw"))
	require.NoError(b, err)
	defer raw.Close()

	value := make([]byte, 400)
	check := func(err error) {
		if err != nil {
			b.Error(err)
		}
	}
	update := func(w, i int) {
		m := newMachine(w*10000 + i%1000)
		m.Epoch = uint64(i)
		check(store.Update(b.Context(), func(tx *state.Tx) error { return machines.Put(tx, m) }))
	}
	put := func(w, i int) func(tx *bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("b")).Put([]byte(newMachine(w*10000+i%1000).ID), value)
		}
	}
	type side struct {
		name    string
		writers int
		do      func(w, i int)
	}
	sides := []side{
		{"ours, 1 writer", 1, update},
		{"bbolt Update", 1, func(w, i int) { check(bare.Update(put(w, i))) }},
		{"write and flush", 1, func(_, i int) {
			_, err := raw.WriteAt(value, int64(i%1000)*4096)
			check(err)
			check(raw.Sync())
		}},
		{"ours, 256 writers", 256, update},
		{"bbolt Batch", 256, func(w, i int) { check(bare.Batch(put(w, i))) }},
	}
	for b.Loop() {
		figures := make([][]float64, len(sides))
		cpus := make([][]float64, len(sides))
		for range 5 {
			for i, s := range sides {
				perSecond, cpu := rate(s.writers, s.do)
				figures[i] = append(figures[i], perSecond)
				cpus[i] = append(cpus[i], cpu)
			}
		}
		of := func(i int) float64 { return benchline.Median(figures[i]) }
		line := func(name string, ours, peer int, goal float64) {
			benchline.Report(b, benchline.Line{Name: name, Ours: of(ours), Peer: of(peer), PeerName: sides[peer].name, Ratio: of(ours) / of(peer), Unit: "1/s",
				Goal: fmt.Sprintf(">= %gx", goal), Met: of(ours)/of(peer) >= goal, CPU: benchline.Median(cpus[ours]), Runs: 5,
				Setup: "durable updates of a record of 400 bytes with two indexes; the peer stores bytes without indexes, guards or checksums"})
		}
		line("state: updates by 1 writer", 0, 1, 0.8)
		line("state: updates by 1 writer against the disk", 0, 2, 0.5)
		line("state: updates by 256 writers", 3, 4, 0.5)
		for i, s := range sides {
			b.Logf("%-20s %10.0f/s %6.1f us CPU", s.name, of(i), benchline.Median(cpus[i]))
		}
	}
}
