package compute_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// active launches one and waits until it runs.
func (c *cloud) active(t testing.TB) compute.Instance {
	t.Helper()
	i, err := c.service.WaitActive(c.ctx, c.run(t, one())[0].ID)
	require.NoError(t, err)
	return i
}

func TestConsole(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		hang := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Hang: true})
		id := c.run(t, one())[0].ID
		synctest.Wait()
		_, err := c.service.Console(c.ctx, id, 0)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, "is building and has no console now")
		hang.Remove()
		_, err = c.service.WaitActive(c.ctx, id)
		require.NoError(t, err)
		out, err := c.service.Console(c.ctx, id, 0)
		require.NoError(t, err)
		require.Equal(t, "fakecompute: web boots\n", string(out))
		out, err = c.service.Console(c.ctx, id, 6)
		require.NoError(t, err)
		require.Equal(t, "boots\n", string(out))
		for _, max := range []int{-1, 65537} {
			_, err = c.service.Console(c.ctx, id, max)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		c.enlist(t)
		_, err := c.service.Console(c.ctx, c.run(t, one())[0].ID, 0)
		require.ErrorIs(t, err, errdefs.ErrUnavailable)
		require.ErrorContains(t, err, "its host does not answer")
		require.NoError(t, c.close())
	})
}

// A domain of another epoch than the record's is not destroyed by anything.
func TestNothingIsDestroyedThatARecordDoesNotName(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		i := c.active(t)
		n.host.Remove(i.ID)
		hv := fakecompute.New(fakecompute.Config{Host: n.host})
		require.NoError(t, hv.Create(c.ctx, compute.Machine{ID: i.ID, Epoch: 7, Name: "newer", VCPUs: 1, MemoryMiB: 64, Kernel: "/k"}))
		require.NoError(t, c.service.Terminate(c.ctx, i.ID))
		time.Sleep(time.Hour)
		got := c.get(t, i.ID)
		require.Equal(t, "DELETING", got.Status())
		require.Contains(t, got.Fault, "has epoch 7, not 1")
		require.Len(t, n.host.Domains(), 1)
		require.True(t, n.disks.list()[i.ID])
		n.host.Remove(i.ID)
		require.NoError(t, c.service.WaitGone(c.ctx, i.ID))
		require.NoError(t, c.audit())
	})
}

func TestTerminationWaitsForTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		stop := c.start(t)
		ran := c.active(t).ID
		stop()
		began := c.run(t, one())[0].ID
		for _, id := range []string{ran, began} {
			require.NoError(t, c.service.Terminate(c.ctx, id))
		}
		time.Sleep(24 * time.Hour)
		for _, id := range []string{ran, began} {
			require.Equal(t, "DELETING", c.get(t, id).Status())
		}
		require.Len(t, c.nodes[0].host.Domains(), 1)
		_ = c.store.View(func(v *state.View) error {
			require.Equal(t, compute.Use{Instances: 2, Cores: 2, MemoryMiB: 4096}, compute.ProjectUse.Get(v, project))
			return nil
		})
		stop = c.start(t)
		for _, id := range []string{ran, began} {
			require.NoError(t, c.service.WaitGone(c.ctx, id))
		}
		require.NoError(t, c.audit())
		stop()
		require.NoError(t, c.close())
	})
}

// An instance in error counts in the quota, but has given its place and its addresses back.
func TestErrorKeepsTheQuotaAndNotTheRoom(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Err: errdefs.ErrFailedPrecondition})
		id := c.run(t, one())[0].ID
		_, err := c.service.WaitActive(c.ctx, id)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		_ = c.store.View(func(v *state.View) error {
			require.Equal(t, compute.Use{Instances: 1, Cores: 1, MemoryMiB: 2048}, compute.ProjectUse.Get(v, project))
			require.Zero(t, compute.HostUse.Get(v, n.id))
			return nil
		})
		require.NoError(t, c.audit())
		require.NoError(t, c.service.Terminate(c.ctx, id))
		require.NoError(t, c.service.WaitGone(c.ctx, id))
		require.NoError(t, c.audit())
	})
}

