// Package fakevolume is a volume.Driver that keeps its volumes in temporary files and what it knows of them in memory: it is
// for the tests of programs that use volumes, not for data.
//
// A test ends an agent, gives the same [Driver] to a new one, and finds the volumes there, as on a host that outlives its
// agents. The driver takes directions: [Driver.Inject] makes calls fail, hang or take long, before or after they had their
// effect. It starts no goroutine, and time passes only in delays, so it runs under testing/synctest.
package fakevolume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

const gib = 1 << 30

// Config is what a [Driver] is made of.
type Config struct {
	Dir      string // required: an existing directory for the files, which are sparse
	TotalGiB int    // of all volumes and snapshots together; 0: 1000
}

// Driver implements volume.Driver. Volumes are sparse files; a snapshot or clone copies what is not a hole.
type Driver struct {
	cfg Config

	mu     sync.Mutex
	faults []*Injected
	calls  map[Method]int
	info   map[string]volume.Info
}

var (
	_ volume.Driver = (*Driver)(nil)
	_ volume.Copier = (*Driver)(nil)
)

// New checks the configuration.
func New(cfg Config) (*Driver, error) {
	if cfg.Dir == "" {
		return nil, fmt.Errorf("fakevolume: Config.Dir is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.TotalGiB < 0 {
		return nil, fmt.Errorf("fakevolume: Config.TotalGiB is %d, must be at least 0: %w", cfg.TotalGiB, errdefs.ErrInvalidArgument)
	}
	if cfg.TotalGiB == 0 {
		cfg.TotalGiB = 1000
	}
	return &Driver{cfg: cfg, calls: map[Method]int{}, info: map[string]volume.Info{}}, nil
}

func check(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fmt.Errorf("volume id %.40q is not a UUID: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (d *Driver) path(id string) string { return filepath.Join(d.cfg.Dir, id) }

// Create implements volume.Driver.
func (d *Driver) Create(ctx context.Context, id string, sizeGiB int) error {
	return d.call(ctx, MethodCreate, func() error { return d.make(id, "", sizeGiB) }, id)
}

// make makes a volume, of zeros or of what the file source holds.
func (d *Driver) make(id, source string, sizeGiB int) error {
	if sizeGiB < 1 {
		return fmt.Errorf("volume %s: size is %d GiB, must be at least 1: %w", id, sizeGiB, errdefs.ErrInvalidArgument)
	}
	if have, ok := d.info[id]; ok {
		if have.Of == "" && have.SizeGiB == sizeGiB {
			return nil
		}
		return fmt.Errorf("volume %s: exists with %d GiB, not %d: %w", id, have.SizeGiB, sizeGiB, errdefs.ErrAlreadyExists)
	}
	if err := d.room(id, sizeGiB); err != nil {
		return err
	}
	if err := d.copy(source, id, sizeGiB); err != nil {
		return err
	}
	d.info[id] = volume.Info{ID: id, SizeGiB: sizeGiB}
	return nil
}

// room checks that there is so much more.
func (d *Driver) room(id string, sizeGiB int) error {
	if free := d.free(); sizeGiB > free {
		return fmt.Errorf("volume %s: %d GiB asked, %d free: %w", id, sizeGiB, free, errdefs.ErrResourceExhausted)
	}
	return nil
}

// copy makes id's file, of a size, with what the file source holds if there is one.
func (d *Driver) copy(source, id string, sizeGiB int) (err error) {
	to, err := os.Create(d.path(id))
	if err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := to.Truncate(int64(sizeGiB) * gib); err != nil || source == "" {
		return err
	}
	from, err := os.Open(source)
	if err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	defer from.Close()
	return copyData(to, from)
}

// copyData copies what is not a hole.
func copyData(to, from *os.File) error {
	for offset := int64(0); ; {
		start, err := from.Seek(offset, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) { // no data from here to the end
			return nil
		}
		if err != nil {
			return err
		}
		end, err := from.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, start), io.NewSectionReader(from, start, end-start)); err != nil {
			return err
		}
		offset = end
	}
}

// Clone implements volume.Driver.
func (d *Driver) Clone(ctx context.Context, id, source string, sizeGiB int) error {
	return d.call(ctx, MethodClone, func() error {
		from, ok := d.info[source]
		if !ok {
			return fmt.Errorf("volume %s: %w", source, errdefs.ErrNotFound)
		}
		if sizeGiB < from.SizeGiB {
			return fmt.Errorf("volume %s: %d GiB is smaller than its source's %d: %w", id, sizeGiB, from.SizeGiB, errdefs.ErrInvalidArgument)
		}
		return d.make(id, d.path(source), sizeGiB)
	}, id, source)
}

// Import implements volume.Driver.
func (d *Driver) Import(ctx context.Context, id, path string, sizeGiB int) error {
	return d.call(ctx, MethodImport, func() error {
		if _, ok := d.info[id]; ok || sizeGiB < 1 {
			return d.make(id, path, sizeGiB)
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("volume %s: what is imported: %w", id, errdefs.ErrNotFound)
		case err != nil:
			return err
		case !info.Mode().IsRegular() || !filepath.IsAbs(path):
			return fmt.Errorf("volume %s: what is imported is no file with an absolute path: %w", id, errdefs.ErrInvalidArgument)
		case info.Size() > int64(sizeGiB)*gib:
			return fmt.Errorf("volume %s: %d GiB is smaller than the %d bytes that are imported: %w", id, sizeGiB, info.Size(), errdefs.ErrInvalidArgument)
		}
		return d.make(id, path, sizeGiB)
	}, id)
}

// Extend implements volume.Driver.
func (d *Driver) Extend(ctx context.Context, id string, sizeGiB int) error {
	return d.call(ctx, MethodExtend, func() error {
		have, err := d.volume(id)
		if err != nil {
			return err
		}
		if sizeGiB < have.SizeGiB {
			return fmt.Errorf("volume %s: %d GiB is smaller than the %d it has: %w", id, sizeGiB, have.SizeGiB, errdefs.ErrInvalidArgument)
		}
		if err := d.room(id, sizeGiB-have.SizeGiB); err != nil {
			return err
		}
		if err := os.Truncate(d.path(id), int64(sizeGiB)*gib); err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
		have.SizeGiB = sizeGiB
		d.info[id] = have
		return nil
	}, id)
}

// volume returns what is known of a volume, which a snapshot is not.
func (d *Driver) volume(id string) (volume.Info, error) {
	have, ok := d.info[id]
	if !ok || have.Of != "" {
		return have, fmt.Errorf("volume %s: %w", id, errdefs.ErrNotFound)
	}
	return have, nil
}

// Delete implements volume.Driver.
func (d *Driver) Delete(ctx context.Context, id string) error {
	return d.call(ctx, MethodDelete, func() error {
		if _, err := d.volume(id); err != nil {
			return nil
		}
		for _, s := range d.info {
			if s.Of == id {
				return fmt.Errorf("volume %s: has snapshot %s: %w", id, s.ID, errdefs.ErrFailedPrecondition)
			}
		}
		return d.remove(id)
	}, id)
}

func (d *Driver) remove(id string) error {
	if err := os.Remove(d.path(id)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	delete(d.info, id)
	return nil
}

// Snapshot implements volume.Driver.
func (d *Driver) Snapshot(ctx context.Context, snapshot, of string) error {
	return d.call(ctx, MethodSnapshot, func() error {
		from, err := d.volume(of)
		if err != nil {
			return err
		}
		if have, ok := d.info[snapshot]; ok {
			if have.Of == of {
				return nil
			}
			return fmt.Errorf("snapshot %s: exists and is not of volume %s: %w", snapshot, of, errdefs.ErrAlreadyExists)
		}
		if err := d.room(snapshot, from.SizeGiB); err != nil {
			return err
		}
		if err := d.copy(d.path(of), snapshot, from.SizeGiB); err != nil {
			return err
		}
		d.info[snapshot] = volume.Info{ID: snapshot, SizeGiB: from.SizeGiB, Of: of}
		return nil
	}, snapshot, of)
}

// SnapshotHeld implements volume.Copier.
func (d *Driver) SnapshotHeld(ctx context.Context, snapshot, of string, hold func(context.Context) (func(), error)) error {
	release, err := hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	return d.Snapshot(ctx, snapshot, of)
}

// DeleteSnapshot implements volume.Driver.
func (d *Driver) DeleteSnapshot(ctx context.Context, snapshot string) error {
	return d.call(ctx, MethodDeleteSnapshot, func() error {
		if d.info[snapshot].Of == "" {
			return nil
		}
		return d.remove(snapshot)
	}, snapshot)
}

// Path implements volume.Driver.
func (d *Driver) Path(ctx context.Context, id string) (path string, err error) {
	err = d.call(ctx, MethodPath, func() error {
		_, err := d.volume(id)
		return err
	}, id)
	if err != nil {
		return "", err
	}
	return d.path(id), nil
}

// List implements volume.Driver. The order is that of the ids.
func (d *Driver) List(ctx context.Context) (all []volume.Info, err error) {
	err = d.call(ctx, MethodList, func() error {
		for _, i := range d.info {
			all = append(all, i)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b volume.Info) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// Stats implements volume.Driver.
func (d *Driver) Stats(ctx context.Context) (s volume.Stats, err error) {
	err = d.call(ctx, MethodStats, func() error {
		s = volume.Stats{TotalGiB: d.cfg.TotalGiB, FreeGiB: d.free()}
		return nil
	})
	if err != nil {
		return volume.Stats{}, err
	}
	return s, nil
}

func (d *Driver) free() int {
	free := d.cfg.TotalGiB
	for _, i := range d.info {
		free -= i.SizeGiB
	}
	return free
}
