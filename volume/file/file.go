package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/internal/keylock"
)

const (
	gib = 1 << 30
	// mostGiB keeps sizes in bytes within an int64.
	mostGiB = 1 << 32
)

// Config is what a [Driver] is made of.
type Config struct {
	Dir string // required: an existing directory, for nothing else

	// TotalGiB is what volumes and snapshots may have together, each with its whole size. It may be more than there is:
	// then a full file system is a write error in guests. 0: what the file system has; what was promised and not yet
	// written counts as taken.
	TotalGiB int

	Logger *slog.Logger // nil: silent
}

// Driver implements volume.Driver over a directory.
type Driver struct {
	cfg   Config
	root  *os.Root
	lock  *os.File
	locks keylock.Locks

	mu       sync.Mutex
	promised map[string]int64 // bytes that calls under way will have added

	point func(where string) error // for tests: an error ends the call there and then, as a crash would; nil: none
}

var (
	_ volume.Driver = (*Driver)(nil)
	_ volume.Copier = (*Driver)(nil)
)

// lockName is the file whose lock says that a process has the directory.
const lockName = "lock"

// Open takes a directory and removes what an earlier process left half-made. A directory that is in use, by this
// process or another, is FailedPrecondition; one that is not there, NotFound.
func Open(cfg Config) (*Driver, error) {
	switch {
	case cfg.Dir == "":
		return nil, fmt.Errorf("file: Config.Dir is required: %w", errdefs.ErrInvalidArgument)
	case cfg.TotalGiB < 0 || cfg.TotalGiB > mostGiB:
		return nil, fmt.Errorf("file: Config.TotalGiB is %d, must be 0 to %d: %w", cfg.TotalGiB, mostGiB, errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("file: Config.Dir: %w", err)
	}
	cfg.Dir = dir
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("file: Config.Dir: %w", classed(err))
	}
	d := &Driver{cfg: cfg, root: root, promised: map[string]int64{}}
	if d.lock, err = root.OpenFile(lockName, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("file: Config.Dir: %w", classed(err)), root.Close())
	}
	if err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("file: Config.Dir %s is in use (%v): %w", dir, err, errdefs.ErrFailedPrecondition), d.Close())
	}
	if err := d.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("file: Config.Dir %s: %w", dir, classed(err)), d.Close())
	}
	return d, nil
}

// Close gives the directory back. No call may be under way, nor come.
func (d *Driver) Close() error { return errors.Join(d.lock.Close(), d.root.Close()) }

// sweep removes what was half-made when the process before this one ended.
func (d *Driver) sweep() error {
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if id, ok := strings.CutPrefix(name, newPrefix); ok && check(id) == nil {
			if err := d.root.Remove(name); err != nil {
				return err
			}
			d.cfg.Logger.Info("file: removed what an earlier process left half-made", "id", id)
		}
	}
	return nil
}

// Names of files.
const (
	volumePrefix   = "volume-"
	snapshotPrefix = "snapshot-"
	ofInfix        = "-of-"
	newPrefix      = "new-"
)

// entry is a file of ours.
type entry struct {
	volume.Info
	name      string
	bytes     int64
	allocated int64
}

