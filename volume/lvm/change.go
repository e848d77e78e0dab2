package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Create implements volume.Driver.
func (d *Driver) Create(ctx context.Context, id string, sizeGiB int) error {
	return d.call(ctx, func() error { return d.make(ctx, volume.Info{ID: id, SizeGiB: sizeGiB}, "", nil) }, id)
}

// Clone implements volume.Driver.
func (d *Driver) Clone(ctx context.Context, id, source string, sizeGiB int) error {
	return d.call(ctx, func() error { return d.make(ctx, volume.Info{ID: id, SizeGiB: sizeGiB}, source, nil) }, id, source)
}

// Snapshot implements volume.Driver.
func (d *Driver) Snapshot(ctx context.Context, snapshot, of string) error {
	return d.call(ctx, func() error { return d.make(ctx, volume.Info{ID: snapshot, Of: of}, of, nil) }, snapshot, of)
}

// make makes a volume or a snapshot, of zeros or of what source, or a file of the host, holds.
func (d *Driver) make(ctx context.Context, want volume.Info, source string, raw *rawFile) error {
	ours, foreign, err := d.look(ctx)
	if err != nil {
		return err
	}
	var from *entry
	if source != "" {
		e, ok := ours[source]
		if !ok || !e.made || want.Of != "" && e.Of != "" {
			return fmt.Errorf("volume %s: its source %s: %w", want.ID, source, errdefs.ErrNotFound)
		}
		if e.zero > 0 {
			return fmt.Errorf("volume %s: its source %s has an extension that is not finished: %w", want.ID, source, errdefs.ErrFailedPrecondition)
		}
		from = &e
		if want.Of != "" {
			want.SizeGiB = e.SizeGiB
		}
		if want.SizeGiB < e.SizeGiB {
			return fmt.Errorf("volume %s: %d GiB is smaller than its source's %d: %w", want.ID, want.SizeGiB, e.SizeGiB, errdefs.ErrInvalidArgument)
		}
	}
	if want.SizeGiB < 1 || want.SizeGiB > maxGiB {
		return fmt.Errorf("volume %s: size is %d GiB, must be 1 to %d: %w", want.ID, want.SizeGiB, maxGiB, errdefs.ErrInvalidArgument)
	}
	have, there := ours[want.ID]
	switch {
	case there && !have.made: // cut short: begin anew
		if err := d.remove(ctx, have); err != nil {
			return err
		}
	case there && have.Of == want.Of && (want.Of != "" || have.SizeGiB == want.SizeGiB):
		return nil
	case there:
		return fmt.Errorf("volume %s: exists as %s with %d GiB, not %d: %w", want.ID, have.Name, have.SizeGiB, want.SizeGiB, errdefs.ErrAlreadyExists)
	}
	if err := d.removeCopy(ctx, ours, want.ID); err != nil {
		return err
	}
	name := volumePrefix + want.ID
	if want.Of != "" {
		name = snapshotPrefix + want.ID
	}
	if err := raw.check(int64(want.SizeGiB) * d.cfg.gib); err != nil {
		return fmt.Errorf("volume %s: %w", want.ID, err)
	}
	if slices.Contains(foreign, name) {
		return fmt.Errorf("volume %s: %s exists and is not of this library's making: %w", want.ID, d.full(name), errdefs.ErrAlreadyExists)
	}
	err = d.fill(ctx, want, name, from)
	if err == nil {
		err = raw.copy(ctx, d.path(lv{Name: name}))
	}
	if err == nil {
		_, err = d.command(ctx, "lvchange", "--deltag", tagNew, d.full(name))
	}
	if err != nil && ctx.Err() == nil { // a call that was cut short is settled by the next
		_ = d.drop(ctx, want.ID)
	}
	return err
}

// drop removes what a call that failed has left, if it left something that is not whole.
func (d *Driver) drop(ctx context.Context, id string) error {
	ours, _, err := d.look(ctx)
	if err == nil {
		err = d.removeCopy(ctx, ours, id)
	}
	if e, ok := ours[id]; err == nil && ok && !e.made {
		return d.remove(ctx, e)
	}
	return err
}