// The hypervisor hangs or fails at each of its calls, before and after the work: nothing is stuck when it is well again, and
// nothing is left.
func TestAHypervisorThatHangsAndFails(t *testing.T) {
	for _, method := range []fakecompute.Method{fakecompute.MethodCreate, fakecompute.MethodDestroy, fakecompute.MethodStop,
		fakecompute.MethodReboot, fakecompute.MethodList, fakecompute.MethodDescribe, fakecompute.MethodConsole, "Plug", "Unplug"} {
		for name, fault := range map[string]fakecompute.Fault{
			"hangs":       {Hang: true},
			"hangs after": {Hang: true, After: true},
			"fails":       {Err: errors.New("broken pipe")},
			"fails after": {Err: errors.New("broken pipe"), After: true},
			"for good":    {Err: fmt.Errorf("refused: %w", errdefs.ErrInvalidArgument)},
			"once":        {Err: errors.New("broken pipe"), After: true, Call: 1},
		} {
			t.Run(fmt.Sprint(method, " ", name), func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *cloud, n *node) {
					running, off := c.active(t).ID, c.active(t).ID
					require.NoError(t, c.service.Stop(c.ctx, off))
					c.waitRest(t, off)
					fault.Method = method
					injected := strike(n, fault)
					launched := c.run(t, one())[0].ID
					doomed := c.run(t, one())[0].ID
					require.NoError(t, c.service.Start(c.ctx, off))
					require.NoError(t, c.service.Reboot(c.ctx, running, true))
					time.Sleep(time.Second)
					require.NoError(t, c.service.Terminate(c.ctx, doomed))
					time.Sleep(time.Hour) // beyond every deadline
					for _, id := range []string{running, off, launched} {
						if i := c.get(t, id); method != fakecompute.MethodDestroy {
							require.Equal(t, compute.TaskNone, i.Task, "%+v", i)
							if i.Power != compute.PowerRunning && i.State != compute.StateError {
								require.NotEmpty(t, i.Fault, "%+v", i)
							}
						}
					}
					injected.Remove()
					time.Sleep(time.Hour)
					require.ErrorIs(t, c.service.Stop(c.ctx, doomed), errdefs.ErrNotFound)
					require.NoError(t, c.audit())
					for _, id := range []string{running, off, launched} {
						require.NoError(t, c.service.Terminate(c.ctx, id))
						require.NoError(t, c.service.WaitGone(c.ctx, id))
					}
					require.NoError(t, c.audit())
					require.Empty(t, n.host.Domains())
				})
			})
		}
	}
}

// strike injects a fault into the hypervisor, or into the network if it has the method.
func strike(n *node, f fakecompute.Fault) interface{ Remove() } {
	switch m := fakenetwork.Method(f.Method); m {
	case fakenetwork.MethodPlug, fakenetwork.MethodUnplug:
		return n.net.Inject(fakenetwork.Fault{Method: m, Call: f.Call, After: f.After, Hang: f.Hang, Err: f.Err})
	}
	return n.host.Inject(f)
}

// A connection that comes and goes costs time and nothing else.
func TestAHypervisorThatComesAndGoes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		id := c.active(t).ID
		n.host.Disconnect()
		doomed := c.run(t, one())[0].ID
		require.NoError(t, c.service.Terminate(c.ctx, id))
		time.Sleep(10 * time.Minute)
		require.Contains(t, c.get(t, id).Fault, "can't be reached")
		require.Equal(t, "DELETING", c.get(t, id).Status())
		n.host.Connect()
		require.NoError(t, c.service.WaitGone(c.ctx, id))
		i := c.waitRest(t, doomed)
		require.Equal(t, compute.StateError, i.State)
		require.NoError(t, c.audit())
	})
}

