package fakecompute

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

var _ compute.Plugger = (*Hypervisor)(nil)

// PlugDisk implements [compute.Plugger].
func (h *Hypervisor) PlugDisk(ctx context.Context, id string, d compute.Disk) error {
	switch err := d.Validate(); {
	case err != nil:
		return fmt.Errorf("disk: %w", err)
	case d.Serial == "" || d.Device == "":
		return fmt.Errorf("disk: Serial is %q and Device %q, both must be given: %w", d.Serial, d.Device, errdefs.ErrInvalidArgument)
	}
	return h.host.callFor(ctx, MethodPlugDisk, id, func(m *domain) error {
		if !m.on() {
			return wrongState(m)
		}
		for i, other := range m.machine.Disks {
			switch {
			case other.Serial == d.Serial:
				return nil
			case m.machine.Device(i) == d.Device:
				return fmt.Errorf("domain %s has a disk %s: %w", id, d.Device, errdefs.ErrAlreadyExists)
			}
		}
		d.Backing = slices.Clone(d.Backing)
		m.machine.Disks = append(slices.Clip(m.machine.Disks), d)
		return nil
	})
}

// UnplugDisk implements [compute.Plugger]. The guest obeys at once, unless it is [Host.Deaf] or paused.
func (h *Hypervisor) UnplugDisk(ctx context.Context, id, serial string) error {
	wait := false
	err := h.host.callFor(ctx, MethodUnplugDisk, id, func(m *domain) error {
		if !m.on() {
			return nil
		}
		at := slices.IndexFunc(m.machine.Disks, func(d compute.Disk) bool { return d.Serial == serial })
		if at < 0 {
			return nil
		}
		if wait = m.deaf || m.power == compute.PowerPaused; !wait {
			// What keeps its place keeps its name.
			disks := slices.Clone(m.machine.Disks)
			for i := range disks {
				disks[i].Device = m.machine.Device(i)
			}
			m.machine.Disks = slices.Delete(disks, at, at+1)
		}
		return nil
	})
	if wait && err == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// GrowDisk implements [compute.Plugger]. What is behind the disk is not looked at.
func (h *Hypervisor) GrowDisk(ctx context.Context, id, serial string, bytes int64) error {
	return h.host.callFor(ctx, MethodGrowDisk, id, func(m *domain) error {
		if !m.on() || !slices.ContainsFunc(m.machine.Disks, func(d compute.Disk) bool { return d.Serial == serial }) {
			return nil
		}
		if have := m.sizes[serial]; bytes < have {
			return fmt.Errorf("disk %s has %d bytes, %d are fewer: %w", serial, have, bytes, errdefs.ErrInvalidArgument)
		}
		if m.sizes == nil {
			m.sizes = map[string]int64{}
		}
		m.sizes[serial] = bytes
		return nil
	})
}

// DisksOf implements [compute.Plugger].
func (h *Hypervisor) DisksOf(ctx context.Context, id string) (serials []string, err error) {
	err = h.host.callFor(ctx, MethodDisksOf, id, func(m *domain) error {
		for _, d := range m.machine.Disks {
			if m.on() {
				serials = append(serials, d.Serial)
			}
		}
		return nil
	})
	return serials, err
}
