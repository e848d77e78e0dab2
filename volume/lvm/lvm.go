package lvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/internal/keylock"
)

const gib = 1 << 30

// maxGiB keeps sizes in bytes within an int64.
const maxGiB = 1 << 32

// Config is what a [Driver] is made of.
type Config struct {
	VG       string        // required: an existing volume group
	ThinPool string        // an existing thin pool in it; "": volumes are linear
	Tries    int           // how often a command that finds something busy is tried, 1 to 10; 0: 5
	Timeout  time.Duration // of one command; 0: 1 min
	Logger   *slog.Logger  // nil: silent

	run    tool   // for tests; nil: LVM's programs
	devDir string // "": /dev
	gib    int64  // what counts as a GiB; 0: 1 << 30
	zero   func(ctx context.Context, path string, begin, end int64) error
	copy   func(ctx context.Context, to, from string, size int64) error
	pause  time.Duration // after the first try; it grows with each; 0: 200 ms
}

// Driver implements volume.Driver over a volume group. Commands that change it are run one at a time; what several programs do to one group LVM itself
// keeps apart.
type Driver struct {
	cfg   Config
	busy  chan struct{} // holds a token while a command is run
	locks keylock.Locks
	room  chan struct{} // holds a token while room is looked for and taken
}

var _ volume.Driver = (*Driver)(nil)

var validName = regexp.MustCompile(`^[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,100}$`)

// Open checks the configuration and looks for the volume group, and the pool. What is not there is NotFound.
func Open(ctx context.Context, cfg Config) (*Driver, error) {
	bad := func(format string, args ...any) (*Driver, error) {
		return nil, fmt.Errorf("lvm: Config."+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case !validName.MatchString(cfg.VG) || cfg.VG == "." || cfg.VG == "..":
		return bad("VG is %.40q, must be the name of a volume group", cfg.VG)
	case cfg.ThinPool != "" && !validName.MatchString(cfg.ThinPool):
		return bad("ThinPool is %.40q, must be the name of a thin pool, or empty", cfg.ThinPool)
	case cfg.Tries < 0 || cfg.Tries > 10:
		return bad("Tries is %d, must be 0 to 10", cfg.Tries)
	case cfg.Timeout < 0:
		return bad("Timeout is %v, must be at least 0", cfg.Timeout)
	}
	if cfg.Tries == 0 {
		cfg.Tries = 5
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.run == nil {
		cfg.run = runTool
	}
	if cfg.devDir == "" {
		cfg.devDir = "/dev"
	}
	if cfg.zero == nil {
		cfg.zero, cfg.copy = zeroDevice, copyDevice
	}
	if cfg.gib == 0 {
		cfg.gib = gib
	}
	if cfg.pause == 0 {
		cfg.pause = 200 * time.Millisecond
	}
	d := &Driver{cfg: cfg, busy: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	group, err := d.group(ctx)
	if err != nil {
		if errdefs.IsUnavailable(err) && strings.Contains(err.Error(), "not found") {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
		return nil, err
	}
	if group.Extent == 0 || cfg.gib%int64(group.Extent) != 0 {
		return bad("VG %s has extents of %d bytes, of which 1 GiB is no multiple", cfg.VG, group.Extent)
	}
	if cfg.ThinPool == "" {
		return d, nil
	}
	pool, err := d.pool(ctx)
	switch {
	case err != nil:
		return nil, err
	case !strings.HasPrefix(pool.Attr, "t"):
		return bad("ThinPool %s/%s is no thin pool (its attributes are %q)", cfg.VG, cfg.ThinPool, pool.Attr)
	case len(pool.Attr) < 8 || pool.Attr[7] != 'z':
		return bad("ThinPool %s/%s does not zero its chunks, so that volumes could show old data: lvchange -Zy", cfg.VG, cfg.ThinPool)
	}
	return d, nil
}

// command runs a program of LVM, alone, and again if it finds something busy.
func (d *Driver) command(ctx context.Context, program string, args ...string) (out []byte, err error) {
	select {
	case d.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-d.busy }()
	for try := 1; ; try++ {
		limited, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
		out, says, err := d.cfg.run(limited, program, args...)
		late := limited.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			return out, nil
		}
		if late {
			return nil, fmt.Errorf("lvm: %s has not ended within %v: %w", program, d.cfg.Timeout, errdefs.ErrUnavailable)
		}
		err = failed(program, says, err)
		if !errdefs.IsUnavailable(err) || try >= d.cfg.Tries {
			return nil, err
		}
		d.cfg.Logger.Warn("lvm: trying again", "error", err, "try", try)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(try) * d.cfg.pause):
		}
	}
}

func (d *Driver) report(ctx context.Context, program, columns, of string) ([]lv, []vg, error) {
	out, err := d.command(ctx, program, "--reportformat", "json", "--units", "b", "--nosuffix", "-o", columns, of)
	if err != nil {
		return nil, nil, err
	}
	return parseReport(out)
}

func (d *Driver) group(ctx context.Context) (vg, error) {
	_, all, err := d.report(ctx, "vgs", "vg_size,vg_free,vg_extent_size", d.cfg.VG)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("lvm: %d volume groups are named %s: %w", len(all), d.cfg.VG, errdefs.ErrInternal)
	}
	if err != nil {
		return vg{}, err
	}
	return all[0], nil
}

func (d *Driver) all(ctx context.Context) ([]lv, error) {
	all, _, err := d.report(ctx, "lvs", "lv_name,lv_size,lv_tags,lv_attr,pool_lv", d.cfg.VG)
	return all, err
}

