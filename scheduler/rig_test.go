package scheduler

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// instance is a record that takes what a host has.
type instance struct {
	ID, HostID string
	Takes      Resources
}

var (
	instances = state.NewTable("instance", func(i instance) string { return i.ID })
	use       = state.NewSum("use", instances, func(i instance) (string, Resources) { return i.HostID, i.Takes })
)

func used(r state.Reader, hostID string) Resources { return use.Get(r, hostID) }

func openStore(t testing.TB, log state.Log) *state.Store {
	t.Helper()
	store, err := state.Open(context.Background(), state.Config{Log: log, Schema: append(Schema(), instances, use)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

func newStore(t testing.TB) *state.Store {
	log := memstate.New(memstate.Config{})
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	return openStore(t, log)
}

// add puts hosts into the cloud that are up.
func add(t testing.TB, store *state.Store, hosts ...Host) {
	t.Helper()
	for len(hosts) > 0 {
		some := hosts[:min(1000, len(hosts))]
		hosts = hosts[len(some):]
		require.NoError(t, store.Update(context.Background(), func(tx *state.Tx) error {
			for _, h := range some {
				if err := Hosts.Put(tx, h); err != nil {
					return err
				}
				if err := Beats.Put(tx, Beat{HostID: h.ID, At: time.Now()}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

// place places and records n instances.
func place(ctx context.Context, store *state.Store, s Scheduler, req Request, n int) (hosts []string, err error) {
	err = store.Update(ctx, func(tx *state.Tx) error {
		if hosts, err = s.Place(tx, req, n); err != nil {
			return err
		}
		for _, h := range hosts {
			if err := instances.Insert(tx, instance{uuid.NewString(), h, req.Resources}); err != nil {
				return err
			}
		}
		return nil
	})
	return hosts, err
}

func newScheduler(t testing.TB, cfg Config) *Filtering {
	t.Helper()
	if cfg.Used == nil {
		cfg.Used = used
	}
	s, err := New(cfg)
	require.NoError(t, err)
	return s
}

// loads counts the instances on each host.
func loads(store *state.Store) map[string]int {
	n := map[string]int{}
	_ = store.View(func(v *state.View) error {
		for h := range Hosts.All(v) {
			n[h.ID] = 0
		}
		for i := range instances.All(v) {
			n[i.HostID]++
		}
		return nil
	})
	return n
}
