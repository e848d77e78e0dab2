package lvm

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// zeroOut has the kernel write zeros, which a device may do by itself.
func zeroOut(w *os.File, offset, n int64) error {
	err := unix.Fallocate(int(w.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, offset, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENODEV) {
		return errors.ErrUnsupported
	}
	return err
}
