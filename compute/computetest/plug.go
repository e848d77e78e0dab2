package computetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// PlugEnv is an [Env] whose driver implements [compute.Plugger].
type PlugEnv struct {
	Env

	// Disk returns a disk that this hypervisor can give to a machine: each time another one with another Serial, with "vdx"
	// as its Device. Required.
	Disk func() (compute.Disk, error)

	// Enlarge has what is behind a disk have so many bytes. It had at most 1 MiB before. Required.
	Enlarge func(d compute.Disk, bytes int64) error
	// Size returns how many bytes of a disk a machine that runs has been told. Required.
	Size func(id string, d compute.Disk) (int64, error)
}

// TestPlugger runs the suite of [compute.Plugger], as [TestHypervisor] does that of a Hypervisor.
func TestPlugger(t *testing.T, open func(t *testing.T) PlugEnv) {
	for _, r := range plugRows() {
		t.Run(r.name, func(t *testing.T) {
			env := open(t)
			if r.needs != nil && !r.needs(env) {
				t.Skip("the environment has no means for this row")
			}
			if err := r.run(t.Context(), env); err != nil {
				t.Errorf("contract: %q\n%v", r.rule, err)
			}
		})
	}
}

// plugRow checks one sentence of the contract.
type plugRow struct {
	name  string
	rule  string // as it is in compute/plug.go
	needs func(PlugEnv) bool
	check func(ctx context.Context, e *plugBench) error
}

// plugBench is a PlugEnv during one row.
type plugBench struct {
	*bench
	compute.Plugger
	env PlugEnv
}

func (e *plugBench) disk() (compute.Disk, error) { return e.env.Disk() }

// grow enlarges a disk and tells the machine.
func (e *plugBench) grow(ctx context.Context, id string, d compute.Disk, bytes int64) error {
	if err := e.env.Enlarge(d, bytes); err != nil {
		return err
	}
	return e.GrowDisk(ctx, id, d.Serial, bytes)
}

// sees checks what a machine has been told of a disk.
func (e *plugBench) sees(id string, d compute.Disk, want int64) error {
	if size, err := e.env.Size(id, d); err != nil || size != want {
		return fmt.Errorf("the machine has disk %s with %d bytes, want %d: %w", d.Serial, size, want, err)
	}
	return nil
}

func (r plugRow) run(ctx context.Context, env PlugEnv) error {
	p, ok := env.Driver.(compute.Plugger)
	if !ok || env.Disk == nil || env.Enlarge == nil || env.Size == nil {
		return errors.New("PlugEnv is not complete")
	}
	return row{check: func(ctx context.Context, b *bench) error {
		return r.check(ctx, &plugBench{b, p, env})
	}}.run(ctx, env.Env)
}

// has checks whether a machine has a disk.
func (e *plugBench) has(ctx context.Context, id string, d compute.Disk, want int) error {
	serials, err := e.DisksOf(ctx, id)
	if err != nil {
		return fmt.Errorf("DisksOf: %w", err)
	}
	n := 0
	for _, s := range serials {
		if s == d.Serial {
			n++
		}
	}
	if n != want {
		return fmt.Errorf("the machine has disk %s %d times, want %d: %q", d.Serial, n, want, serials)
	}
	return nil
}

// plugged returns a machine whose guest has booted, with a disk.
func (e *plugBench) plugged(ctx context.Context) (m compute.Machine, d compute.Disk, err error) {
	if m, err = e.ready(ctx); err != nil {
		return m, d, err
	}
	if d, err = e.disk(); err != nil {
		return m, d, err
	}
	if err := e.PlugDisk(ctx, m.ID, d); err != nil {
		return m, d, fmt.Errorf("plugging: %w", err)
	}
	return m, d, nil
}

