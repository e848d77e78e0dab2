package compute

import (
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// work is what an operation on an instance keeps: which instance, and which attempt at its domain. With the operation's
// owner, which is the host, it names what a step may destroy; nothing is destroyed on another ground.
type work struct {
	InstanceID string
	Epoch      uint64
}

type rebootWork struct {
	work
	Hard bool
}

// The kinds of operations on instances.
const (
	kindLaunch    = "instance.launch"
	kindTerminate = "instance.terminate"
	kindReboot    = "instance.reboot"
	kindStart     = "instance.start"
	kindStop      = "instance.stop"
)

const (
	// launchDeadline bounds a launch, image download included.
	launchDeadline = 30 * time.Minute
	// actionDeadline bounds what is done to a running instance.
	actionDeadline = 10 * time.Minute
)

// launch makes an instance that the service has recorded, with its host, ports and addresses claimed.
func (a *Agent) launch() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindLaunch,
		Steps: []operation.Step[work]{
			a.together(kindLaunch, "launch",
				operation.Step[work]{Name: "disks", Do: a.makeDisks, Undo: a.removeDisks},
				operation.Step[work]{Name: "network", Do: a.plug, Undo: a.unplug},
				// No Undo: Failed has the export ended, when the domain is gone.
				operation.Step[work]{Name: "volume", Do: a.awaitBoot},
				operation.Step[work]{Name: "domain", Do: a.create, Undo: a.destroy},
			),
		},
		Done: func(tx *state.Tx, w *work) error {
			if err := confirmBoot(tx, w); err != nil {
				return err
			}
			return change(func(i *Instance) {
				running(i)
				if i.Launched.IsZero() {
					i.Launched = time.Now().UTC()
				}
			})(tx, w)
		},
		Failed: func(tx *state.Tx, w *work, reason string) error {
			if err := releaseBoot(tx, w, reason); err != nil {
				return err
			}
			if err := a.release(tx, w.InstanceID); err != nil {
				return err
			}
			return change(func(i *Instance) {
				i.Ports = nil
				i.State, i.Task, i.Power, i.Fault = StateError, TaskNone, PowerUnknown, reason
			})(tx, w)
		},
		Problem: fault,
	})
}

// terminate removes an instance and all that it has. It only goes forward: a half-removed instance is of no use.
func (a *Agent) terminate() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindTerminate,
		Steps: []operation.Step[work]{
			{Name: "domain", Do: a.end, Then: a.markEnded},
			a.together(kindTerminate, "remove",
				operation.Step[work]{Name: "network", Do: a.unplug},
				operation.Step[work]{Name: "disks", Do: a.removeDisks},
				operation.Step[work]{Name: "elsewhere", Do: a.awaitElsewhere},
			),
		},
		Persist: true,
		Done: func(tx *state.Tx, w *work) error {
			if err := a.release(tx, w.InstanceID); err != nil {
				return err
			}
			if err := Instances.Delete(tx, w.InstanceID); !errdefs.IsNotFound(err) {
				return err
			}
			return nil
		},
		Problem: fault,
	})
}

// start runs a stopped instance again. All that it needs is made if it is missing, as after a restart of the host. What
// was made stays if it fails (there is no Undo): it belongs to the instance.
func (a *Agent) start() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindStart,
		Steps: []operation.Step[work]{
			a.together(kindStart, "start",
				operation.Step[work]{Name: "disks", Do: a.makeDisks},
				operation.Step[work]{Name: "network", Do: a.plug},
				operation.Step[work]{Name: "domain", Do: a.create},
			),
		},
		Done:    change(running),
		Failed:  giveUp,
		Problem: fault,
	})
}

// stop ends an instance's guest and keeps the rest: its disks, its addresses and its taps.
func (a *Agent) stop() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindStop,
		// No Undo: a guest that is off is not brought back by a failure to turn it off.
		Steps: []operation.Step[work]{{Name: "power off", Do: a.powerOff}},
		Done: change(func(i *Instance) {
			i.State, i.Task, i.Power, i.Fault = StateStopped, TaskNone, PowerShutoff, ""
		}),
		Failed:  giveUp,
		Problem: fault,
	})
}

// reboot restarts an instance's guest. Hard, the domain is made anew if it is gone.
func (a *Agent) reboot() operation.Definition {
	return operation.Define(operation.Kind[rebootWork]{
		Name: kindReboot,
		// No Undo: there is none for a reboot.
		Steps: []operation.Step[rebootWork]{{Name: "reset", Do: a.reset}},
		Done: func(tx *state.Tx, w *rebootWork) error {
			return change(running)(tx, &w.work)
		},
		Failed:  func(tx *state.Tx, w *rebootWork, reason string) error { return giveUp(tx, &w.work, reason) },
		Problem: func(tx *state.Tx, w *rebootWork, problem string) error { return fault(tx, &w.work, problem) },
	})
}

// release gives the ports and addresses of an instance back.
func (a *Agent) release(tx *state.Tx, instanceID string) error {
	i, err := Instances.Get(tx, instanceID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, port := range i.Ports {
		if err := a.cfg.Addresses.Release(tx, port); err != nil {
			return err
		}
	}
	return nil
}

// change returns an effect that changes the instance's record at the end of an operation. Where a termination waits,
// it goes on waiting. That there is no record any more is no error: an operation must be able to end.
func change(f func(*Instance)) func(tx *state.Tx, w *work) error {
	return func(tx *state.Tx, w *work) error {
		i, err := Instances.Get(tx, w.InstanceID)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		waits := i.Task == TaskDeleting
		f(&i)
		if waits {
			i.Task = TaskDeleting
		}
		i.Generation++
		return Instances.Put(tx, i)
	}
}

// running is what an instance is that was launched, started or rebooted, or has arrived.
func running(i *Instance) {
	i.State, i.Task, i.Power, i.Fault = StateActive, TaskNone, PowerRunning, ""
}

// giveUp leaves the instance in the state it has, with the reason. What its domain does now, the next comparison of power
// states says.
func giveUp(tx *state.Tx, w *work, reason string) error {
	return change(func(i *Instance) { i.Task, i.Fault = TaskNone, reason })(tx, w)
}

// fault shows on the instance why what is being done is not moving.
func fault(tx *state.Tx, w *work, problem string) error {
	i, err := Instances.Get(tx, w.InstanceID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	i.Fault = problem
	return Instances.Put(tx, i)
}
