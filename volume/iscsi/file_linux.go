package iscsi

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Sync has all that was written reach stable storage, with fdatasync.
func (s *File) Sync() error {
	return s.control(func(fd int) error { return unix.Fdatasync(fd) })
}

func (s *File) control(f func(fd int) error) error {
	raw, err := s.f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) {
		for {
			if inner = f(int(fd)); inner != unix.EINTR {
				return
			}
		}
	}); err != nil {
		return err
	}
	return inner
}

// punch makes a hole in a file, or discards blocks of a device so that they read as zeros; where a device can't do that the
// kernel writes zeros.
func (s *File) punch(offset, length int64) error {
	return s.control(func(fd int) error {
		err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
		if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
			err = unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
		}
		if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
			return errors.ErrUnsupported
		}
		return err
	})
}

// Mapped tells whether there is data at an offset, and for how many bytes from there that is so. A device that can't tell has data
// everywhere.
func (s *File) Mapped(offset int64) (mapped bool, length int64, err error) {
	size, err := s.Size()
	if err != nil {
		return false, 0, err
	}
	err = s.control(func(fd int) error {
		data, err := unix.Seek(fd, offset, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO:
			mapped, length = false, size-offset
			return nil
		case err == unix.EINVAL:
			mapped, length = true, size-offset
			return nil
		case err != nil:
			return err
		case data > offset:
			mapped, length = false, data-offset
			return nil
		}
		hole, err := unix.Seek(fd, offset, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		mapped, length = true, hole-offset
		return nil
	})
	return mapped, length, err
}