func plugRows() []plugRow {
	return []plugRow{
		{
			name: "plug",
			rule: "PlugDisk gives a running or paused machine a disk, and returns when the machine has it.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				other, err := e.disk()
				if err != nil {
					return err
				}
				other.Device = "vdy"
				return all(
					func() error { return e.has(ctx, m.ID, d, 1) },
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error { return e.PlugDisk(ctx, m.ID, other) },
					func() error { return e.has(ctx, m.ID, other, 1) },
					func() error { return e.is(ctx, m.ID, compute.PowerPaused) },
				)
			},
		},
		{
			name: "plug again",
			rule: "A disk with this serial that the machine has already is success; another one with this device is AlreadyExists.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				other, err := e.disk()
				if err != nil {
					return err
				}
				return all(
					func() error { return e.PlugDisk(ctx, m.ID, d) },
					func() error { return e.has(ctx, m.ID, d, 1) },
					func() error {
						return class("another disk there", e.PlugDisk(ctx, m.ID, other), errdefs.ErrAlreadyExists)
					},
					func() error { return e.has(ctx, m.ID, other, 0) },
				)
			},
		},
		{
			name: "plug on virtio-scsi",
			rule: "The device says what it is on, virtio-blk or virtio-scsi.",
			check: func(ctx context.Context, e *plugBench) error {
				m, blk, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				d, err := e.disk()
				if err != nil {
					return err
				}
				d.Device = "sdx"
				return all(
					func() error { return e.PlugDisk(ctx, m.ID, d) },
					func() error { return e.has(ctx, m.ID, d, 1) },
					func() error { return e.grow(ctx, m.ID, d, 3<<20) },
					func() error { return e.sees(m.ID, d, 3<<20) },
					func() error { return e.UnplugDisk(ctx, m.ID, d.Serial) },
					func() error { return e.has(ctx, m.ID, d, 0) },
					func() error { return e.has(ctx, m.ID, blk, 1) },
				)
			},
		},
		{
			name: "plug what is bad",
			rule: "The disk has a Serial and a Device; what [Disk.Validate] refuses is InvalidArgument.",
			check: func(ctx context.Context, e *plugBench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				good, err := e.disk()
				if err != nil {
					return err
				}
				for _, spoil := range []func(*compute.Disk){
					func(d *compute.Disk) { d.Serial = "" }, func(d *compute.Disk) { d.Device = "" },
					func(d *compute.Disk) { d.Device = "hda" }, func(d *compute.Disk) { d.Path, d.ISCSI = "relative", nil },
				} {
					bad := good
					spoil(&bad)
					if err := class(fmt.Sprintf("disk %+v", bad), e.PlugDisk(ctx, m.ID, bad), errdefs.ErrInvalidArgument); err != nil {
						return err
					}
				}
				return e.has(ctx, m.ID, good, 0)
			},
		},
		{
			name: "plug what is off",
			rule: "A machine that is shut off is FailedPrecondition.",
			check: func(ctx context.Context, e *plugBench) error {
				m, err := e.stopped(ctx)
				if err != nil {
					return err
				}
				d, err := e.disk()
				if err != nil {
					return err
				}
				return all(
					func() error { return class("PlugDisk", e.PlugDisk(ctx, m.ID, d), errdefs.ErrFailedPrecondition) },
					func() error { return e.has(ctx, m.ID, d, 0) },
				)
			},
		},
		{
			name: "until it is off",
			rule: "The disk is the machine's until it is shut off or the disk is taken away: what it has afterwards, the next Create says.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.has(ctx, m.ID, d, 1) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.has(ctx, m.ID, d, 0) },
					func() error { return e.Driver.Create(ctx, m) },
					func() error { return e.has(ctx, m.ID, d, 0) },
				)
			},
		},
		{
			name: "unplug",
			rule: "UnplugDisk asks the guest to let go of the disk with a serial, and returns when it has.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				for range 2 {
					if err := all(
						func() error { return e.UnplugDisk(ctx, m.ID, d.Serial) },
						func() error { return e.has(ctx, m.ID, d, 0) },
						func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
						func() error { return e.PlugDisk(ctx, m.ID, d) },
						func() error { return e.has(ctx, m.ID, d, 1) },
					); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "unplug what is not there",
			rule: "A disk that the machine does not have is success, and so is a machine that is shut off.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.UnplugDisk(ctx, m.ID, "no-such-disk") },
					func() error { return e.has(ctx, m.ID, d, 1) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.UnplugDisk(ctx, m.ID, d.Serial) },
				)
			},
		},
		{
			name: "unplug without an answer",
			rule: "A guest that does not is asked again now and then, until ctx ends; it may let go later then.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				// A guest that is paused can't answer.
				if err := e.Driver.Pause(ctx, m.ID); err != nil {
					return err
				}
				limited, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
				if err := e.UnplugDisk(limited, m.ID, d.Serial); err != context.DeadlineExceeded {
					return fmt.Errorf("UnplugDisk of a paused one: %w", err)
				}
				return all(
					func() error { return e.Driver.Resume(ctx, m.ID) },
					func() error { return e.UnplugDisk(ctx, m.ID, d.Serial) },
					func() error { return e.has(ctx, m.ID, d, 0) },
				)
			},
			needs: func(e PlugEnv) bool { return e.Banner != "" },
		},
		{
			name: "grow",
			rule: "GrowDisk has a machine see that the disk with a serial is bytes large, which what is behind it is already, and returns when the guest is told.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.grow(ctx, m.ID, d, 3<<20) },
					func() error { return e.sees(m.ID, d, 3<<20) },
					func() error { return e.GrowDisk(ctx, m.ID, d.Serial, 3<<20) },
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error { return e.grow(ctx, m.ID, d, 4<<20) },
					func() error { return e.sees(m.ID, d, 4<<20) },
					func() error { return e.is(ctx, m.ID, compute.PowerPaused) },
				)
			},
		},
		{
			name: "grow what is not there",
			rule: "A disk that the machine does not have is success, and so is a machine that is shut off: it starts with what there is.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.GrowDisk(ctx, m.ID, "no-such-disk", 3<<20) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.grow(ctx, m.ID, d, 3<<20) },
				)
			},
		},
		{
			name: "grow to less",
			rule: "Less than the disk has is InvalidArgument or FailedPrecondition, and changes nothing.",
			check: func(ctx context.Context, e *plugBench) error {
				m, d, err := e.plugged(ctx)
				if err != nil {
					return err
				}
				if err := e.grow(ctx, m.ID, d, 3<<20); err != nil {
					return err
				}
				if err := e.GrowDisk(ctx, m.ID, d.Serial, 2<<20); !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
					return fmt.Errorf("GrowDisk to less: %w", err)
				}
				return e.sees(m.ID, d, 3<<20)
			},
		},
		{
			name: "an unknown machine",
			rule: "The rules for all methods of a Hypervisor are those of these methods too.",
			check: func(ctx context.Context, e *plugBench) error {
				m, err := e.machine()
				if err != nil {
					return err
				}
				d, err := e.disk()
				if err != nil {
					return err
				}
				_, of := e.DisksOf(ctx, m.ID)
				ended, cancel := context.WithCancel(ctx)
				cancel()
				_, late := e.DisksOf(ended, m.ID)
				for _, err := range []error{e.PlugDisk(ended, m.ID, d), e.UnplugDisk(ended, m.ID, d.Serial), e.GrowDisk(ended, m.ID, d.Serial, 1), late} {
					if err != context.Canceled {
						return fmt.Errorf("a context that ended: %w", err)
					}
				}
				return errors.Join(
					class("PlugDisk", e.PlugDisk(ctx, m.ID, d), errdefs.ErrNotFound),
					class("UnplugDisk", e.UnplugDisk(ctx, m.ID, d.Serial), errdefs.ErrNotFound),
					class("GrowDisk", e.GrowDisk(ctx, m.ID, d.Serial, 1), errdefs.ErrNotFound),
					class("DisksOf", of, errdefs.ErrNotFound),
				)
			},
		},
		{
			name: "disks",
			rule: "DisksOf returns the serials of the disks that a machine has, in no order; none if it is shut off.",
			check: func(ctx context.Context, e *plugBench) error {
				m, err := e.machine()
				if err != nil {
					return err
				}
				d, err := e.disk()
				if err != nil {
					return err
				}
				m.Disks = append(slices.Clip(m.Disks), d)
				return all(
					func() error { return e.Driver.Create(ctx, m) },
					func() error { return e.has(ctx, m.ID, d, 1) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error {
						serials, err := e.DisksOf(ctx, m.ID)
						if err == nil && len(serials) > 0 {
							err = fmt.Errorf("one that is off has %q", serials)
						}
						return err
					},
				)
			},
		},
	}
}
