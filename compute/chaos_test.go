package compute_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// Users do what they like, agents die at any point, hypervisors fail, hang and lose their power, guests crash. In the end,
// when all is well for a while, nothing is under way, and what there is is what the records say; and when all is terminated,
// nothing is left.
func TestChaos(t *testing.T) {
	testneed.Slow(t)
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func chaos(t *testing.T, dice *rand.Rand) {
	c := newCloud(t, 3)
	c.enlist(t)
	c.unlimited(t)
	life, end := context.WithCancel(context.Background())
	var agents sync.WaitGroup
	var calm sync.Once
	quiet := make(chan struct{})
	for _, n := range c.nodes {
		mortality := rand.New(rand.NewPCG(dice.Uint64(), 2))
		agents.Go(func() {
			for life.Err() == nil {
				if err := n.live(life, mortality, quiet); err != nil && life.Err() == nil && err.Error() != "compute: host host-"+n.id[:8]+": flaky" {
					t.Error(err)
				}
				time.Sleep(time.Second)
			}
		})
	}
	var ids []string
	var faults []interface{ Remove() }
	methods := []fakecompute.Method{"", fakecompute.MethodCreate, fakecompute.MethodDestroy, fakecompute.MethodStop, fakecompute.MethodList}
	for range 120 {
		time.Sleep(time.Duration(dice.IntN(3000)) * time.Millisecond)
		n := c.nodes[dice.IntN(len(c.nodes))]
		id := ""
		if len(ids) > 0 {
			id = ids[dice.IntN(len(ids))]
		}
		var err error
		switch dice.IntN(16) {
		case 0, 1, 2:
			req := one()
			req.MinCount, req.MaxCount = 1, 1+dice.IntN(3)
			var made []compute.Instance
			made, err = c.service.Run(c.ctx, req)
			for _, i := range made {
				ids = append(ids, i.ID)
			}
		case 3:
			err = c.service.Terminate(c.ctx, id)
		case 4:
			err = c.service.Stop(c.ctx, id)
		case 5, 6:
			err = c.service.Start(c.ctx, id)
		case 7:
			err = c.service.Reboot(c.ctx, id, dice.IntN(2) == 0)
		case 8:
			_ = n.host.Crash(id)
		case 9:
			n.host.Remove(id)
		case 10:
			n.host.Restart()
		case 11:
			n.host.Reset()
			n.forgetTaps()
		case 12:
			faults = append(faults, n.host.Inject(fakecompute.Fault{Method: methods[dice.IntN(len(methods))], Hang: true, After: dice.IntN(2) == 0}))
		case 13:
			faults = append(faults, n.host.Inject(fakecompute.Fault{Method: methods[dice.IntN(len(methods))], Err: errors.New("flaky"),
				After: dice.IntN(2) == 0}))
		case 14:
			faults = append(faults, n.net.Inject(fakenetwork.Fault{Hang: true, After: dice.IntN(2) == 0}))
		case 15:
			faults = append(faults, n.net.Inject(fakenetwork.Fault{Err: errors.New("flaky"), After: dice.IntN(2) == 0}))
		}
		if err != nil && !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) && !errdefs.IsResourceExhausted(err) {
			t.Error(err)
		}
		if len(faults) > 0 && dice.IntN(3) == 0 {
			faults[0].Remove()
			faults = faults[1:]
		}
	}
	calm.Do(func() { close(quiet) })
	for _, f := range faults {
		f.Remove()
	}
	time.Sleep(time.Hour)
	require.NoError(t, c.audit())
	for _, i := range c.instances() {
		require.Equal(t, compute.TaskNone, i.Task)
		require.NotEqual(t, compute.StateBuilding, i.State)
	}
	for _, id := range ids {
		if err := c.service.Terminate(c.ctx, id); !errdefs.IsNotFound(err) {
			require.NoError(t, err)
			require.NoError(t, c.service.WaitGone(c.ctx, id))
		}
	}
	require.NoError(t, c.audit())
	require.Empty(t, c.instances())
	end()
	agents.Wait()
	require.NoError(t, c.close())
}

// live is the life of a node's agent and of its network's, until it dies at a point that the dice choose.
func (n *node) live(ctx context.Context, dice *rand.Rand, quiet <-chan struct{}) error {
	ctx, die := context.WithCancel(ctx)
	defer die()
	var mu sync.Mutex
	left := 5 + dice.IntN(60)
	hooks := operation.Hooks{Point: func(operation.Record, string) error {
		select {
		case <-quiet:
			return nil
		default:
		}
		mu.Lock()
		defer mu.Unlock()
		if left--; left > 0 {
			return nil
		}
		die()
		return errors.New("dead")
	}}
	ports, err := n.ports()
	if err != nil {
		return err
	}
	var repair sync.WaitGroup
	defer repair.Wait()
	repair.Go(func() { _ = ports.Run(ctx) })
	err = n.work(ctx, hooks)
	die()
	return err
}
