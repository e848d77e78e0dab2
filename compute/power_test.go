package compute_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

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
			n.forgetTaps()
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

// What the hypervisor said before an operation is not written after it.
func TestAnObservationThatIsOutOfDateIsNotRecorded(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		id := c.active(t).ID
		require.NoError(t, c.service.Stop(c.ctx, id))
		c.waitRest(t, id)
		slow := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodList, After: true, Delay: 3 * time.Second, Call: 1})
		n.host.Restart()
		<-slow.Struck() // it has said that the guest is off
		require.NoError(t, c.service.Start(c.ctx, id))
		i, err := c.service.WaitActive(c.ctx, id)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.Equal(t, i, c.get(t, id), "nothing was written since")
	})
}

// A guest that comes back while it is recorded that it went is not missed: its event says what the record says still.
func TestAGuestThatComesBackWhileItIsRecordedThatItWent(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		id := c.active(t).ID
		synctest.Wait()
		slow := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodList, After: true, Hang: true, Call: 1})
		require.NoError(t, n.host.PowerOff(id))
		<-slow.Struck() // it has said that the guest is off
		require.NoError(t, fakecompute.New(fakecompute.Config{Host: n.host}).Start(c.ctx, id))
		synctest.Wait()
		slow.Remove()
		synctest.Wait()
		require.Equal(t, compute.StateActive, c.get(t, id).State)
		require.NoError(t, c.audit())
	})
}

// An instance that is terminated while the domains are listed is no orphan.
func TestWhatIsBeingTerminatedIsNoOrphan(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		id := c.active(t).ID
		slow := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodList, After: true, Delay: 3 * time.Second, Call: 1})
		n.host.Restart()
		<-slow.Struck()
		require.NoError(t, c.service.Terminate(c.ctx, id))
		require.NoError(t, c.service.WaitGone(c.ctx, id))
		time.Sleep(time.Minute)
		require.Zero(t, n.logs.count("no record names"))
	})
}

// A domain that was lost is off, so that stopping it is no failure.
func TestStoppingWhatIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		id := c.active(t).ID
		synctest.Wait() // nobody is just looking
		blind := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodList, Hang: true})
		n.host.Remove(id)
		require.NoError(t, c.service.Stop(c.ctx, id))
		i := c.waitRest(t, id)
		require.Equal(t, compute.StateStopped, i.State)
		require.Empty(t, i.Fault)
		blind.Remove()
		time.Sleep(time.Hour)
		require.Contains(t, c.get(t, id).Fault, "no longer has the domain")
		require.NoError(t, c.audit())
	})
}
