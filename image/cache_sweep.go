package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// Release removes the disk and all files of an instance, which must not run any more, at once and for good. An unknown
// instance is success. The bases stay until a sweep.
func (c *Cache) Release(ctx context.Context, instanceID string) error {
	if err := checkName("id of an instance", instanceID); err != nil {
		return err
	}
	unlock, err := c.busy.lock(ctx, instanceID)
	if err != nil {
		return err
	}
	defer unlock()
	// One rename takes the instance out of List and its files out of all paths; the removal, file by file, follows,
	// now or, after a kill, with the next clean.
	gone := path.Join(incomingDir, rand.Text())
	err = c.root.Rename(path.Join(instancesDir, instanceID), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := syncDir(c.root, instancesDir); err != nil {
		return err
	}
	return c.root.RemoveAll(gone)
}

// List returns the ids of the instances that have files here, in the order of their names: those with a disk, and
// those whose disk was being made when a process was killed. What of them nobody owns is for [Cache.Release].
func (c *Cache) List(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(c.root.FS(), instancesDir)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// Swept is what a sweep removed.
type Swept struct {
	Bases     int   // images that no instance used
	Bytes     int64 // their size
	Leftovers int   // things that were half made, or half removed, by a process that was killed
}

// Sweep removes the bases that no instance has used for at least unusedFor, and leftovers. It may run at any time
// beside any other method: an instance that takes a base at the very moment keeps it, whoever comes first.
func (c *Cache) Sweep(ctx context.Context, unusedFor time.Duration) (Swept, error) {
	var swept Swept
	var err error
	if swept.Leftovers, _, err = c.incoming.clean(); err != nil {
		return swept, fmt.Errorf("removing leftovers of the image cache: %w", err)
	}
	entries, err := fs.ReadDir(c.root.FS(), basesDir)
	if err != nil {
		return swept, err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return swept, err
		}
		name := path.Join(basesDir, e.Name())
		unused, size, err := c.unused(name, unusedFor)
		if err != nil {
			return swept, err
		}
		if !unused {
			continue
		}
		if err := c.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return swept, err
		}
		swept.Bases++
		swept.Bytes += size
	}
	if swept != (Swept{}) {
		c.cfg.Logger.InfoContext(ctx, "image cache swept", "bases", swept.Bases, "bytes", swept.Bytes, "leftovers", swept.Leftovers)
	}
	return swept, nil
}

// unused tells whether a base has no link but its own, and has had none for some time, and how large it is. The kernel
// sets the change time when the number of links changes: when an instance took the base, or gave it up.
func (c *Cache) unused(name string, atLeast time.Duration) (bool, int64, error) {
	f, err := c.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, 0, err
	}
	return st.Nlink == 1 && time.Since(time.Unix(st.Ctim.Unix())) >= atLeast, st.Size, nil
}