// removeCopy removes what was kept of a volume in use for the copy with an id.
func (d *Driver) removeCopy(ctx context.Context, ours map[string]entry, id string) error {
	if e, ok := ours[copyPrefix+id]; ok {
		return d.remove(ctx, e)
	}
	return nil
}

// fill makes a logical volume with all that it holds; its tags say that it is new.
func (d *Driver) fill(ctx context.Context, want volume.Info, name string, from *entry) error {
	tags := []string{"--addtag", tagNew, "--addtag", tagVolume}
	if want.Of != "" {
		tags = []string{"--addtag", tagNew, "--addtag", tagSnapshot, "--addtag", tagOf + want.Of}
	}
	size := strconv.FormatInt(int64(want.SizeGiB)*d.cfg.gib, 10) + "b"
	if err := d.take(ctx, want.ID, int64(want.SizeGiB)*d.cfg.gib, func() error {
		args := []string{"-y", "-Wn", "-Zn", "-n", name, "-L", size}
		switch {
		case d.cfg.ThinPool != "" && from != nil:
			args = []string{"-y", "-kn", "-s", "-n", name}
		case d.cfg.ThinPool != "":
			args = []string{"-y", "-Wn", "-n", name, "-V", size, "--thinpool", d.cfg.ThinPool}
		}
		args = append(args, tags...)
		if d.cfg.ThinPool != "" && from != nil {
			args = append(args, d.full(from.Name))
		} else {
			args = append(args, d.cfg.VG)
		}
		_, err := d.command(ctx, "lvcreate", args...)
		return err
	}); err != nil {
		return err
	}
	to := lv{Name: name, Size: number(int64(want.SizeGiB) * d.cfg.gib)}
	if d.cfg.ThinPool != "" {
		if from != nil && int64(from.Size) < int64(to.Size) {
			if _, err := d.command(ctx, "lvextend", "-L", size, d.full(name)); err != nil {
				return err
			}
		}
		return d.fits(to)
	}
	if err := d.fits(to); err != nil {
		return err
	}
	begun := int64(0)
	if from != nil {
		if err := d.copyFrom(ctx, to, want.ID, *from); err != nil {
			return err
		}
		begun = int64(from.Size)
	}
	return d.cfg.zero(ctx, d.path(to), begun, int64(to.Size))
}

// copyFrom has a linear volume begin with what another holds. Of one that is open, LVM keeps what it held at one moment meanwhile.
func (d *Driver) copyFrom(ctx context.Context, to lv, id string, from entry) error {
	source := from.lv
	if from.open() {
		source.Name = copyPrefix + id
		if err := d.keep(ctx, source.Name, from); err != nil {
			return err
		}
	}
	err := d.fits(source)
	if err == nil {
		err = d.cfg.copy(ctx, d.path(to), d.path(source), int64(from.Size))
	}
	if from.open() && ctx.Err() == nil { // else the next call for the id removes it
		err = errors.Join(err, d.remove(ctx, entry{lv: source}))
	}
	return err
}

// keep makes a snapshot of LVM's of a volume, for the time of a copy. It takes as much room as the volume has, or all that there is: should so much
// be written to the volume meanwhile that this does not suffice, the copy fails.
func (d *Driver) keep(ctx context.Context, name string, from entry) error {
	select {
	case d.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.room }()
	_, free, err := d.space(ctx)
	if err != nil {
		return err
	}
	const header = 1 << 20
	bytes := min(int64(from.Size)+int64(from.Size)/64+header, free)
	if bytes < header {
		return fmt.Errorf("lvm: %s has no room for what is written to %s while it is copied: %w", d.cfg.VG, from.Name, errdefs.ErrResourceExhausted)
	}
	_, err = d.command(ctx, "lvcreate", "-y", "-s", "-p", "r", "-n", name, "-L", strconv.FormatInt(bytes, 10)+"b", "--addtag", tagCopy, d.full(from.Name))
	return err
}