func check(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fmt.Errorf("volume id %.40q is not a UUID in its 36-character form: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// parse returns what a file's name says; not ok: it is none of ours.
func parse(name string) (i volume.Info, ok bool) {
	if id, found := strings.CutPrefix(name, volumePrefix); found {
		return volume.Info{ID: id}, check(id) == nil
	}
	rest, found := strings.CutPrefix(name, snapshotPrefix)
	if !found {
		return i, false
	}
	id, of, found := strings.Cut(rest, ofInfix)
	return volume.Info{ID: id, Of: of}, found && check(id) == nil && check(of) == nil
}

func (i entry) want() string {
	if i.Of != "" {
		return snapshotPrefix + i.ID + ofInfix + i.Of
	}
	return volumePrefix + i.ID
}

func (d *Driver) names() (names []string, err error) {
	dir, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// all returns the files of ours.
func (d *Driver) all() (all []entry, err error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		e := entry{name: name}
		var ok bool
		if e.Info, ok = parse(name); !ok {
			continue
		}
		info, err := d.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		e.bytes, e.allocated = info.Size(), allocated(info)
		e.SizeGiB = int(e.bytes / gib)
		all = append(all, e)
	}
	return all, nil
}

// find returns the volume or snapshot with an id.
func (d *Driver) find(id string) (e entry, found bool, err error) {
	all, err := d.all()
	if err != nil {
		return e, false, err
	}
	for _, e := range all {
		if e.ID == id {
			return e, true, nil
		}
	}
	return e, false, nil
}

// volume returns a volume, which a snapshot is not.
func (d *Driver) volume(id string) (entry, error) {
	e, found, err := d.find(id)
	if err == nil && (!found || e.Of != "") {
		err = fmt.Errorf("volume %s: %w", id, errdefs.ErrNotFound)
	}
	return e, err
}

// call runs one call, alone with its ids, and gives its error a class.
func (d *Driver) call(ctx context.Context, do func() error, ids ...string) error {
	for _, id := range ids {
		if err := check(id); err != nil {
			return err
		}
	}
	unlock, err := d.locks.Lock(ctx, ids...)
	if err != nil {
		return err
	}
	defer unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	err = do()
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return ctx.Err()
	}
	return classed(err)
}

// classed gives what the file system says a class of errdefs.
func classed(err error) error {
	for _, c := range []struct{ is, class error }{
		{syscall.ENOSPC, errdefs.ErrResourceExhausted}, {syscall.EDQUOT, errdefs.ErrResourceExhausted},
		{syscall.EFBIG, errdefs.ErrResourceExhausted}, {syscall.EIO, errdefs.ErrUnavailable}, {syscall.ESTALE, errdefs.ErrUnavailable},
		{fs.ErrNotExist, errdefs.ErrNotFound}, {fs.ErrPermission, errdefs.ErrPermissionDenied}, {syscall.EROFS, errdefs.ErrUnavailable},
		{syscall.ENOTDIR, errdefs.ErrInvalidArgument},
	} {
		if errors.Is(err, c.is) && !errors.Is(err, c.class) {
			return fmt.Errorf("%w: %w", err, c.class)
		}
	}
	return err
}

// Create implements volume.Driver.
func (d *Driver) Create(ctx context.Context, id string, sizeGiB int) error {
	return d.call(ctx, func() error {
		return d.make(ctx, entry{Info: volume.Info{ID: id, SizeGiB: sizeGiB}}, nil)
	}, id)
}

// Clone implements volume.Driver.
func (d *Driver) Clone(ctx context.Context, id, source string, sizeGiB int) error {
	return d.call(ctx, func() error {
		from, found, err := d.find(source)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("volume %s: its source %s: %w", id, source, errdefs.ErrNotFound)
		case int64(sizeGiB)*gib < from.bytes:
			return fmt.Errorf("volume %s: %d GiB is smaller than its source's %d: %w", id, sizeGiB, from.SizeGiB, errdefs.ErrInvalidArgument)
		}
		return d.make(ctx, entry{Info: volume.Info{ID: id, SizeGiB: sizeGiB}}, &origin{open: d.opener(from)})
	}, id, source)
}

// Snapshot implements volume.Driver, for a volume that nobody writes to.
func (d *Driver) Snapshot(ctx context.Context, snapshot, of string) error {
	return d.SnapshotHeld(ctx, snapshot, of, func(context.Context) (func(), error) { return func() {}, nil })
}

// SnapshotHeld implements volume.Copier. Where files can share blocks, nobody has to wait.
func (d *Driver) SnapshotHeld(ctx context.Context, snapshot, of string, hold func(context.Context) (func(), error)) error {
	return d.call(ctx, func() error {
		from, err := d.volume(of)
		if err != nil {
			return err
		}
		e := entry{Info: volume.Info{ID: snapshot, Of: of, SizeGiB: from.SizeGiB}, bytes: from.bytes}
		return d.make(ctx, e, &origin{open: d.opener(from), hold: hold})
	}, snapshot, of)
}

