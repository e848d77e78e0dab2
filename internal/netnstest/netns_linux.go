package netnstest

import (
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	own "github.com/dewpoint-cloud/dewpoint/internal/netns"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// NS is a network namespace of a test.
type NS struct {
	handle netns.NsHandle
}

// New makes a namespace in which only the loopback device is, and up. It is gone when the test ends. It needs root.
func New(t testing.TB) *NS {
	t.Helper()
	testneed.Root(t)
	ns := &NS{handle: netns.None()}
	if err := own.OnThread(func() (err error) {
		ns.handle, err = netns.New()
		return err
	}); err != nil {
		t.Fatalf("netnstest: no new network namespace: %v", err)
	}
	t.Cleanup(func() { _ = ns.handle.Close() })
	if err := ns.Do(loopbackUp); err != nil {
		t.Fatalf("netnstest: loopback: %v", err)
	}
	return ns
}

// FD returns the file descriptor that holds the namespace, for sockets that take one.
func (ns *NS) FD() int { return int(ns.handle) }

// Path returns a path of the namespace that other processes can open too, while this one lives.
func (ns *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()) }

// Do runs f on a thread of its own in the namespace. Sockets that f opens, and programs that it starts, belong to the
// namespace; goroutines that it starts don't.
func (ns *NS) Do(f func() error) error {
	return own.OnThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return err
		}
		return f()
	})
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