func (d *Driver) pool(ctx context.Context) (lv, error) {
	all, err := d.all(ctx)
	if err != nil {
		return lv{}, err
	}
	for _, l := range all {
		if l.Name == d.cfg.ThinPool {
			return l, nil
		}
	}
	return lv{}, fmt.Errorf("lvm: thin pool %s/%s: %w", d.cfg.VG, d.cfg.ThinPool, errdefs.ErrNotFound)
}

// Names and tags of logical volumes.
const (
	volumePrefix   = "dp-volume-"
	snapshotPrefix = "dp-snapshot-"
	copyPrefix     = "dp-copy-" // what a volume in use held when a linear copy of it began: LVM's own snapshot, gone when the copy is there
	tagVolume      = "dewpoint.volume"
	tagSnapshot    = "dewpoint.snapshot"
	tagCopy        = "dewpoint.copy"
	tagNew         = "dewpoint.new"
	tagOf          = "dewpoint.of."   // with a volume's id
	tagZero        = "dewpoint.zero." // with the byte from which zeros are to be written
)

// entry is a logical volume of ours.
type entry struct {
	volume.Info
	lv
	made bool  // all of it is there
	zero int64 // zeros are still to be written from here; 0: no
}

// open tells whether somebody has it open, and may write to it.
func (e entry) open() bool { return len(e.Attr) > 5 && e.Attr[5] == 'o' }

// parse returns what a logical volume is; not ok: none of ours.
func parse(l lv, gib int64) (e entry, ok bool) {
	e = entry{lv: l, made: !slices.Contains(l.Tags, tagNew)}
	e.SizeGiB = int(int64(l.Size) / gib)
	for _, tag := range l.Tags {
		if from, found := strings.CutPrefix(tag, tagZero); found {
			n, err := strconv.ParseInt(from, 10, 64)
			if err != nil || n < 0 || n > int64(l.Size) {
				return e, false
			}
			if e.zero = n; n > 0 {
				e.SizeGiB = int(n / gib)
			}
		}
		if of, found := strings.CutPrefix(tag, tagOf); found && check(of) == nil {
			e.Of = of
		}
	}
	if id, found := strings.CutPrefix(l.Name, copyPrefix); found {
		e.ID, e.made = l.Name, false
		return e, check(id) == nil && slices.Contains(l.Tags, tagCopy)
	}
	if id, found := strings.CutPrefix(l.Name, volumePrefix); found {
		e.ID = id
		return e, check(id) == nil && slices.Contains(l.Tags, tagVolume) && e.Of == ""
	}
	id, found := strings.CutPrefix(l.Name, snapshotPrefix)
	e.ID = id
	return e, found && check(id) == nil && slices.Contains(l.Tags, tagSnapshot) && e.Of != ""
}

func check(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fmt.Errorf("volume id %.40q is not a UUID in its 36-character form: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// look returns what is ours, and the names that are not.
func (d *Driver) look(ctx context.Context) (ours map[string]entry, foreign []string, err error) {
	all, err := d.all(ctx)
	if err != nil {
		return nil, nil, err
	}
	ours = map[string]entry{}
	for _, l := range all {
		if e, ok := parse(l, d.cfg.gib); ok {
			ours[e.ID] = e
		} else {
			foreign = append(foreign, l.Name)
		}
	}
	return ours, foreign, nil
}

// volume returns a volume that is whole.
func (d *Driver) volume(ctx context.Context, id string) (entry, error) {
	ours, _, err := d.look(ctx)
	if err != nil {
		return entry{}, err
	}
	e, ok := ours[id]
	if !ok || e.Of != "" || !e.made {
		return entry{}, fmt.Errorf("volume %s: %w", id, errdefs.ErrNotFound)
	}
	return e, nil
}

// call runs one call, alone with its ids.
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
	if err = do(); err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return ctx.Err()
	}
	return err
}

func (d *Driver) path(e lv) string { return filepath.Join(d.cfg.devDir, d.cfg.VG, e.Name) }

func (d *Driver) full(name string) string { return d.cfg.VG + "/" + name }

// Path implements volume.Driver.
func (d *Driver) Path(ctx context.Context, id string) (path string, err error) {
	err = d.call(ctx, func() error {
		e, err := d.volume(ctx, id)
		if err != nil {
			return err
		}
		if e.zero > 0 {
			return fmt.Errorf("volume %s: its extension is not finished, extend it again: %w", id, errdefs.ErrFailedPrecondition)
		}
		path = d.path(e.lv)
		return d.fits(e.lv)
	}, id)
	if err != nil {
		return "", err
	}
	return path, nil
}

// List implements volume.Driver.
func (d *Driver) List(ctx context.Context) (all []volume.Info, err error) {
	err = d.call(ctx, func() error {
		ours, _, err := d.look(ctx)
		for _, e := range ours {
			if e.made {
				all = append(all, e.Info)
			}
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
		total, free, err := d.space(ctx)
		s = volume.Stats{TotalGiB: int(total / d.cfg.gib), FreeGiB: int(max(0, free) / d.cfg.gib)}
		return err
	})
	if err != nil {
		return volume.Stats{}, err
	}
	return s, nil
}

// space returns how many bytes there are, and how many can still be given away.
func (d *Driver) space(ctx context.Context) (total, free int64, err error) {
	if d.cfg.ThinPool == "" {
		group, err := d.group(ctx)
		return int64(group.Size), int64(group.Free), err
	}
	all, err := d.all(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, l := range all {
		if l.Name == d.cfg.ThinPool {
			total += int64(l.Size)
		}
		if l.Pool == d.cfg.ThinPool {
			free -= int64(l.Size)
		}
	}
	return total, total + free, nil
}
