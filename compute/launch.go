package compute

import (
	"context"
	"time"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// work is what an operation on an instance keeps: which instance, and which attempt at its domain.
type work struct {
	InstanceID string
	Epoch      uint64
}

// The kinds of operations on instances.
const (
	kindLaunch    = "instance.launch"
	kindTerminate = "instance.terminate"
	kindReboot    = "instance.reboot"
	kindStart     = "instance.start"
	kindStop      = "instance.stop"
)

// launchDeadline bounds a launch, image download included.
const launchDeadline = 30 * time.Minute

// launch makes an instance that the service has recorded, with its host, ports and addresses claimed.
func (a *Agent) launch() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindLaunch,
		Steps: []operation.Step[work]{
			{Name: "disks", Do: a.makeDisks, Undo: a.removeDisks},
			{Name: "network", Do: a.plug, Undo: a.unplug},
			{Name: "domain", Do: a.create, Undo: a.destroy},
		},
		Done: a.change(func(i *Instance) {
			i.State, i.Task, i.Power, i.Fault = StateActive, TaskNone, PowerRunning, ""
			if i.Launched.IsZero() {
				i.Launched = time.Now().UTC()
			}
		}),
		Failed: func(tx *state.Tx, w *work, reason string) error {
			i, err := Instances.Get(tx, w.InstanceID)
			if err != nil {
				return err
			}
			for _, port := range i.Ports {
				if err := a.cfg.Addresses.Release(tx, port); err != nil {
					return err
				}
			}
			i.Ports = nil
			i.State, i.Power, i.Fault = StateError, PowerUnknown, reason
			if i.Task == TaskSpawning { // not where a termination waits
				i.Task = TaskNone
			}
			i.Generation++
			return Instances.Put(tx, i)
		},
		Problem: a.fault,
	})
}

// terminate removes an instance and all that it has. It only goes forward: a half-removed instance is of no use.
func (a *Agent) terminate() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindTerminate,
		Steps: []operation.Step[work]{
			{Name: "domain", Do: a.destroy},
			{Name: "network", Do: a.unplug},
			{Name: "disks", Do: a.removeDisks},
		},
		Persist: true,
		Done: func(tx *state.Tx, w *work) error {
			i, err := Instances.Get(tx, w.InstanceID)
			if err != nil {
				return err
			}
			for _, port := range i.Ports {
				if err := a.cfg.Addresses.Release(tx, port); err != nil {
					return err
				}
			}
			return Instances.Delete(tx, i.ID)
		},
		Problem: a.fault,
	})
}

// start runs a stopped instance again. All that it needs is made if it is missing, as after a restart of the host. What
// was made stays if it fails: it belongs to the instance.
func (a *Agent) start() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindStart,
		Steps: []operation.Step[work]{
			{Name: "disks", Do: a.makeDisks},
			{Name: "network", Do: a.plug},
			{Name: "domain", Do: a.create},
		},
		Done: a.change(func(i *Instance) {
			i.State, i.Task, i.Power, i.Fault = StateActive, TaskNone, PowerRunning, ""
		}),
		Failed:  a.giveUp(StateStopped),
		Problem: a.fault,
	})
}

// stop ends an instance's guest and keeps the rest.
func (a *Agent) stop() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindStop,
		Steps: []operation.Step[work]{{Name: "power off", Do: func(ctx context.Context, w *work) error {
			return a.cfg.Hypervisor.Stop(ctx, w.InstanceID, a.cfg.StopGrace)
		}}}, // no Undo: a guest that is off is not brought back by a failure to turn it off
		Done: a.change(func(i *Instance) {
			i.State, i.Task, i.Power, i.Fault = StateStopped, TaskNone, PowerShutoff, ""
		}),
		Failed:  a.giveUp(""),
		Problem: a.fault,
	})
}

