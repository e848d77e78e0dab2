package scheduler

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// farm makes n equal hosts.
func farm(n int, total Resources) []Host {
	hosts := make([]Host, n)
	for i := range hosts {
		hosts[i] = Host{ID: uuid.NewString(), Name: fmt.Sprintf("host-%05d", i), Zone: "nova", Total: total}
	}
	return hosts
}

func TestPlaceTakesTheBest(t *testing.T) {
	store := newStore(t)
	small, large := Host{ID: "small", Name: "s", Total: Resources{8, 1000, 100}}, Host{ID: "large", Name: "l", Total: Resources{8, 4000, 100}}
	add(t, store, small, large)
	s := newScheduler(t, Config{})
	req := Request{Resources: Resources{1, 500, 1}}
	// By the share of memory that is free: 1 and 1, then 0.5 and 1, or 1 and 0.875, and so on: four of five to the large one.
	hosts, err := place(t.Context(), store, s, req, 5)
	require.NoError(t, err)
	slices.Sort(hosts)
	require.Equal(t, []string{"large", "large", "large", "large", "small"}, hosts)
	hosts, err = place(t.Context(), store, s, Request{Resources: req.Resources, Host: "s"}, 1)
	require.NoError(t, err)
	require.Equal(t, []string{"small"}, hosts)
	_, err = place(t.Context(), store, s, Request{Host: "nowhere"}, 1)
	require.EqualError(t, err, "no valid host: of 2 hosts, 2 failed host")

	packing := newScheduler(t, Config{Weighers: []Weigher{{"packed", -1, DefaultWeighers()[0].Score}}})
	for range 3 {
		hosts, err = place(t.Context(), store, packing, Request{Resources: Resources{1, 50, 1}}, 1)
		require.NoError(t, err)
		require.Equal(t, []string{"small"}, hosts, "a negative weight fills hosts up")
	}
	hosts, err = place(t.Context(), store, s, Request{Except: "large"}, 1)
	require.NoError(t, err)
	require.Equal(t, []string{"small"}, hosts)
	_, err = place(t.Context(), store, s, Request{Host: "l", Except: "large"}, 1)
	require.EqualError(t, err, "no valid host: of 2 hosts, 1 failed another host, 1 failed host")
}

func TestRefusalExplainsItself(t *testing.T) {
	s := newScheduler(t, Config{})
	store := newStore(t)
	_, err := place(t.Context(), store, s, Request{}, 1)
	require.EqualError(t, err, "no valid host: the cloud has no hosts")
	require.ErrorIs(t, err, ErrNoValidHost)
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)

	hosts := farm(10, Resources{4, 1000, 10})
	for i := range 5 {
		hosts[i].Total.MemoryMiB = 10
	}
	hosts[5].Disabled = true
	hosts[6].Zone, hosts[7].Zone = "other", "other"
	add(t, store, hosts...)
	require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error {
		return Beats.Put(tx, Beat{HostID: hosts[8].ID, At: time.Now().Add(-2 * DownAfter)})
	}))
	_, err = place(t.Context(), store, s, Request{Zone: "nova", Resources: Resources{1, 1000, 11}}, 1)
	require.EqualError(t, err, "no valid host: of 10 hosts, 5 failed memory, 2 failed availability zone, 1 failed disk, 1 failed enabled, 1 failed up")
	_, err = place(t.Context(), store, s, Request{Zone: "other", Resources: Resources{1, 300, 4}}, 5)
	require.EqualError(t, err, "no valid host: of 10 hosts, 6 failed availability zone, 2 failed disk, 1 failed enabled, 1 failed up (room for 4 of 5)")
	var u *Unplaced
	require.ErrorAs(t, err, &u)
	require.Equal(t, Unplaced{Wanted: 5, Placed: 4, Hosts: 10, Failed: map[string]int{"availability zone": 6, "disk": 2, "enabled": 1, "up": 1}}, *u)
	require.Zero(t, len(all(store)), "none are placed")

	_, err = place(t.Context(), store, newScheduler(t, Config{Filters: []Filter{}}), Request{Zone: "mars"}, 1)
	require.EqualError(t, err, "no valid host: of 10 hosts, 10 failed host or availability zone")
	for _, bad := range []struct {
		req Request
		n   int
	}{{n: 0}, {n: -1}, {req: Request{Resources: Resources{VCPUs: -1}}, n: 1}, {req: Request{Resources: Resources{MemoryMiB: -1}}, n: 1},
		{req: Request{Resources: Resources{DiskGiB: -1}}, n: 1}} {
		_, err = place(t.Context(), store, s, bad.req, bad.n)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
	for _, cfg := range []Config{{}, {Used: used, Sample: -1}} {
		_, err := New(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

func all(store *state.Store) []instance {
	var found []instance
	_ = store.View(func(v *state.View) error {
		for i := range instances.All(v) {
			found = append(found, i)
		}
		return nil
	})
	return found
}

func TestTiesAreBrokenEvenly(t *testing.T) {
	for _, n := range []int{2, 10, 64} {
		store := newStore(t)
		add(t, store, farm(n, Resources{64, 64000, 1000})...)
		s := newScheduler(t, Config{})
		count := map[string]int{}
		const each = 100
		require.NoError(t, store.View(func(*state.View) error { return nil }))
		for range n * each {
			require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error {
				hosts, err := s.Place(tx, Request{Resources: Resources{1, 1, 1}}, 1)
				count[hosts[0]]++
				return err
			}))
		}
		require.Len(t, count, n)
		for id, c := range count {
			require.InDelta(t, each, c, 6*math.Sqrt(each), id) // six standard deviations
		}
	}
}

// A cloud in which a few dozen hosts are looked at knows no unlucky ones: all are looked at, wherever their ids lie.
func TestSmallCloudsAreLookedAtAsAWhole(t *testing.T) {
	store := newStore(t)
	hosts := farm(64, Resources{4, 100, 10})
	hosts[63].Total.MemoryMiB = 1000
	hosts[63].ID = "00000000-0000-0000-0000-000000000000"
	add(t, store, hosts...)
	require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error {
		for i, h := range hosts[:63] {
			if err := instances.Put(tx, instance{fmt.Sprint(i), h.ID, Resources{1, 1, 1}}); err != nil {
				return err
			}
		}
		return nil
	}))
	s := newScheduler(t, Config{})
	for range 100 {
		require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error {
			got, err := s.Place(tx, Request{Resources: Resources{0, 0, 0}}, 1)
			require.Equal(t, []string{hosts[63].ID}, got)
			return err
		}))
	}
}