// origin is what a file begins with.
type origin struct {
	open func() (*os.File, error)
	hold func(context.Context) (release func(), err error) // before it is copied; nil: nobody writes to it
}

// opener opens a file of ours, to be copied.
func (d *Driver) opener(e entry) func() (*os.File, error) {
	return func() (*os.File, error) { return d.root.OpenFile(e.name, os.O_RDONLY|syscall.O_NOFOLLOW, 0) }
}

// make makes a volume or a snapshot, of zeros or of what a source holds.
func (d *Driver) make(ctx context.Context, e entry, source *origin) error {
	if e.Of == "" {
		if e.SizeGiB < 1 || e.SizeGiB > mostGiB {
			return fmt.Errorf("volume %s: size is %d GiB, must be 1 to %d: %w", e.ID, e.SizeGiB, mostGiB, errdefs.ErrInvalidArgument)
		}
		e.bytes = int64(e.SizeGiB) * gib
	}
	have, found, err := d.find(e.ID)
	switch {
	case err != nil:
		return err
	case found && have.Of == e.Of && (e.Of != "" || have.bytes == e.bytes):
		// A call that was cut short may have left the other name, and the directory unflushed.
		return d.finish(e.ID)
	case found && have.Of != e.Of:
		return fmt.Errorf("volume %s: the id is that of %s: %w", e.ID, have.name, errdefs.ErrAlreadyExists)
	case found:
		return fmt.Errorf("volume %s: exists with %d bytes, not %d GiB: %w", e.ID, have.bytes, e.SizeGiB, errdefs.ErrAlreadyExists)
	}
	release, err := d.promise(e.ID, e.bytes)
	if err != nil {
		return err
	}
	defer release()
	if err := d.fill(ctx, e, source); err != nil {
		if !errors.Is(err, errCrash) {
			err = errors.Join(err, ignoreMissing(d.root.Remove(newPrefix+e.ID)))
		}
		return err
	}
	if err := d.root.Link(newPrefix+e.ID, e.want()); err != nil {
		return errors.Join(fmt.Errorf("volume %s: %w", e.ID, err), ignoreMissing(d.root.Remove(newPrefix+e.ID)))
	}
	if err := d.at("linked"); err != nil {
		return err
	}
	return d.finish(e.ID)
}

// finish leaves a file under its own name alone, for good.
func (d *Driver) finish(id string) error {
	if err := ignoreMissing(d.root.Remove(newPrefix + id)); err != nil {
		return err
	}
	if err := d.at("unlinked"); err != nil {
		return err
	}
	return d.flush()
}