// reboot restarts an instance's guest. Hard, the domain is made anew if it is gone.
func (a *Agent) reboot() operation.Definition {
	return operation.Define(operation.Kind[rebootWork]{
		Name: kindReboot,
		Steps: []operation.Step[rebootWork]{{Name: "reset", Do: func(ctx context.Context, w *rebootWork) error {
			return a.cfg.Hypervisor.Reboot(ctx, w.InstanceID, w.Hard)
		}}}, // no Undo: there is none for a reboot
		Done: func(tx *state.Tx, w *rebootWork) error {
			return a.change(func(i *Instance) { i.State, i.Task, i.Power, i.Fault = StateActive, TaskNone, PowerRunning, "" })(tx, &w.work)
		},
		Failed: func(tx *state.Tx, w *rebootWork, reason string) error {
			return a.giveUp("")(tx, &w.work, reason)
		},
	})
}

type rebootWork struct {
	work
	Hard bool
}

// The steps.

func (a *Agent) makeDisks(ctx context.Context, w *work) error {
	i, err := a.instance(w.InstanceID)
	if err != nil {
		return err
	}
	_, err = a.cfg.Disks.Make(ctx, i)
	return err
}

func (a *Agent) removeDisks(ctx context.Context, w *work) error {
	return a.cfg.Disks.Remove(ctx, w.InstanceID)
}

func (a *Agent) plug(ctx context.Context, w *work) error {
	i, err := a.instance(w.InstanceID)
	if err != nil {
		return err
	}
	for _, port := range i.Ports {
		if _, err := a.cfg.Network.Plug(ctx, port); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) unplug(ctx context.Context, w *work) error {
	i, err := a.instance(w.InstanceID)
	if err != nil {
		return err
	}
	for _, port := range i.Ports {
		if err := a.cfg.Network.Unplug(ctx, port); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) create(ctx context.Context, w *work) error {
	i, err := a.instance(w.InstanceID)
	if err != nil {
		return err
	}
	m, err := a.machine(ctx, i)
	if err != nil {
		return err
	}
	return a.cfg.Hypervisor.Create(ctx, m)
}

func (a *Agent) destroy(ctx context.Context, w *work) error {
	return a.cfg.Hypervisor.Destroy(ctx, w.InstanceID, w.Epoch)
}

// machine puts together what the hypervisor needs. The disks are asked for again: making them is idempotent, and a
// restarted agent has nothing in memory.
func (a *Agent) machine(ctx context.Context, i Instance) (Machine, error) {
	files, err := a.cfg.Disks.Make(ctx, i)
	if err != nil {
		return Machine{}, err
	}
	m := Machine{
		ID: i.ID, Epoch: i.Epoch, Name: i.Name, VCPUs: i.Flavor.VCPUs, MemoryMiB: i.Flavor.MemoryMiB,
		Kernel: files.Kernel, Ramdisk: files.Ramdisk, Cmdline: files.Cmdline, Disks: files.Disks, ConsoleLog: files.ConsoleLog,
	}
	err = a.cfg.Store.View(func(v *state.View) error {
		for _, id := range i.Ports {
			p, err := network.Ports.Get(v, id)
			if err != nil {
				return err
			}
			n, err := network.Networks.Get(v, p.NetworkID)
			if err != nil {
				return err
			}
			m.NICs = append(m.NICs, NIC{Tap: p.TapName(), MAC: p.HardwareAddr(), MTU: n.MTU})
		}
		return nil
	})
	return m, err
}

// change returns an effect that changes the instance's record at the end of an operation.
func (a *Agent) change(f func(*Instance)) func(tx *state.Tx, w *work) error {
	return func(tx *state.Tx, w *work) error {
		i, err := Instances.Get(tx, w.InstanceID)
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

// giveUp returns an effect that leaves the instance in a state, or in the one it has, with the reason.
func (a *Agent) giveUp(s State) func(tx *state.Tx, w *work, reason string) error {
	return func(tx *state.Tx, w *work, reason string) error {
		return a.change(func(i *Instance) {
			if s != "" {
				i.State = s
			}
			i.Task, i.Fault = TaskNone, reason
		})(tx, w)
	}
}

// fault shows on the instance why what is being done is not moving.
func (a *Agent) fault(tx *state.Tx, w *work, problem string) error {
	i, err := Instances.Get(tx, w.InstanceID)
	if err != nil {
		return err
	}
	i.Fault = problem
	return Instances.Put(tx, i)
}
