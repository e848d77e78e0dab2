package compute

import (
	"context"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// The steps of the operations. Each may be cut short at any place and done again from its beginning, and each that undoes
// may find that there is nothing to undo.

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

// plug makes the taps. They exist from launch to termination, also while the instance is stopped.
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

// unplug removes the taps, after their records say that they are to go.
func (a *Agent) unplug(ctx context.Context, w *work) error {
	ports, plugged, err := a.ports(w.InstanceID)
	if err != nil {
		return err
	}
	if plugged {
		if err := a.cfg.Store.Update(ctx, func(tx *state.Tx) error { return a.markUnplugged(tx, w) }); err != nil {
			return err
		}
	}
	for _, port := range ports {
		if err := a.cfg.Network.Unplug(ctx, port); err != nil {
			return err
		}
	}
	return nil
}

// ports returns the ids of an instance's ports and whether any is still to be plugged.
func (a *Agent) ports(instanceID string) (ids []string, plugged bool, err error) {
	err = a.cfg.Store.View(func(v *state.View) error {
		for p := range network.Ports.By(v, "instance", instanceID) {
			ids, plugged = append(ids, p.ID), plugged || p.Plugged
		}
		return nil
	})
	return ids, plugged, err
}

func (a *Agent) markUnplugged(tx *state.Tx, w *work) error {
	for p := range network.Ports.By(tx, "instance", w.InstanceID) {
		if err := a.cfg.Addresses.Unplug(tx, p.ID); err != nil {
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
	if i.Epoch != w.Epoch {
		return fmt.Errorf("instance %s has come to epoch %d, this is of epoch %d: %w", i.ID, i.Epoch, w.Epoch, errdefs.ErrFailedPrecondition)
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

// powerOff turns the guest off. A domain that is gone, as after a restart of the host, is off.
func (a *Agent) powerOff(ctx context.Context, w *work) error {
	err := a.cfg.Hypervisor.Stop(ctx, w.InstanceID, a.cfg.StopGrace)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// reset restarts the guest. Hard, what can't be reset (it is paused, off or gone) is turned off and started as by a launch.
func (a *Agent) reset(ctx context.Context, w *rebootWork) error {
	err := a.cfg.Hypervisor.Reboot(ctx, w.InstanceID, w.Hard)
	if !w.Hard || (!errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err)) {
		return err
	}
	if err := a.cfg.Hypervisor.Stop(ctx, w.InstanceID, 0); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := a.plug(ctx, &w.work); err != nil {
		return err
	}
	return a.create(ctx, &w.work)
}

// machine puts together what the hypervisor needs. The disks are asked for again: making them is idempotent, and a
// restarted agent has nothing in memory.
func (a *Agent) machine(ctx context.Context, i Instance) (Machine, error) {
	files, err := a.cfg.Disks.Make(ctx, i)
	if err != nil {
		return Machine{}, err
	}
	m := Machine{
		ID: i.ID, Epoch: i.Epoch, Name: domainName(i.Name), VCPUs: i.Flavor.VCPUs, MemoryMiB: i.Flavor.MemoryMiB,
		Kernel: files.Kernel, Ramdisk: files.Ramdisk, Cmdline: files.Cmdline, Disks: files.Disks, ConsoleLog: files.ConsoleLog,
	}
	volumes, err := a.volumeDisks(ctx, i.ID)
	if err != nil {
		return Machine{}, err
	}
	if i.BootVolume != "" {
		boot := slices.IndexFunc(volumes, func(d Disk) bool { return d.Device == bootDevice })
		if boot < 0 {
			return Machine{}, fmt.Errorf("instance %s has lost volume %s, from which it boots: %w", i.ID, i.BootVolume, errdefs.ErrFailedPrecondition)
		}
		m.Disks = append([]Disk{volumes[boot]}, m.Disks...)
		volumes = slices.Delete(volumes, boot, boot+1)
	}
	m.Disks = append(slices.Clip(m.Disks), volumes...)
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

// domainName returns as much of an instance's name, which may have 255 characters, as a [Machine] may have: 255 bytes.
func domainName(name string) string {
	for n, r := range name {
		if n+utf8.RuneLen(r) > mostName {
			return name[:n]
		}
	}
	return name
}