// take runs a command that takes room, if there is so much, and no other that does meanwhile.
func (d *Driver) take(ctx context.Context, id string, bytes int64, command func() error) error {
	select {
	case d.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.room }()
	_, free, err := d.space(ctx)
	if err != nil {
		return err
	}
	if bytes > free {
		return fmt.Errorf("volume %s: %d GiB asked, %d free: %w", id, bytes/d.cfg.gib, max(0, free)/d.cfg.gib, errdefs.ErrResourceExhausted)
	}
	return command()
}

// Extend implements volume.Driver.
func (d *Driver) Extend(ctx context.Context, id string, sizeGiB int) error {
	return d.call(ctx, func() error {
		e, err := d.volume(ctx, id)
		if err != nil {
			return err
		}
		if sizeGiB < e.SizeGiB || sizeGiB > maxGiB {
			return fmt.Errorf("volume %s: size is %d GiB, must be %d (what it has) to %d: %w", id, sizeGiB, e.SizeGiB, maxGiB, errdefs.ErrInvalidArgument)
		}
		old, size := int64(e.Size), int64(sizeGiB)*d.cfg.gib
		linear := d.cfg.ThinPool == ""
		mark := tagZero + strconv.FormatInt(old, 10)
		if e.zero > 0 { // an extension was cut short
			mark = tagZero + strconv.FormatInt(e.zero, 10)
		} else if size > old && linear {
			if _, err := d.command(ctx, "lvchange", "--addtag", mark, d.full(e.Name)); err != nil {
				return err
			}
			e.zero = old
		}
		if size > old {
			if err := d.take(ctx, id, size-old, func() error {
				_, err := d.command(ctx, "lvextend", "-L", strconv.FormatInt(size, 10)+"b", d.full(e.Name))
				return err
			}); err != nil {
				// A command that failed may have had its effect; what has not become larger needs no zeros.
				if now, lookErr := d.volume(ctx, id); lookErr == nil && e.zero == old && int64(now.Size) == old {
					_, _ = d.command(ctx, "lvchange", "--deltag", mark, d.full(e.Name))
				}
				return err
			}
			e.Size = number(size)
		}
		if err := d.fits(e.lv); err != nil || e.zero == 0 {
			return err
		}
		if err := d.cfg.zero(ctx, d.path(e.lv), e.zero, int64(e.Size)); err != nil {
			return err
		}
		_, err = d.command(ctx, "lvchange", "--deltag", mark, d.full(e.Name))
		return err
	}, id)
}

// Delete implements volume.Driver.
func (d *Driver) Delete(ctx context.Context, id string) error {
	return d.call(ctx, func() error {
		ours, _, err := d.look(ctx)
		if err != nil {
			return err
		}
		if err := d.removeCopy(ctx, ours, id); err != nil {
			return err
		}
		e, ok := ours[id]
		if !ok || e.Of != "" {
			return nil
		}
		for _, other := range ours {
			if other.Of == id && other.made {
				return fmt.Errorf("volume %s: has snapshot %s: %w", id, other.ID, errdefs.ErrFailedPrecondition)
			}
		}
		return d.remove(ctx, e)
	}, id)
}

// DeleteSnapshot implements volume.Driver.
func (d *Driver) DeleteSnapshot(ctx context.Context, snapshot string) error {
	return d.call(ctx, func() error {
		ours, _, err := d.look(ctx)
		if err == nil {
			err = d.removeCopy(ctx, ours, snapshot)
		}
		if e, ok := ours[snapshot]; err == nil && ok && e.Of != "" {
			err = d.remove(ctx, e)
		}
		return err
	}, snapshot)
}

// remove removes a logical volume of ours.
func (d *Driver) remove(ctx context.Context, e entry) error {
	_, err := d.command(ctx, "lvremove", "-f", "-y", d.full(e.Name))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
