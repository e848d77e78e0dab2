package image

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"

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

// clean removes what nobody is making any more, and returns how many files and directories that were.
func (in incoming) clean() (int, error) {
	entries, err := fs.ReadDir(in.root.FS(), in.dir)
	if err != nil {
		return 0, err
	}
	removed := 0
	for _, e := range entries {
		name := path.Join(in.dir, e.Name())
		if e.IsDir() { // a directory comes here only to be removed
			if err := in.root.RemoveAll(name); err != nil {
				return removed, err
			}
			removed++
			continue
		}
		ok, err := in.removeUnlocked(name)
		if err != nil {
			return removed, err
		}
		if ok {
			removed++
		}
	}
	return removed, nil
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
