package auth

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// machine is a record that uses a quota.
type machine struct {
	ID, ProjectID string
	Takes         Amounts
}

var (
	machines   = state.NewTable("machine", func(m machine) string { return m.ID })
	machineUse = state.NewSum("machine-use", machines, func(m machine) (string, Amounts) { return m.ProjectID, m.Takes })
)

func TestLimitsOfAProject(t *testing.T) {
	r := newRig(t)
	ctx := admin(t)
	p := r.project("weather", "")
	limits := func(project string) Amounts {
		t.Helper()
		l, _, err := r.GetQuota(ctx, project)
		require.NoError(t, err)
		return l
	}
	want := DefaultLimits()
	require.Equal(t, want, limits(p.ID))
	require.Equal(t, want, limits("not on record"))

	now, err := r.SetQuota(ctx, EveryProject, map[Resource]int{Cores: 4, Instances: 3})
	require.NoError(t, err)
	want.Cores, want.Instances = 4, 3
	require.Equal(t, want, now)
	require.Equal(t, want, limits("not on record"))
	_, err = r.SetQuota(ctx, p.ID, map[Resource]int{Cores: Unlimited})
	require.NoError(t, err)
	now, err = r.SetQuota(ctx, p.ID, map[Resource]int{Volumes: 0})
	require.NoError(t, err)
	want.Cores, want.Volumes = Unlimited, 0
	require.Equal(t, want, now)
	require.Equal(t, want, limits(p.ID))
	require.Equal(t, 4, limits("not on record").Cores)

	for range 2 {
		require.NoError(t, r.ResetQuota(ctx, p.ID))
	}
	require.Equal(t, limits(EveryProject), limits(p.ID))
	require.NoError(t, r.ResetQuota(ctx, EveryProject))
	require.Equal(t, DefaultLimits(), limits(p.ID))
}

func TestEveryResourceHasAPlace(t *testing.T) {
	for _, r := range Resources() {
		var a Amounts
		*a.field(r) = 5
		require.Equal(t, 5, a.Of(r))
		require.Equal(t, 10, a.Plus(a).Of(r))
		require.Equal(t, Amounts{}, a.Minus(a))
		require.NotZero(t, DefaultLimits().Of(r))
		for _, other := range Resources() {
			if other != r {
				require.Zero(t, a.Of(other))
			}
		}
	}
	require.Zero(t, DefaultLimits().Of("ponies"))
}

func TestRefusalNamesEachResource(t *testing.T) {
	limits := Amounts{Instances: 10, Cores: 20, MemoryMiB: Unlimited, Volumes: 3}
	require.NoError(t, within("p", limits, Amounts{Instances: 1, Cores: 20, MemoryMiB: math.MaxInt}, Amounts{Instances: 9}))
	err := within("p", limits, Amounts{Instances: 2, Cores: 1}, Amounts{Instances: 9, Cores: 21, Volumes: 4})
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	var over *QuotaError
	require.ErrorAs(t, err, &over)
	require.Equal(t, []Excess{{Instances, 10, 9, 2}, {Cores, 20, 21, 1}}, over.Over, "volumes are over, but none was asked for")
	require.EqualError(t, err, "quota exceeded: instances: limit 10, in use 9, asked 2; cores: limit 20, in use 21, asked 1")
	require.Error(t, within("p", limits, Amounts{Cores: math.MaxInt}, Amounts{Cores: 1}), "nothing overflows")
}

