//go:build unix

package bolt

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// lock takes the lock that bbolt takes too, before the file is checked. It goes with the file's descriptor.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("the file is in use, by another process or by another log in this one: %w", errdefs.ErrUnavailable)
	}
	return err
}