// With a thousand hosts a sample is looked at: each host is as likely to be in it as any other, whatever its id looks
// like.
func TestSampleIsFair(t *testing.T) {
	for name, id := range map[string]func(n int) string{
		"random": func(int) string { return uuid.NewString() },
		"names":  func(n int) string { return fmt.Sprintf("rack-%d-node-%02d", n/40, n%40) },
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore(t)
			hosts := farm(1000, Resources{64, 64000, 1000})
			for i := range hosts {
				hosts[i].ID = id(i)
			}
			add(t, store, hosts...)
			s := newScheduler(t, Config{})
			chosen := map[string]int{}
			const rounds = 5000
			require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error {
				for range rounds {
					got, err := s.Place(tx, Request{Resources: Resources{1, 1, 1}, Zone: "nova"}, 1)
					if err != nil {
						return err
					}
					chosen[got[0]]++
				}
				return nil
			}))
			require.Greater(t, len(chosen), 960, "of 1000, and 993 are to be expected")
			for id, n := range chosen {
				require.Less(t, n, 5*rounds/1000, id)
			}
		})
	}
}

// One host in a thousand fits: no sample finds it, and it is found.
func TestTheOnlyHostIsFound(t *testing.T) {
	store := newStore(t)
	hosts := farm(1000, Resources{4, 100, 10})
	hosts[777].Total.MemoryMiB = 8000
	hosts[778].Zone = "gpu"
	add(t, store, hosts...)
	s := newScheduler(t, Config{})
	got, err := place(t.Context(), store, s, Request{Resources: Resources{1, 4000, 1}}, 3)
	require.NoError(t, err)
	require.Equal(t, []string{hosts[777].ID, hosts[777].ID, hosts[777].ID}, got)
	_, err = place(t.Context(), store, s, Request{Resources: Resources{1, 4000, 1}}, 1)
	require.EqualError(t, err, "no valid host: of 1000 hosts, 1000 failed memory")
	got, err = place(t.Context(), store, s, Request{Zone: "gpu"}, 1)
	require.NoError(t, err)
	require.Equal(t, []string{hosts[778].ID}, got)
}

// A thousand hosts are filled to the last place, by calls for many at once, and evenly on the way.
func TestAThousandHostsAreFilled(t *testing.T) {
	store := newStore(t)
	add(t, store, farm(1000, Resources{1, 100, 1000})...)
	s := newScheduler(t, Config{})
	req := Request{Resources: Resources{1, 25, 1}}
	fill := func(each, least, most int) {
		t.Helper()
		for range 10 * each {
			_, err := place(t.Context(), store, s, req, 100)
			require.NoError(t, err)
		}
		gotLeast, gotMost := spread(store)
		require.GreaterOrEqual(t, gotLeast, least)
		require.LessOrEqual(t, gotMost, most)
	}
	fill(3, 2, 4)
	fill(3, 6, 6)
	_, err := place(t.Context(), store, s, req, 1)
	require.ErrorIs(t, err, ErrNoValidHost)
}

func spread(store *state.Store) (least, most int) {
	least = math.MaxInt
	for _, n := range loads(store) {
		least, most = min(least, n), max(most, n)
	}
	return least, most
}

// What made a host fit is held to be so at the commit: a host that is disabled, shrunk or filled by another store in
// between is not used.
func TestAChoiceIsHeldToWhatItRestsOn(t *testing.T) {
	for name, meddle := range map[string]func(tx *state.Tx, h Host) error{
		"disabled": func(tx *state.Tx, h Host) error { h.Disabled = true; return Hosts.Put(tx, h) },
		"shrunk":   func(tx *state.Tx, h Host) error { h.Total.MemoryMiB = 1; return Hosts.Put(tx, h) },
		"removed":  func(tx *state.Tx, h Host) error { return Hosts.Delete(tx, h.ID) },
		"filled":   func(tx *state.Tx, h Host) error { return instances.Put(tx, instance{"other", h.ID, h.Total}) },
	} {
		t.Run(name, func(t *testing.T) {
			one, two := twoStores(t)
			h := Host{ID: "h", Name: "h", Total: Resources{1, 100, 1}}
			add(t, one, h)
			require.Eventually(t, func() bool { return len(loads(two)) == 1 }, time.Minute, time.Millisecond)
			s := newScheduler(t, Config{Filters: DefaultFilters(Ratios{1, 1, 1})})
			runs := 0
			err := one.Update(context.Background(), func(tx *state.Tx) error {
				hosts, err := s.Place(tx, Request{Resources: h.Total}, 1)
				if runs++; runs == 1 {
					require.NoError(t, err)
					require.NoError(t, two.Update(context.Background(), func(tx *state.Tx) error { return meddle(tx, h) }))
				}
				if err != nil {
					return err
				}
				return instances.Put(tx, instance{"mine", hosts[0], h.Total})
			})
			require.ErrorIs(t, err, ErrNoValidHost)
			require.Equal(t, 2, runs)
		})
	}
}
