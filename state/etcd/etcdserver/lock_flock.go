//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package etcdserver

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
)

// exclusive locks a file until it is closed or the process is gone. etcd by itself would wait for the other.
func exclusive(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("it is in use by another process, or by another member in this one: %w", errdefs.ErrUnavailable)
	}
	return err
}
