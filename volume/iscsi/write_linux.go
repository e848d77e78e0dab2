package iscsi

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const canWriteSome = true

// writeSome writes parts to a connection, as much as it takes at once. Nothing taken is 0 without an error.
func writeSome(raw syscall.RawConn, parts [][]byte) (n int, err error) {
	outer := raw.Write(func(fd uintptr) bool {
		if len(parts) == 1 {
			n, err = unix.Write(int(fd), parts[0])
		} else {
			n, err = unix.Writev(int(fd), parts)
		}
		return true
	})
	if outer != nil {
		return 0, outer
	}
	if err == unix.EAGAIN || err == unix.EINTR {
		return max(n, 0), nil
	}
	return max(n, 0), err
}
