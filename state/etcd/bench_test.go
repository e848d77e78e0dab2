package etcd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/kinetest"
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
	until := begun.Add(time.Second)
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

// BenchmarkPeerCommit measures durable updates of a Store, a record of 400 bytes with two indexes each, beside the bare client
// making a transaction with one guarded put of the same size for each. etcd runs as a process of its own.
func BenchmarkPeerCommit(b *testing.B) {
	peerCommit(b, "state/etcd", "bare etcd client", Config{Endpoints: endpoints(processes(b, 1))}, func(key string) clientv3.Cmp {
		return clientv3.Compare(clientv3.ModRevision(key), ">", -1)
	}, func(w, i int) string { return newMachine(w*10000 + i%1000).ID })
}

// BenchmarkPeerKine is the same on kine and PostgreSQL, beside the bare client creating a key of the same size for each: kine has no
// cheaper transaction.
func BenchmarkPeerKine(b *testing.B) {
	kine := kinetest.Start(b, kinetest.StartPostgres(b, "fsync=on").DSN("bench"))
	var n atomic.Int64
	peerCommit(b, "state/etcd on kine", "bare client of kine", Config{Endpoints: []string{kine.URL()}, SingleKey: true}, func(key string) clientv3.Cmp {
		return clientv3.Compare(clientv3.ModRevision(key), "=", 0)
	}, func(int, int) string { return fmt.Sprint(n.Add(1)) })
}

func peerCommit(b *testing.B, name, peer string, cfg Config, guard func(key string) clientv3.Cmp, bareKey func(w, i int) string) {
	store, err := state.Open(b.Context(), state.Config{Log: open(b, cfg), Schema: []state.Schema{machines}})
	require.NoError(b, err)
	defer store.Close()
	client := bare(b, cfg.Endpoints...)
	value := string(make([]byte, 400))
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
	put := func(w, i int) {
		key := "bare/" + bareKey(w, i)
		_, err := client.Txn(b.Context()).If(guard(key)).Then(clientv3.OpPut(key, value)).Commit()
		check(err)
	}
	sides := []struct {
		name    string
		writers int
		do      func(w, i int)
	}{{"ours, 1 writer", 1, update}, {peer, 1, put}, {"ours, 256 writers", 256, update}, {peer, 256, put}}
	for b.Loop() {
		figures, cpus := make([][]float64, len(sides)), make([][]float64, len(sides))
		for range 5 {
			for i, s := range sides {
				perSecond, cpu := rate(s.writers, s.do)
				figures[i], cpus[i] = append(figures[i], perSecond), append(cpus[i], cpu)
			}
		}
		of := func(i int) float64 { return benchline.Median(figures[i]) }
		for i := 0; i < len(sides); i += 2 {
			goal := 0.5
			benchline.Report(b, benchline.Line{Name: fmt.Sprintf("%s: updates by %d writer(s)", name, sides[i].writers), Ours: of(i), Peer: of(i + 1), PeerName: sides[i+1].name,
				Ratio: of(i) / of(i+1), Unit: "1/s", Goal: fmt.Sprintf(">= %gx", goal), Met: of(i)/of(i+1) >= goal, CPU: benchline.Median(cpus[i]), Runs: 5,
				Setup: "durable updates of a record of 400 bytes with two indexes, seen by a follower before they return; the peer puts 400 bytes in a transaction and follows nothing"})
		}
	}
}

// BenchmarkPeerWatch measures how long it takes from before an update until the last of 1,000 watchers has its change: watchers of
// a Store, which share one watch of etcd, and watches of the bare client.
func BenchmarkPeerWatch(b *testing.B) {
	const watchers, changes = 1000, 20
	urls := endpoints(processes(b, 1))
	store, err := state.Open(b.Context(), state.Config{Log: open(b, Config{Endpoints: urls}), Schema: []state.Schema{machines}})
	require.NoError(b, err)
	defer store.Close()
	client := bare(b, urls...)
	ctx, cancel := context.WithCancel(b.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()

	ours, theirs := make(chan struct{}, watchers), make(chan struct{}, watchers)
	for range watchers {
		from := store.Revision()
		all.Go(func() {
			for _, err := range store.Watch(ctx, from) {
				if err != nil {
					b.Error(err)
				}
				ours <- struct{}{}
			}
		})
		events := client.Watch(ctx, "bare/watched", clientv3.WithCreatedNotify())
		<-events
		all.Go(func() {
			for resp := range events {
				for range resp.Events {
					theirs <- struct{}{}
				}
			}
		})
	}
	spread := func(change func(i int) error, seen chan struct{}, i int) float64 {
		begun := time.Now()
		if err := change(i); err != nil {
			b.Error(err)
		}
		for range watchers {
			<-seen
		}
		return float64(time.Since(begun).Microseconds()) / 1000
	}
	for b.Loop() {
		var us, them []float64
		for i := range changes {
			us = append(us, spread(func(i int) error {
				m := newMachine(1)
				m.Epoch = uint64(i)
				return store.Update(ctx, func(tx *state.Tx) error { return machines.Put(tx, m) })
			}, ours, i))
			them = append(them, spread(func(i int) error { _, err := client.Put(ctx, "bare/watched", fmt.Sprint(i)); return err }, theirs, i))
		}
		mine, peer := benchline.Median(us), benchline.Median(them)
		benchline.Report(b, benchline.Line{Name: "state/etcd: a change at 1,000 watchers", Ours: mine, Peer: peer, PeerName: "bare etcd watches", Ratio: peer / mine, Unit: "ms",
			Goal: ">= 1x", Met: mine <= peer, Runs: changes, Setup: "from before the update until the last of 1,000 watchers has it"})
	}
}
