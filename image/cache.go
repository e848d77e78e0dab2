package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
	"github.com/dewpoint-cloud/dewpoint/image/internal/ext4"
	"github.com/dewpoint-cloud/dewpoint/image/internal/qemuimg"
)

// CacheConfig says where a node keeps images and disks, and where it gets them from.
type CacheConfig struct {
	// Dir holds everything; it is made if it does not exist, its parent must. Required. It is for one cache at a time, on
	// one file system with hard links, and its place must not change while disks are in it: overlays name their base by
	// its absolute path.
	Dir string

	Source Source         // where content comes from. Required.
	Limits inspect.Limits // what an image may ask of this node; its zero values have defaults

	QemuImg string       // the program qemu-img. "": found in PATH
	Debugfs string       // the program debugfs of e2fsprogs, for disks with files of their own. "": found in PATH
	Prlimit string       // the program prlimit. "": found in PATH
	Logger  *slog.Logger // nil: silent
}

// Cache keeps the images that a node uses, once each, and makes the disks of its instances out of them.
//
//	bases/<sha256>.<format>           content, verified and inspected, read-only, made by one rename
//	instances/<id>/<sha256>.<format>  the same file (a hard link) for as long as the instance needs it
//	instances/<id>/disk.qcow2         the instance's disk: an overlay whose backing file is the link beside it
//	instances/<id>/disk.raw           or a copy of its own, if files were written into it
//	incoming/<any>                    what is being made, and what is being removed
//	lock                              held by the process that uses the directory
//
// Who uses a base is not counted anywhere: the file system does it. An overlay's backing file is the instance's own link,
// made before the overlay, so that no sweep, bug or second process can take the content away from under a disk, and a
// base without other links is unused. There is nothing to repair after a kill: each step is one system call that
// happened or did not, and every method may be repeated after a kill between any two.
//
// All methods are safe for concurrent use; calls for one instance wait for each other.
type Cache struct {
	cfg      CacheConfig
	dir      string // cfg.Dir, absolute
	root     *os.Root
	lock     *os.File
	incoming incoming
	overlays overlayMaker
	tools    diskTools
	writer   fileWriter
	fetching flights
	busy     keyLocks // by instance id
}

// overlayMaker is the one thing the cache asks of qemu-img.
type overlayMaker interface {
	CreateOverlay(ctx context.Context, path string, size int64, backing string, backingFormat inspect.Format) error
}

const (
	basesDir     = "bases"
	instancesDir = "instances"
	lockFile     = "lock"
)

// NewCache opens the cache in cfg.Dir and removes what was half made when its last process ended. A missing field is
// InvalidArgument; a directory that another cache has open is Unavailable. It starts nothing; [Cache.Close] releases
// the directory, and so does the end of the process.
//
// The directories can be entered but not listed, and bases read, by everyone on the host, because hypervisors that
// don't run as root must get at them.
func NewCache(cfg CacheConfig) (*Cache, error) {
	if cfg.Source == nil {
		return nil, fmt.Errorf("image cache: Source is nil, must be set: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	root, err := openDir(cfg.Dir, 0o711, basesDir, instancesDir, incomingDir)
	if err != nil {
		return nil, err
	}
	c := &Cache{cfg: cfg, root: root, incoming: incoming{root, incomingDir}}
	programs := qemuimg.New(qemuimg.Config{QemuImg: cfg.QemuImg, Prlimit: cfg.Prlimit, Logger: cfg.Logger})
	c.overlays, c.tools = programs, programs
	c.writer = ext4.New(ext4.Config{Debugfs: cfg.Debugfs, Prlimit: cfg.Prlimit, Logger: cfg.Logger})
	if c.dir, err = filepath.Abs(cfg.Dir); err == nil {
		err = c.takeLock()
	}
	if err == nil {
		err = c.incoming.cleanAfterDead()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cache) takeLock() error {
	f, err := c.root.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	c.lock = f
	for begun := time.Now(); ; time.Sleep(pollDead) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if time.Since(begun) > forDead {
			return fmt.Errorf("image cache: directory %s is in use by another process or cache: %w", c.dir, errdefs.ErrUnavailable)
		}
	}
}

// Close ends downloads, waits until they have ended, and releases the directory. No other method may be called after
// it or be under way. A second Close does nothing.
func (c *Cache) Close() error {
	c.fetching.close()
	var err error
	if c.lock != nil {
		if err = c.lock.Close(); errors.Is(err, os.ErrClosed) {
			err = nil
		}
	}
	return errors.Join(err, c.root.Close())
}
