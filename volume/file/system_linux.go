package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// share has one file share the blocks of another, as it is now; not shared: the file system can't.
func share(to, from *os.File) (shared bool, err error) {
	err = unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	for _, no := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL, unix.ENOSYS} {
		if errors.Is(err, no) {
			return false, nil
		}
	}
	return err == nil, err
}

// copyData copies what is not a hole.
func copyData(ctx context.Context, to, from *os.File) error {
	for offset := int64(0); ; {
		start, err := from.Seek(offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no data from here to the end
			return nil
		}
		if err != nil {
			return err
		}
		end, err := from.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(ctx, to, from, start, end); err != nil {
			return err
		}
		offset = end
	}
}

// allocated returns how many bytes of the medium a file has.
func allocated(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return 0
}

// statfs returns how many bytes a file system has, and how many of them can be had.
func statfs(dir *os.File) (total, available int64, err error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Blocks) * s.Frsize, int64(s.Bavail) * s.Frsize, nil
}
