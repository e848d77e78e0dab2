package state_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/go-memdb"
	"github.com/stretchr/testify/require"

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
	state.Index("project", func(m machine) []string { return []string{m.Project} }),
	state.Index("name", func(m machine) []string { return []string{m.Project + "/" + m.Name} }),
	state.Index("address", func(m machine) []string { return []string{m.Addresses[0]} }))

// pastLog is a log of n machines to which nothing is added.
type pastLog struct{ n int }

func (l pastLog) Commit(context.Context, state.Batch) (state.Revision, error) {
	return 0, state.ErrClosed
}
func (l pastLog) Close() error { return nil }
func (l pastLog) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		b := state.Batch{Rev: 1, Snapshot: true, Ops: make([]state.Op, l.n)}
		for i := range b.Ops {
			m := newMachine(i)
			value, _ := json.Marshal(m)
			b.Ops[i] = state.Op{Key: "r/machine/" + m.ID, Value: value, Rev: 1}
		}
		if yield(b, nil) {
			b.Ops = nil
			<-ctx.Done()
		}
	}
}

// heap returns the bytes that what made makes takes.
func heap(b *testing.B, made func() (keep any)) (bytes float64, took time.Duration, keep any) {
	live := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	begun := time.Now()
	keep = made()
	took = time.Since(begun)
	return float64(live() - before), took, keep
}

// BenchmarkPeerHeap measures what 100,000 records with four indexes take in memory: in a Store, and in go-memdb by itself.
func BenchmarkPeerHeap(b *testing.B) {
	const n = 100_000
	single := func(name string, unique bool, field string) *memdb.IndexSchema {
		return &memdb.IndexSchema{Name: name, Unique: unique, Indexer: &memdb.StringFieldIndex{Field: field}}
	}
	type row struct {
		machine
		Path, Address string // what the Store's indexes make of the record
	}
	schema := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{"machine": {Name: "machine", Indexes: map[string]*memdb.IndexSchema{
		"id": single("id", true, "ID"), "host": single("host", false, "Host"), "project": single("project", false, "Project"),
		"name": single("name", false, "Path"), "address": single("address", false, "Address")}}}}
	for b.Loop() {
		var ours, peer []float64
		var load, cpu []float64
		for range 5 {
			used := benchline.CPU()
			bytes, took, keep := heap(b, func() any {
				s, err := state.Open(b.Context(), state.Config{Log: pastLog{n}, Schema: []state.Schema{machines}})
				require.NoError(b, err)
				return s
			})
			ours, load = append(ours, bytes/n), append(load, took.Seconds())
			cpu = append(cpu, float64((benchline.CPU()-used).Microseconds())/n)
			require.NoError(b, keep.(*state.Store).Close())

			bytes, _, keep = heap(b, func() any {
				db, err := memdb.NewMemDB(schema)
				require.NoError(b, err)
				tx := db.Txn(true)
				for i := range n {
					var m machine
					value, _ := json.Marshal(newMachine(i))
					require.NoError(b, json.Unmarshal(value, &m))
					require.NoError(b, tx.Insert("machine", &row{m, m.Project + "/" + m.Name, m.Addresses[0]}))
				}
				tx.Commit()
				return db
			})
			peer = append(peer, bytes/n)
			runtime.KeepAlive(keep)
		}
		o, p := benchline.Median(ours), benchline.Median(peer)
		benchline.Report(b, benchline.Line{Name: "state: heap per record of 100,000", Ours: o, Peer: p, PeerName: "go-memdb", Ratio: p / o, Unit: "B",
			Goal: ">= 0.9x", Met: p/o >= 0.9, CPU: benchline.Median(cpu), Runs: 5,
			Setup: "records of 400 bytes of JSON with a key and four indexes; the Store has revisions, guards and its history besides"})
		b.Logf("%d records: %.0f MB, loaded in %.2f s", n, o*n/1e6, benchline.Median(load))
	}
}