// Run ends soon and whole whatever its calls are doing, and the next agent goes on.
func TestAnAgentEndsWhileItsCallsHang(t *testing.T) {
	for _, method := range []fakecompute.Method{fakecompute.MethodDescribe, fakecompute.MethodCreate, fakecompute.MethodList, fakecompute.MethodConsole} {
		synctest.Test(t, func(t *testing.T) {
			c := newCloud(t, 1)
			n := c.nodes[0]
			stop := c.start(t)
			i := c.active(t)
			hang := n.host.Inject(fakecompute.Fault{Method: method, Hang: true})
			id := c.run(t, one())[0].ID
			answered := make(chan error, 1)
			go func() {
				_, err := c.service.Console(c.ctx, i.ID, 0)
				answered <- err
			}()
			time.Sleep(2 * time.Minute)
			begun := time.Now()
			stop()
			require.Zero(t, time.Since(begun), method)
			<-answered
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			require.NoError(t, n.work(ctx, operation.Hooks{}), "an agent that begins while they hang")
			cancel()
			hang.Remove()
			stop = c.start(t)
			_, err := c.service.WaitActive(c.ctx, id)
			require.NoError(t, err)
			require.NoError(t, c.audit())
			stop()
			require.NoError(t, c.close())
		})
	}
}

func TestAnAgentWaitsForItsHypervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		c.nodes[0].host.Disconnect()
		up := time.AfterFunc(time.Hour, c.nodes[0].host.Connect)
		stop := c.start(t)
		require.False(t, up.Stop())
		c.active(t)
		require.NoError(t, c.audit())
		stop()
		c.nodes[0].host.Disconnect()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, c.nodes[0].work(ctx, operation.Hooks{}))
		require.NoError(t, c.close())
	})
}

func TestAnAgentThatCantBegin(t *testing.T) {
	c := newCloud(t, 2)
	stop := c.start(t)
	a, err := c.nodes[0].agent(operation.Hooks{})
	require.NoError(t, err)
	stop()
	c.update(t, func(tx *state.Tx) error {
		return scheduler.Hosts.Put(tx, scheduler.Host{ID: "another", Name: "host-" + uuid.NewString()[:8]})
	})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, a.Run(ended), "ctx had ended")
	// Another host's name is taken.
	c.nodes[1].id = c.nodes[0].id[:8] + uuid.NewString()[8:]
	require.ErrorIs(t, c.nodes[1].work(context.Background(), operation.Hooks{}), errdefs.ErrAlreadyExists)
	require.NoError(t, c.close())
	require.ErrorIs(t, a.Run(context.Background()), queue.ErrClosed)

	_, err = compute.NewAgent(compute.AgentConfig{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = compute.NewService(compute.ServiceConfig{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestHostsBeatAndKeepTheOperatorsWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		n := c.nodes[0]
		host := func() (h scheduler.Host, beat scheduler.Beat) {
			_ = c.store.View(func(v *state.View) error {
				h, _ = scheduler.Hosts.Get(v, n.id)
				beat, _ = scheduler.Beats.Get(v, n.id)
				return nil
			})
			return h, beat
		}
		stop := c.start(t)
		time.Sleep(35 * time.Second)
		h, beat := host()
		require.Equal(t, 5*time.Second, time.Since(beat.At))
		require.Equal(t, scheduler.Host{ID: n.id, Name: "host-" + n.id[:8], Zone: "nova", Total: roomy}, h)
		h.Disabled, h.Reason, h.Name = true, "new disk", "old-name"
		c.update(t, func(tx *state.Tx) error { return scheduler.Hosts.Put(tx, h) })
		stop()
		time.Sleep(2 * time.Minute)
		_, err := c.service.Run(c.ctx, one())
		require.ErrorContains(t, err, "1 failed up")
		stop = c.start(t)
		time.Sleep(time.Minute)
		h, _ = host()
		require.True(t, h.Disabled)
		require.Equal(t, "host-"+n.id[:8], h.Name, "an agent renames its host")
		_, err = c.service.Run(c.ctx, one())
		require.ErrorContains(t, err, "1 failed enabled")
		synctest.Wait()
		require.Zero(t, n.disks.sweeps())
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, 1, n.disks.sweeps())
		stop()
		require.NoError(t, c.close())
	})
}

