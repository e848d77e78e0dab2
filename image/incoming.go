package image

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// incoming is a directory for files that are being made. Each is locked by the process that makes it, with flock(2),
// for as long as it is open, so that anyone can tell what a process that was killed left behind: the kernel unlocks it.
// A file leaves by being renamed to where it belongs.
type incoming struct {
	root *os.Root
	dir  string
}

// create makes a new, locked file with a name that was never used, and returns it with its path within the root. The
// caller closes it, and renames or removes it before.
func (in incoming) create() (*os.File, string, error) {
	for {
		name := path.Join(in.dir, rand.Text())
		f, err := in.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return nil, "", diskError(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, "", errors.Join(err, f.Close(), in.root.Remove(name))
		}
		// Between the two calls above, a clean may have taken the file for a leftover.
		if in.is(name, f) {
			return f, name, nil
		}
		f.Close()
	}
}

func (in incoming) is(name string, f *os.File) bool {
	byName, err := in.root.Lstat(name)
	if err != nil {
		return false
	}
	byFile, err := f.Stat()
	return err == nil && os.SameFile(byName, byFile)
}

// A process that is killed while it starts another leaves a child with all its locks, for the milliseconds until that
// is killed too or becomes the other program. Who opens a directory waits so long for locks to go, and looks so often.
const (
	forDead  = 500 * time.Millisecond
	pollDead = 2 * time.Millisecond
)

// cleanAfterDead cleans until nothing is left, or what is left seems to be in living hands.
func (in incoming) cleanAfterDead() error {
	for begun := time.Now(); ; time.Sleep(pollDead) {
		_, left, err := in.clean()
		if err != nil || left == 0 || time.Since(begun) > forDead {
			return err
		}
	}
}

// clean removes what nobody is making any more, and returns how many files and directories that were, and how many
// files are being made.
func (in incoming) clean() (removed, left int, err error) {
	entries, err := fs.ReadDir(in.root.FS(), in.dir)
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		name := path.Join(in.dir, e.Name())
		if e.IsDir() { // a directory comes here only to be removed
			if err := in.root.RemoveAll(name); err != nil {
				return removed, left, err
			}
			removed++
			continue
		}
		ok, err := in.removeUnlocked(name)
		if err != nil {
			return removed, left, err
		}
		if ok {
			removed++
		} else {
			left++
		}
	}
	return removed, left, nil
}

func (in incoming) removeUnlocked(name string) (bool, error) {
	f, err := in.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return false, nil // somebody is making it
	}
	if !in.is(name, f) {
		return false, nil // it has left meanwhile
	}
	if err := in.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}
