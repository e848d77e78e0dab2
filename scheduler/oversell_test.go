package scheduler

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

func twoStores(t *testing.T) (one, two *state.Store) {
	log := memstate.New(memstate.Config{})
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	return openStore(t, log), openStore(t, log)
}

// Two schedulers, each in a store of its own, two writers each, which make and remove instances while an operator takes
// hosts out of use: at every revision, no host has given away more than it has.
func TestNothingIsOversold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := memstate.New(memstate.Config{})
		defer log.Close()
		var stores []*state.Store
		for range 2 {
			store, err := state.Open(context.Background(), state.Config{Log: log, Schema: append(Schema(), instances, use)})
			if err != nil {
				rt.Fatal(err)
			}
			defer store.Close()
			stores = append(stores, store)
		}
		ratios := Ratios{VCPUs: 2, Memory: 1, Disk: 1}
		totals := map[string]Resources{}
		n := rapid.IntRange(1, 6).Draw(rt, "hosts")
		err := stores[0].Update(context.Background(), func(tx *state.Tx) error {
			for i := range n {
				h := Host{ID: fmt.Sprint("h", i), Name: fmt.Sprint(i), Total: Resources{VCPUs: rapid.IntRange(0, 3).Draw(rt, "vcpus"),
					MemoryMiB: rapid.IntRange(0, 6).Draw(rt, "memory"), DiskGiB: rapid.IntRange(0, 8).Draw(rt, "disk")}}
				totals[h.ID] = h.Total
				if err := Hosts.Put(tx, h); err != nil {
					return err
				}
				if err := Beats.Put(tx, Beat{HostID: h.ID, At: time.Now()}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
		s, err := New(Config{Used: used, Filters: DefaultFilters(ratios), Sample: rapid.IntRange(1, 3).Draw(rt, "sample")})
		if err != nil {
			rt.Fatal(err)
		}
		type step struct {
			want  Resources
			count int // 0: remove one instead
		}
		plans := make([][]step, 4)
		for w := range plans {
			plans[w] = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
				return step{Resources{rapid.IntRange(0, 2).Draw(rt, "vcpus"), rapid.IntRange(0, 2).Draw(rt, "memory"), rapid.IntRange(0, 2).Draw(rt, "disk")},
					rapid.IntRange(0, 3).Draw(rt, "count")}
			}), 2, 8).Draw(rt, "plan")
		}
		problems := make(chan error, 100)
		var writers sync.WaitGroup
		for w, plan := range plans {
			store := stores[w%2]
			writers.Go(func() {
				for i, st := range plan {
					if err := act(store, s, fmt.Sprint(w, "-", i), st.want, st.count); err != nil {
						problems <- err
					}
				}
			})
		}
		watching, stop := context.WithCancel(context.Background())
		watched := make(chan error, 1)
		go func() { watched <- neverOver(watching, stores[1], totals, ratios) }()
		writers.Wait()
		stop()
		close(problems)
		for err := range problems {
			rt.Fatal(err)
		}
		if err := <-watched; err != nil {
			rt.Fatal(err)
		}
	})
}

// act places and records count instances under names that begin with id, or removes any one.
func act(store *state.Store, s Scheduler, id string, want Resources, count int) error {
	err := store.Update(context.Background(), func(tx *state.Tx) error {
		if count == 0 {
			for i := range instances.All(tx.Unguarded()) {
				return instances.Delete(tx, i.ID)
			}
			return nil
		}
		hosts, err := s.Place(tx, Request{Resources: want}, count)
		if err != nil {
			return err
		}
		for n, h := range hosts {
			if err := instances.Insert(tx, instance{fmt.Sprint(id, "-", n), h, want}); err != nil {
				return err
			}
		}
		return nil
	})
	if errdefs.IsResourceExhausted(err) || errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// neverOver adds up by hand what each host has given away, after every revision.
func neverOver(ctx context.Context, store *state.Store, totals map[string]Resources, r Ratios) error {
	given := map[string]Resources{}
	for c, err := range store.ViewAndWatch(ctx, func(v *state.View) error {
		for id := range totals {
			given[id] = use.Get(v, id)
		}
		return nil
	}) {
		if err != nil {
			return err
		}
		for i := range instances.Changes(c) {
			if i.New != nil {
				given[i.New.HostID] = given[i.New.HostID].Plus(i.New.Takes)
			}
			if i.Old != nil {
				given[i.Old.HostID] = given[i.Old.HostID].Minus(i.Old.Takes)
			}
		}
		for id, g := range given {
			total := totals[id]
			if float64(g.VCPUs) > float64(total.VCPUs)*r.VCPUs || float64(g.MemoryMiB) > float64(total.MemoryMiB)*r.Memory ||
				float64(g.DiskGiB) > float64(total.DiskGiB)*r.Disk {
				return fmt.Errorf("revision %d: host %s has %+v and gave away %+v", c.Rev, id, total, g)
			}
		}
	}
	return nil
}