// Nothing is shared between two clouds of one process.
func TestTwoCloudsInOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newCloud(t, 2), newCloud(t, 2)
		stopA, stopB := a.start(t), b.start(t)
		i, j := a.active(t), b.active(t)
		_, err := b.service.Get(admin(), i.ID)
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		stopA()
		require.NoError(t, a.close())
		require.NoError(t, b.service.Terminate(b.ctx, j.ID))
		require.NoError(t, b.service.WaitGone(b.ctx, j.ID))
		require.NoError(t, b.audit())
		stopB()
		require.NoError(t, b.close())
	})
}

// A caller that goes away half-way has got all or nothing, and what was begun is done.
func TestACallerThatGoesAway(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, _ *node) {
		ctx, cancel := context.WithCancel(c.ctx)
		cancel()
		_, err := c.service.Run(ctx, one())
		require.Equal(t, context.Canceled, err)
		require.Empty(t, c.instances())
		i := c.active(t)
		for _, call := range []func() error{
			func() error { return c.service.Terminate(ctx, i.ID) },
			func() error { return c.service.Stop(ctx, i.ID) },
			func() error { _, err := c.service.Console(ctx, i.ID, 0); return err },
			func() error { return c.service.WaitGone(ctx, i.ID) },
		} {
			require.Equal(t, context.Canceled, call())
		}
		require.Equal(t, compute.TaskNone, c.get(t, i.ID).Task)

		ctx, cancel = context.WithCancel(c.ctx)
		made, err := c.service.Run(ctx, one())
		require.NoError(t, err)
		cancel()
		_, err = c.service.WaitActive(c.ctx, made[0].ID)
		require.NoError(t, err)
		require.NoError(t, c.audit())
	})
}

// All doorbells are lost: agents look by themselves.
func TestLostDoorbellsCostTimeAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		stop := c.start(t)
		synctest.Wait()
		require.NoError(t, c.bus.Close())
		begun := time.Now()
		id := c.active(t).ID
		require.NoError(t, c.service.Terminate(c.ctx, id))
		require.NoError(t, c.service.WaitGone(c.ctx, id))
		require.Less(t, time.Since(begun), 15*time.Second)
		require.NoError(t, c.audit())
		stop()
		require.NoError(t, c.close())
	})
}

// A termination does not wait for what is under way: that is asked to end.
func TestTerminationEndsWhatIsUnderWay(t *testing.T) {
	for name, begin := range map[string]func(c *cloud, n *node, id string) error{
		"a stop in its grace": func(c *cloud, n *node, id string) error {
			return errors.Join(n.host.Deaf(id), c.service.Stop(c.ctx, id))
		},
		"a reboot that hangs": func(c *cloud, n *node, id string) error {
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodReboot, Hang: true})
			return c.service.Reboot(c.ctx, id, true)
		},
		"a start that hangs": func(c *cloud, n *node, id string) error {
			err := c.service.Stop(c.ctx, id)
			time.Sleep(time.Second)
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Hang: true, After: true})
			return errors.Join(err, c.service.Start(c.ctx, id))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cloud, n *node) {
				id := c.active(t).ID
				require.NoError(t, begin(c, n, id))
				c.endSoon(t, id)
			})
		})
	}
	t.Run("a launch that hangs", func(t *testing.T) {
		inBubble(t, func(t *testing.T, c *cloud, n *node) {
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Hang: true, After: true})
			c.endSoon(t, c.run(t, one())[0].ID)
		})
	})
}

// endSoon terminates an instance, sees it deleting until it is gone, and that soon.
func (c *cloud) endSoon(t *testing.T, id string) {
	time.Sleep(time.Second)
	begun, from := time.Now(), c.store.Revision()
	require.NoError(t, c.service.Terminate(c.ctx, id))
	for e, err := range c.service.Watch(c.ctx, compute.WatchOptions{After: from}) {
		require.NoError(t, err)
		require.Equal(t, "DELETING", e.Instance.Status())
		if e.Gone {
			break
		}
	}
	require.Less(t, time.Since(begun), time.Second)
	require.NoError(t, c.audit())
}