// fill makes the file under its first name, with all that it holds, flushed.
func (d *Driver) fill(ctx context.Context, e entry, source *origin) (err error) {
	if err := ignoreMissing(d.root.Remove(newPrefix + e.ID)); err != nil {
		return err
	}
	to, err := d.root.OpenFile(newPrefix+e.ID, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("volume %s: %w", e.ID, err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := d.at("made"); err != nil {
		return err
	}
	if source != nil {
		from, err := source.open()
		if err != nil {
			return fmt.Errorf("volume %s: %w", e.ID, err)
		}
		defer from.Close()
		if err := d.copy(ctx, to, from, source.hold); err != nil {
			return fmt.Errorf("volume %s: copying %s: %w", e.ID, filepath.Base(from.Name()), err)
		}
	}
	if err := d.at("copied"); err != nil {
		return err
	}
	if err := to.Truncate(e.bytes); err != nil {
		return fmt.Errorf("volume %s: %w", e.ID, err)
	}
	if err := to.Sync(); err != nil {
		return fmt.Errorf("volume %s: %w", e.ID, err)
	}
	return d.at("filled")
}

// copy has one file begin with all that another one holds.
func (d *Driver) copy(ctx context.Context, to, from *os.File, hold func(context.Context) (func(), error)) error {
	if shared, err := share(to, from); shared || err != nil {
		return err
	}
	if hold != nil {
		release, err := hold(ctx)
		if err != nil {
			return err
		}
		defer release()
	}
	return copyData(ctx, to, from)
}

// copyRange copies a part of a file, and looks at ctx now and then.
func copyRange(ctx context.Context, to, from *os.File, start, end int64) error {
	const piece = 4 << 20
	for ; start < end; start += piece {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := io.NewSectionReader(from, start, min(piece, end-start))
		if _, err := io.Copy(io.NewOffsetWriter(to, start), part); err != nil {
			return err
		}
	}
	return nil
}

// Extend implements volume.Driver.
func (d *Driver) Extend(ctx context.Context, id string, sizeGiB int) error {
	return d.call(ctx, func() error {
		have, err := d.volume(id)
		if err != nil {
			return err
		}
		if sizeGiB < 1 || sizeGiB > mostGiB || int64(sizeGiB)*gib < have.bytes {
			return fmt.Errorf("volume %s: size is %d GiB, must be %d (what it has) to %d: %w", id, sizeGiB, have.SizeGiB, mostGiB, errdefs.ErrInvalidArgument)
		}
		more := int64(sizeGiB)*gib - have.bytes
		release, err := d.promise(id, more)
		if err != nil {
			return err
		}
		defer release()
		f, err := d.root.OpenFile(have.name, os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
		if more > 0 {
			err = f.Truncate(have.bytes + more)
		}
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
		return nil
	}, id)
}

// Delete implements volume.Driver.
func (d *Driver) Delete(ctx context.Context, id string) error {
	return d.call(ctx, func() error {
		all, err := d.all()
		if err != nil {
			return err
		}
		for _, e := range all {
			if e.Of == id {
				return fmt.Errorf("volume %s: has snapshot %s: %w", id, e.ID, errdefs.ErrFailedPrecondition)
			}
		}
		for _, e := range all {
			if e.ID == id && e.Of == "" {
				return d.remove(e)
			}
		}
		return d.finish(id)
	}, id)
}

// DeleteSnapshot implements volume.Driver.
func (d *Driver) DeleteSnapshot(ctx context.Context, snapshot string) error {
	return d.call(ctx, func() error {
		e, found, err := d.find(snapshot)
		switch {
		case err != nil:
			return err
		case found && e.Of != "":
			return d.remove(e)
		}
		return d.finish(snapshot)
	}, snapshot)
}

func (d *Driver) remove(e entry) error {
	if err := ignoreMissing(d.root.Remove(e.name)); err != nil {
		return fmt.Errorf("volume %s: %w", e.ID, err)
	}
	if err := d.at("removed"); err != nil {
		return err
	}
	return d.finish(e.ID)
}

// Path implements volume.Driver.
func (d *Driver) Path(ctx context.Context, id string) (path string, err error) {
	err = d.call(ctx, func() error {
		e, err := d.volume(id)
		path = filepath.Join(d.cfg.Dir, e.name)
		return err
	}, id)
	if err != nil {
		return "", err
	}
	return path, nil
}

// List implements volume.Driver.
func (d *Driver) List(ctx context.Context) (all []volume.Info, err error) {
	err = d.call(ctx, func() error {
		entries, err := d.all()
		for _, e := range entries {
			all = append(all, e.Info)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Stats implements volume.Driver.
func (d *Driver) Stats(ctx context.Context) (s volume.Stats, err error) {
	err = d.call(ctx, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		total, free, err := d.room()
		s = volume.Stats{TotalGiB: int(total / gib), FreeGiB: int(max(0, free) / gib)}
		return err
	})
	if err != nil {
		return volume.Stats{}, err
	}
	return s, nil
}

// flush has what was done to the directory survive a loss of power.
func (d *Driver) flush() error {
	dir, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// errCrash is what a test ends a call with: nothing is cleaned up after it.
var errCrash = errors.New("crashed here, for a test")

func (d *Driver) at(where string) error {
	if d.point == nil {
		return nil
	}
	return d.point(where)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
