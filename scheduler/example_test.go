package scheduler_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// server is what a program places; its record is the claim on the host.
type server struct {
	ID, HostID string
	Needs      scheduler.Resources
}

// A host program adds a filter of its own to the default ones, and records what it places in the same transaction.
func Example() {
	servers := state.NewTable("server", func(s server) string { return s.ID })
	use := state.NewSum("use", servers, func(s server) (string, scheduler.Resources) { return s.HostID, s.Needs })

	ctx := context.Background()
	records := memstate.New(memstate.Config{})
	defer records.Close()
	store, err := state.Open(ctx, state.Config{Log: records, Schema: append(scheduler.Schema(), servers, use)})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	quiet := scheduler.Filter{Name: "quietness", Pass: func(_ scheduler.Request, c scheduler.Candidate) bool { return c.Name != "drum" }}
	s, err := scheduler.New(scheduler.Config{
		Used:    func(r state.Reader, hostID string) scheduler.Resources { return use.Get(r, hostID) },
		Filters: append(scheduler.DefaultFilters(scheduler.Ratios{Memory: 1}), quiet),
	})
	if err != nil {
		log.Fatal(err)
	}

	launch := func(id string, needs scheduler.Resources) error {
		return store.Update(ctx, func(tx *state.Tx) error {
			hosts, err := s.Place(tx, scheduler.Request{Resources: needs}, 1)
			if err != nil {
				return err
			}
			return servers.Insert(tx, server{id, hosts[0], needs})
		})
	}
	err = store.Update(ctx, func(tx *state.Tx) error {
		for _, name := range []string{"drum", "harp"} {
			h := scheduler.Host{ID: name, Name: name, Total: scheduler.Resources{VCPUs: 8, MemoryMiB: 16 << 10, DiskGiB: 100}}
			if err := scheduler.Hosts.Put(tx, h); err != nil {
				return err
			}
			if err := scheduler.Beats.Put(tx, scheduler.Beat{HostID: name, At: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(launch("a", scheduler.Resources{VCPUs: 1, MemoryMiB: 12 << 10, DiskGiB: 10}))
	fmt.Println(launch("b", scheduler.Resources{VCPUs: 1, MemoryMiB: 8 << 10, DiskGiB: 10}))
	// Output:
	// <nil>
	// no valid host: of 2 hosts, 1 failed memory, 1 failed quietness
}
