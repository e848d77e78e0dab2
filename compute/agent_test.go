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

// Every action in every state either begins or is refused as the table says; a termination always begins.
func TestStateMachine(t *testing.T) {
	reach := map[string]func(t *testing.T, c *cloud, n *node) string{
		"building": func(t *testing.T, c *cloud, n *node) string {
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Hang: true})
			return c.run(t, one())[0].ID
		},
		"active": func(t *testing.T, c *cloud, _ *node) string { return c.active(t).ID },
		"paused": func(t *testing.T, c *cloud, n *node) string {
			id := c.active(t).ID
			require.NoError(t, fakecompute.New(fakecompute.Config{Host: n.host}).Pause(c.ctx, id))
			return id
		},
		"stopped": func(t *testing.T, c *cloud, n *node) string {
			id := c.active(t).ID
			require.NoError(t, n.host.PowerOff(id))
			return id
		},
		"error": func(t *testing.T, c *cloud, n *node) string {
			f := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Err: errdefs.ErrFailedPrecondition})
			defer f.Remove()
			id := c.run(t, one())[0].ID
			synctest.Wait()
			return id
		},
		"busy": func(t *testing.T, c *cloud, n *node) string {
			id := c.active(t).ID
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodReboot, Hang: true})
			require.NoError(t, c.service.Reboot(c.ctx, id, false))
			return id
		},
		"deleting": func(t *testing.T, c *cloud, n *node) string {
			id := c.active(t).ID
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodDestroy, Hang: true})
			require.NoError(t, c.service.Terminate(c.ctx, id))
			return id
		},
	}
	status := map[string]string{"building": "BUILD", "active": "ACTIVE", "paused": "PAUSED", "stopped": "SHUTOFF", "error": "ERROR",
		"busy": "REBOOT", "deleting": "DELETING"}
	actions := map[string]func(s *compute.Service, ctx context.Context, id string) error{
		"soft reboot": func(s *compute.Service, ctx context.Context, id string) error { return s.Reboot(ctx, id, false) },
		"hard reboot": func(s *compute.Service, ctx context.Context, id string) error { return s.Reboot(ctx, id, true) },
		"start":       (*compute.Service).Start,
		"stop":        (*compute.Service).Stop,
		"terminate":   (*compute.Service).Terminate,
	}
	allowed := map[string]map[string]compute.State{ // to what state each leads
		"active":  {"soft reboot": compute.StateActive, "hard reboot": compute.StateActive, "stop": compute.StateStopped},
		"paused":  {"hard reboot": compute.StateActive, "stop": compute.StateStopped},
		"stopped": {"start": compute.StateActive},
	}
	for from, make := range reach {
		for action, do := range actions {
			t.Run(from+"/"+action, func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *cloud, n *node) {
					id := make(t, c, n)
					synctest.Wait()
					time.Sleep(time.Minute)
					require.Equal(t, status[from], c.get(t, id).Status())
					err := do(c.service, c.ctx, id)
					if action == "terminate" {
						require.NoError(t, err)
						require.NoError(t, do(c.service, c.ctx, id), "twice is once")
						require.Equal(t, "DELETING", c.get(t, id).Status())
						if from == "deleting" {
							return
						}
						require.NoError(t, c.service.WaitGone(c.ctx, id))
						require.NoError(t, c.audit())
						return
					}
					to, ok := allowed[from][action]
					if !ok {
						require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
						require.ErrorContains(t, err, id)
						return
					}
					require.NoError(t, err)
					require.ErrorIs(t, do(c.service, c.ctx, id), errdefs.ErrFailedPrecondition, "while it is under way")
					i := c.waitRest(t, id)
					require.Equal(t, to, i.State)
					require.Empty(t, i.Fault)
					require.NoError(t, c.audit())
				})
			})
		}
	}
}

func TestWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
		defer cancel()
		_, err := c.service.WaitActive(ctx, "nope")
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		require.NoError(t, c.service.WaitGone(ctx, "nope"))

		i := c.active(t)
		require.False(t, i.Launched.IsZero())
		require.Equal(t, "web", i.Hostname)
		require.Equal(t, context.DeadlineExceeded, c.service.WaitGone(ctx, i.ID), "unwrapped")
		require.NoError(t, c.service.Stop(c.ctx, i.ID))
		c.waitRest(t, i.ID)
		_, err = c.service.WaitActive(c.ctx, i.ID)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, "is stopped")

		// A start that fails is told to who waits for it.
		n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Err: fmt.Errorf("no room: %w", errdefs.ErrResourceExhausted)})
		require.NoError(t, c.service.Start(c.ctx, i.ID))
		_, err = c.service.WaitActive(c.ctx, i.ID)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, "start: domain: no room")
		require.NoError(t, c.audit())

		id := c.run(t, one())[0].ID
		_, err = c.service.WaitActive(c.ctx, id)
		require.ErrorContains(t, err, "is error: launch: domain: no room")
		gone := make(chan error)
		go func() { gone <- c.service.WaitGone(c.ctx, id) }()
		require.NoError(t, c.service.Terminate(c.ctx, id))
		require.NoError(t, <-gone)
	})
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

// What guests do by themselves comes into the records.
func TestPowerStatesFollowTheHypervisor(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		hv := fakecompute.New(fakecompute.Config{Host: n.host})
		for name, step := range map[string]struct {
			do    func(id string) error
			state compute.State
			power compute.PowerState
			fault string
		}{
			"powers off": {n.host.PowerOff, compute.StateStopped, compute.PowerShutoff, ""},
			"crashes":    {n.host.Crash, compute.StateStopped, compute.PowerCrashed, "the guest crashed"},
			"is paused":  {func(id string) error { return hv.Pause(c.ctx, id) }, compute.StatePaused, compute.PowerPaused, ""},
			"is removed": {func(id string) error { n.host.Remove(id); return nil }, compute.StateStopped, compute.PowerUnknown,
				"the hypervisor no longer has the domain; starting the instance makes it anew"},
			"stops and starts": {func(id string) error { return errors.Join(n.host.PowerOff(id), hv.Start(c.ctx, id)) },
				compute.StateActive, compute.PowerRunning, ""},
		} {
			id := c.active(t).ID
			require.NoError(t, step.do(id), name)
			synctest.Wait()
			i := c.get(t, id)
			require.Equal(t, step.state, i.State, name)
			require.Equal(t, step.power, i.Power, name)
			require.Equal(t, step.fault, i.Fault, name)
			require.Equal(t, compute.TaskNone, i.Task, name)
			require.NoError(t, c.audit(), name)
		}
		// A guest that starts again by itself is active again, and a domain that comes back too.
		id := c.active(t).ID
		require.NoError(t, n.host.Crash(id))
		synctest.Wait()
		require.NoError(t, hv.Start(c.ctx, id))
		synctest.Wait()
		require.Equal(t, compute.StateActive, c.get(t, id).State)
		require.Empty(t, c.get(t, id).Fault)
	})
}

// An event in the middle of an operation is not lost: the hypervisor is asked when the operation is over.
func TestACrashDuringAnOperationIsSeenAfterIt(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		slow := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, After: true, Delay: time.Second})
		id := c.run(t, one())[0].ID
		<-slow.Struck()
		require.NoError(t, n.host.Crash(id))
		time.Sleep(2 * time.Second)
		require.Equal(t, compute.StateActive, c.get(t, id).State)
		time.Sleep(5 * time.Second)
		require.Equal(t, compute.StateStopped, c.get(t, id).State)
		require.Equal(t, "the guest crashed", c.get(t, id).Fault)
	})
}

func TestTheNextAgentAdoptsWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		n := c.nodes[0]
		stop := c.start(t)
		var ids []string
		for range 4 {
			ids = append(ids, c.active(t).ID)
		}
		stop()
		created := n.host.Calls(fakecompute.MethodCreate)
		require.NoError(t, n.host.Crash(ids[1]))
		n.host.Remove(ids[2])
		stop = c.start(t)
		synctest.Wait()
		require.Equal(t, compute.StateActive, c.get(t, ids[0]).State)
		require.Equal(t, compute.StateStopped, c.get(t, ids[1]).State)
		require.Equal(t, compute.StateStopped, c.get(t, ids[2]).State)
		require.Equal(t, compute.StateActive, c.get(t, ids[3]).State)
		require.Equal(t, created, n.host.Calls(fakecompute.MethodCreate))
		require.Zero(t, n.host.Calls(fakecompute.MethodDestroy))
		require.NoError(t, c.audit())
		require.NoError(t, c.service.Start(c.ctx, ids[2]))
		_, err := c.service.WaitActive(c.ctx, ids[2])
		require.NoError(t, err)
		require.NoError(t, c.audit())
		stop()
		require.NoError(t, c.close())
	})
}

// The host loses its power: its taps, files in memory and, with transient domains, the domains are gone.
func TestAfterTheHostRestartedInstancesAreStoppedWithAReason(t *testing.T) {
	for _, transient := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCloud(t, 1)
			n := c.nodes[0]
			stop := c.start(t)
			id := c.active(t).ID
			stop()
			n.host.Reset()
			if transient {
				n.host.Remove(id)
			}
			n.taps.names = nil
			stop = c.start(t)
			synctest.Wait()
			i := c.get(t, id)
			require.Equal(t, compute.StateStopped, i.State)
			require.Equal(t, transient, i.Fault != "")
			require.Zero(t, n.host.Calls(fakecompute.MethodDestroy))
			require.NoError(t, c.service.Start(c.ctx, id))
			i, err := c.service.WaitActive(c.ctx, id)
			require.NoError(t, err)
			require.Empty(t, i.Fault)
			require.NoError(t, c.audit())
			stop()
			require.NoError(t, c.close())
		})
	}
}

// Domains that no record names are reported, once, and never touched; so is everything of a host that got another id.
func TestOrphansAreReportedAndLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		n := c.nodes[0]
		stop := c.start(t)
		kept := c.active(t).ID
		n.host.AddForeign(compute.Domain{ID: uuid.NewString(), Name: "theirs"})
		hv := fakecompute.New(fakecompute.Config{Host: n.host})
		lost := compute.Machine{ID: uuid.NewString(), Epoch: 3, Name: "lost", VCPUs: 1, MemoryMiB: 64, Kernel: "/k"}
		require.NoError(t, hv.Create(c.ctx, lost))
		time.Sleep(10 * time.Minute)
		require.Equal(t, 1, n.logs.count("a domain that no record names"))
		a, err := n.agent(operation.Hooks{})
		require.NoError(t, err)
		orphans, err := a.Orphans(c.ctx)
		require.NoError(t, err)
		require.Equal(t, []compute.Domain{{ID: lost.ID, Name: "lost", Epoch: 3, Ours: true, Power: compute.PowerRunning}}, orphans)
		stop()

		n.id = uuid.NewString() // the machine was given another identity
		stop = c.start(t)
		time.Sleep(10 * time.Minute)
		require.Equal(t, 3, n.logs.count("a domain that no record names"))
		require.Len(t, n.host.Domains(), 3)
		require.Zero(t, n.host.Calls(fakecompute.MethodDestroy))
		require.Equal(t, compute.StateActive, c.get(t, kept).State, "its host is silent, that is all that is known")
		stop()
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
		fakecompute.MethodReboot, fakecompute.MethodList, fakecompute.MethodDescribe, fakecompute.MethodConsole} {
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
					injected := n.host.Inject(fault)
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
	require.ErrorIs(t, a.Run(context.Background()), state.ErrClosed)

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
		require.Zero(t, n.disks.swept)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, 1, n.disks.swept)
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
