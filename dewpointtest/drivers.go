package dewpointtest

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/network"
)

var errFlaky = fmt.Errorf("dewpointtest: it does not work just now: %w", errdefs.ErrUnavailable)

// drive is what every call of a driver goes through: it may take long, fail before or after its effect, and it is where the
// process may die.
func (l *life) drive(ctx context.Context, slow float64, do func() error) error {
	f := &l.proc.sim.cfg.Faults
	if err := l.await(); err != nil {
		return err
	}
	if l.meets(slow) {
		if err := l.sleep(ctx, l.some(20*time.Second)); err != nil {
			return err
		}
		if err := l.await(); err != nil {
			return err
		}
	}
	if l.meets(f.Fail / 2) {
		return errFlaky
	}
	err := do()
	if err == nil && l.meets(f.Fail/2) {
		err = errFlaky
	}
	if dead := l.await(); dead != nil {
		return dead
	}
	return err
}

// machines is the host's hypervisor as one life of its node sees it.
type machines struct {
	*fakecompute.Hypervisor
	life *life
}

var _ interface {
	compute.Hypervisor
	compute.Plugger
	compute.Migrator
} = (*machines)(nil)

func (m *machines) call(ctx context.Context, id string, do func() error) error {
	return m.life.drive(ctx, m.life.proc.sim.cfg.Faults.SlowDriver, func() error {
		defer m.life.proc.host.enter(m.life.proc.sim, id)()
		return do()
	})
}

// Describe implements [compute.Hypervisor].
func (m *machines) Describe(ctx context.Context) (info compute.HostInfo, err error) {
	err = m.life.drive(ctx, 0, func() (err error) { info, err = m.Hypervisor.Describe(ctx); return err })
	return info, err
}

// Create implements [compute.Hypervisor].
func (m *machines) Create(ctx context.Context, machine compute.Machine) error {
	return m.call(ctx, machine.ID, func() error { return m.Hypervisor.Create(ctx, machine) })
}

// Destroy implements [compute.Hypervisor].
func (m *machines) Destroy(ctx context.Context, id string, epoch uint64) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.Destroy(ctx, id, epoch) })
}

// Start implements [compute.Hypervisor].
func (m *machines) Start(ctx context.Context, id string) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.Start(ctx, id) })
}

// Stop implements [compute.Hypervisor].
func (m *machines) Stop(ctx context.Context, id string, grace time.Duration) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.Stop(ctx, id, grace) })
}

// Reboot implements [compute.Hypervisor].
func (m *machines) Reboot(ctx context.Context, id string, hard bool) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.Reboot(ctx, id, hard) })
}

// Pause implements [compute.Hypervisor].
func (m *machines) Pause(ctx context.Context, id string) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.Pause(ctx, id) })
}

// Resume implements [compute.Hypervisor].
func (m *machines) Resume(ctx context.Context, id string) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.Resume(ctx, id) })
}

// List implements [compute.Hypervisor].
func (m *machines) List(ctx context.Context) (all []compute.Domain, err error) {
	err = m.life.drive(ctx, 0, func() (err error) { all, err = m.Hypervisor.List(ctx); return err })
	return all, err
}

// Events implements [compute.Hypervisor].
func (m *machines) Events(ctx context.Context) iter.Seq[compute.PowerEvent] {
	return func(yield func(compute.PowerEvent) bool) {
		for e := range m.Hypervisor.Events(ctx) {
			if m.life.await() != nil || !yield(e) {
				return
			}
		}
	}
}

// Console implements [compute.Hypervisor].
func (m *machines) Console(ctx context.Context, id string, most int) (tail []byte, err error) {
	err = m.life.drive(ctx, 0, func() (err error) { tail, err = m.Hypervisor.Console(ctx, id, most); return err })
	return tail, err
}

// PlugDisk implements [compute.Plugger].
func (m *machines) PlugDisk(ctx context.Context, id string, d compute.Disk) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.PlugDisk(ctx, id, d) })
}

// UnplugDisk implements [compute.Plugger].
func (m *machines) UnplugDisk(ctx context.Context, id, serial string) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.UnplugDisk(ctx, id, serial) })
}

// GrowDisk implements [compute.Plugger].
func (m *machines) GrowDisk(ctx context.Context, id, serial string, bytes int64) error {
	return m.call(ctx, id, func() error { return m.Hypervisor.GrowDisk(ctx, id, serial, bytes) })
}

// DisksOf implements [compute.Plugger].
func (m *machines) DisksOf(ctx context.Context, id string) (serials []string, err error) {
	err = m.life.drive(ctx, 0, func() (err error) { serials, err = m.Hypervisor.DisksOf(ctx, id); return err })
	return serials, err
}

// Prepare implements [compute.Migrator].
func (m *machines) Prepare(ctx context.Context, machine compute.Machine) (address string, err error) {
	err = m.life.drive(ctx, 0, func() (err error) { address, err = m.Hypervisor.Prepare(ctx, machine); return err })
	return address, err
}

// Migrate implements [compute.Migrator].
func (m *machines) Migrate(ctx context.Context, machine compute.Machine, address string) error {
	return m.call(ctx, machine.ID, func() error { return m.Hypervisor.Migrate(ctx, machine, address) })
}

// Abort implements [compute.Migrator].
func (m *machines) Abort(ctx context.Context, id string) (left bool, err error) {
	err = m.call(ctx, id, func() (err error) { left, err = m.Hypervisor.Abort(ctx, id); return err })
	return left, err
}

// links is the host's network as one life of its node sees it.
type links struct {
	network.Manager
	life *life
}

// Apply implements [network.Manager].
func (n *links) Apply(ctx context.Context, d network.Desired) (report network.Report, err error) {
	err = n.life.drive(ctx, 0, func() (err error) { report, err = n.Manager.Apply(ctx, d); return err })
	return report, err
}

// Plug implements [network.Manager].
func (n *links) Plug(ctx context.Context, b network.Bridge, t network.Tap) error {
	return n.life.drive(ctx, n.life.proc.sim.cfg.Faults.SlowDriver, func() error { return n.Manager.Plug(ctx, b, t) })
}

// Unplug implements [network.Manager].
func (n *links) Unplug(ctx context.Context, tap string) error {
	return n.life.drive(ctx, n.life.proc.sim.cfg.Faults.SlowDriver, func() error { return n.Manager.Unplug(ctx, tap) })
}

// Inspect implements [network.Manager].
func (n *links) Inspect(ctx context.Context) (d network.Desired, err error) {
	err = n.life.drive(ctx, 0, func() (err error) { d, err = n.Manager.Inspect(ctx); return err })
	return d, err
}

// Close implements [network.Manager].
func (n *links) Close() error { return nil }

// disks are the host's disks as one life of its node sees them.
type disks struct {
	compute.Disks
	life *life
}

// Make implements [compute.Disks].
func (d *disks) Make(ctx context.Context, i compute.Instance) (files compute.Files, err error) {
	err = d.life.drive(ctx, d.life.proc.sim.cfg.Faults.SlowDisk, func() (err error) { files, err = d.Disks.Make(ctx, i); return err })
	return files, err
}

// Remove implements [compute.Disks].
func (d *disks) Remove(ctx context.Context, instanceID string) error {
	return d.life.drive(ctx, d.life.proc.sim.cfg.Faults.SlowDisk, func() error { return d.Disks.Remove(ctx, instanceID) })
}

// List implements [compute.Disks].
func (d *disks) List(ctx context.Context) (ids []string, err error) {
	err = d.life.drive(ctx, 0, func() (err error) { ids, err = d.Disks.List(ctx); return err })
	return ids, err
}
