package dhcp

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// flush puts a file's bytes on disk. Its size does not change, so that there is nothing else to put there.
func flush(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// takeLock holds a file until it is closed, or the process ends.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another server has %s: %w", path, err)
	}
	return f, nil
}