// Two stores on one log, and two writers on each: whatever they make and remove at the same time, and while an operator
// changes the limits, nothing is made that does not fit at the moment it is made, and what fits is not refused.
func TestQuotaHolds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := memstate.New(memstate.Config{})
		defer log.Close()
		stores := make([]*state.Store, 2)
		for i := range stores {
			s, err := state.Open(context.Background(), state.Config{Log: log, Schema: append(Schema(), machines, machineUse)})
			if err != nil {
				rt.Fatal(err)
			}
			defer s.Close()
			stores[i] = s
		}
		operator, err := NewService(ServiceConfig{Store: stores[0], Policy: DefaultPolicy()})
		if err != nil {
			rt.Fatal(err)
		}
		ctx := NewContext(context.Background(), Admin(""))
		limit := rapid.IntRange(0, 12).Draw(rt, "limit")
		if _, err := operator.SetQuota(ctx, "p", map[Resource]int{Instances: limit, Cores: 2 * limit}); err != nil {
			rt.Fatal(err)
		}
		type step struct {
			make  bool
			cores int
		}
		plans := make([][]step, 4)
		for w := range plans {
			plans[w] = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
				return step{rapid.IntRange(0, 3).Draw(rt, "make") > 0, rapid.IntRange(1, 4).Draw(rt, "cores")}
			}), 4, 12).Draw(rt, "plan")
		}
		lower := rapid.IntRange(0, limit).Draw(rt, "lower")

		var writers sync.WaitGroup
		problems := make(chan error, 100)
		for w, plan := range plans {
			store := stores[w%2]
			writers.Go(func() {
				var own []string
				for n, s := range plan {
					if !s.make && len(own) > 0 {
						if err := store.Update(ctx, func(tx *state.Tx) error { return machines.Delete(tx, own[0]) }); err != nil {
							problems <- err
						}
						own = own[1:]
						continue
					}
					id := fmt.Sprint(w, "-", n)
					err := store.Update(ctx, func(tx *state.Tx) error { return makeMachine(tx, id, s.cores) })
					switch {
					case err == nil:
						own = append(own, id)
					case !errdefs.IsResourceExhausted(err):
						problems <- err
					}
				}
			})
		}
		watched := make(chan error, 1)
		watching, stop := context.WithCancel(ctx)
		go func() { watched <- neverOver(watching, stores[1], limit) }()
		if _, err := operator.SetQuota(ctx, "p", map[Resource]int{Instances: lower}); err != nil {
			rt.Fatal(err)
		}
		writers.Wait()
		stop()
		close(problems)
		for err := range problems {
			rt.Fatal(err)
		}
		if err := <-watched; err != nil {
			rt.Fatal(err)
		}

		// As much as is left can be had, and not one more: the decision and what it rests on are of one moment.
		for more, n := true, 0; more; n++ {
			err := stores[1].Update(ctx, func(tx *state.Tx) error {
				limits, used := LimitsOf(tx, "p"), machineUse.Get(tx, "p")
				more = used.Instances < limits.Instances && used.Cores < limits.Cores
				return makeMachine(tx, fmt.Sprint("rest-", n), 1)
			})
			if more != (err == nil) {
				rt.Fatalf("room: %v, but: %v", more, err)
			}
		}
	})
}

func makeMachine(tx *state.Tx, id string, cores int) error {
	takes := Amounts{Instances: 1, Cores: cores}
	if err := CheckQuota(tx, "p", takes, machineUse.Get(tx, "p")); err != nil {
		return err
	}
	return machines.Put(tx, machine{id, "p", takes})
}

// neverOver adds up the machines by hand after every revision, and holds those that were added to the limits then.
func neverOver(ctx context.Context, store *state.Store, limit int) error {
	used, limits := Amounts{}, Amounts{Instances: limit, Cores: 2 * limit}
	for c, err := range store.ViewAndWatch(ctx, func(v *state.View) error {
		used, limits = machineUse.Get(v, "p"), LimitsOf(v, "p")
		return nil
	}) {
		if err != nil {
			return err
		}
		before := used
		for q := range Quotas.Changes(c) {
			limits.Instances, limits.Cores = q.New.Limits[Instances], q.New.Limits[Cores]
		}
		for m := range machines.Changes(c) {
			if m.New != nil {
				used = used.Plus(m.New.Takes)
			}
			if m.Old != nil {
				used = used.Minus(m.Old.Takes)
			}
		}
		// One revision may hold many updates, a change of the limits among them: judge by what grew.
		if used.Cores > before.Cores && used.Cores > limits.Cores {
			return fmt.Errorf("%d cores in use, %d allowed", used.Cores, limits.Cores)
		}
		if used.Instances > limit {
			return fmt.Errorf("%d instances in use, %d allowed at the most", used.Instances, limit)
		}
	}
	return nil
}
