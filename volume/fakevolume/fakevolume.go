// Package fakevolume is a volume.Driver that keeps its volumes in temporary files and small ones at that: it is for the tests
// of programs that use volumes, not for data.
package fakevolume

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

const gib = 1 << 30

// Config is what a [Driver] is made of.
type Config struct {
	Dir      string // required: an existing directory for the files, which are sparse
	TotalGiB int    // 0: 1000
}

// Driver implements volume.Driver. Volumes are sparse files; a snapshot or clone copies what is not a hole.
type Driver struct {
	cfg Config

	mu    sync.Mutex
	fails map[string]error // by method: what its next call returns
	info  map[string]volume.Info
}

// New checks the configuration.
func New(cfg Config) (*Driver, error) {
	if cfg.Dir == "" {
		return nil, fmt.Errorf("fakevolume: Config.Dir is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.TotalGiB == 0 {
		cfg.TotalGiB = 1000
	}
	return &Driver{cfg: cfg, fails: map[string]error{}, info: map[string]volume.Info{}}, nil
}

// Fail makes the next call of a method ("Create", "Delete", …) return err and do nothing.
func (d *Driver) Fail(method string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fails[method] = err
}

// begin checks what all methods check, and takes the lock if it returns nil.
func (d *Driver) begin(ctx context.Context, method string, ids ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, id := range ids {
		if u, err := uuid.Parse(id); err != nil || u.String() != id {
			return fmt.Errorf("volume id %q is not a UUID: %w", id, errdefs.ErrInvalidArgument)
		}
	}
	d.mu.Lock()
	if err := d.fails[method]; err != nil {
		delete(d.fails, method)
		d.mu.Unlock()
		return err
	}
	return nil
}

func (d *Driver) path(id string) string { return filepath.Join(d.cfg.Dir, id) }

// Create implements volume.Driver.
func (d *Driver) Create(ctx context.Context, id string, sizeGiB int) error {
	if err := d.begin(ctx, "Create", id); err != nil {
		return err
	}
	defer d.mu.Unlock()
	return d.make(id, "", sizeGiB)
}

// make makes a volume, of zeros or of what source holds.
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
	if free := d.free(); sizeGiB > free {
		return fmt.Errorf("volume %s: %d GiB asked, %d free: %w", id, sizeGiB, free, errdefs.ErrResourceExhausted)
	}
	if err := d.copy(source, id, int64(sizeGiB)*gib); err != nil {
		return err
	}
	d.info[id] = volume.Info{ID: id, SizeGiB: sizeGiB}
	return nil
}

// copy makes id's file, of a size, with what source's holds if there is a source.
func (d *Driver) copy(source, id string, size int64) error {
	to, err := os.Create(d.path(id))
	if err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	defer to.Close()
	if err := to.Truncate(size); err != nil || source == "" {
		return err
	}
	from, err := os.Open(d.path(source))
	if err != nil {
		return fmt.Errorf("volume %s: %w", source, err)
	}
	defer from.Close()
	return copyData(to, from)
}

// copyData copies what is not a hole.
func copyData(to, from *os.File) error {
	for offset := int64(0); ; {
		start, err := from.Seek(offset, 3) // SEEK_DATA
		if err != nil {
			return nil // no data after offset
		}
		end, err := from.Seek(start, 4) // SEEK_HOLE
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
	if err := d.begin(ctx, "Clone", id, source); err != nil {
		return err
	}
	defer d.mu.Unlock()
	from, ok := d.info[source]
	if !ok {
		return fmt.Errorf("volume %q: %w", source, errdefs.ErrNotFound)
	}
	if sizeGiB < from.SizeGiB {
		return fmt.Errorf("volume %s: %d GiB is smaller than its source's %d: %w", id, sizeGiB, from.SizeGiB, errdefs.ErrInvalidArgument)
	}
	return d.make(id, source, sizeGiB)
}

// Extend implements volume.Driver.
func (d *Driver) Extend(ctx context.Context, id string, sizeGiB int) error {
	if err := d.begin(ctx, "Extend", id); err != nil {
		return err
	}
	defer d.mu.Unlock()
	have, err := d.volume(id)
	if err != nil {
		return err
	}
	if sizeGiB < have.SizeGiB {
		return fmt.Errorf("volume %s: %d GiB is smaller than the %d it has: %w", id, sizeGiB, have.SizeGiB, errdefs.ErrInvalidArgument)
	}
	if more, free := sizeGiB-have.SizeGiB, d.free(); more > free {
		return fmt.Errorf("volume %s: %d GiB more asked, %d free: %w", id, more, free, errdefs.ErrResourceExhausted)
	}
	if err := os.Truncate(d.path(id), int64(sizeGiB)*gib); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	have.SizeGiB = sizeGiB
	d.info[id] = have
	return nil
}

// volume returns what is known of a volume, which a snapshot is not.
func (d *Driver) volume(id string) (volume.Info, error) {
	have, ok := d.info[id]
	if !ok || have.Of != "" {
		return have, fmt.Errorf("volume %q: %w", id, errdefs.ErrNotFound)
	}
	return have, nil
}

// Delete implements volume.Driver.
func (d *Driver) Delete(ctx context.Context, id string) error {
	if err := d.begin(ctx, "Delete", id); err != nil {
		return err
	}
	defer d.mu.Unlock()
	if _, err := d.volume(id); err != nil {
		return nil
	}
	for _, s := range d.info {
		if s.Of == id {
			return fmt.Errorf("volume %s: has snapshot %s: %w", id, s.ID, errdefs.ErrFailedPrecondition)
		}
	}
	return d.remove(id)
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
	if err := d.begin(ctx, "Snapshot", snapshot, of); err != nil {
		return err
	}
	defer d.mu.Unlock()
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
	if err := d.copy(of, snapshot, int64(from.SizeGiB)*gib); err != nil {
		return err
	}
	d.info[snapshot] = volume.Info{ID: snapshot, SizeGiB: from.SizeGiB, Of: of}
	return nil
}

// DeleteSnapshot implements volume.Driver.
func (d *Driver) DeleteSnapshot(ctx context.Context, snapshot string) error {
	if err := d.begin(ctx, "DeleteSnapshot", snapshot); err != nil {
		return err
	}
	defer d.mu.Unlock()
	if d.info[snapshot].Of == "" {
		return nil
	}
	return d.remove(snapshot)
}

// Path implements volume.Driver.
func (d *Driver) Path(ctx context.Context, id string) (string, error) {
	if err := d.begin(ctx, "Path", id); err != nil {
		return "", err
	}
	defer d.mu.Unlock()
	_, err := d.volume(id)
	return d.path(id), err
}

// List implements volume.Driver.
func (d *Driver) List(ctx context.Context) ([]volume.Info, error) {
	if err := d.begin(ctx, "List"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	all := make([]volume.Info, 0, len(d.info))
	for _, i := range d.info {
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b volume.Info) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// Stats implements volume.Driver.
func (d *Driver) Stats(ctx context.Context) (volume.Stats, error) {
	if err := d.begin(ctx, "Stats"); err != nil {
		return volume.Stats{}, err
	}
	defer d.mu.Unlock()
	return volume.Stats{TotalGiB: d.cfg.TotalGiB, FreeGiB: d.free()}, nil
}

func (d *Driver) free() int {
	free := d.cfg.TotalGiB
	for _, i := range d.info {
		free -= i.SizeGiB
	}
	return free
}
