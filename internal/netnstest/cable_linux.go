package netnstest

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Cable gives a guest a card that is joined to a tap of a node, as a virtual machine is: what the guest's kernel sends on the card
// comes in by the tap, and the other way round. The card, which is down, has the name card, and is gone when the test ends;
// the tap exists, and stays.
func Cable(t testing.TB, node *NS, tap string, guest *NS, card string) {
	t.Helper()
	plug := func(ns *NS, name string) *os.File {
		var f *os.File
		if err := ns.Do(func() (err error) { f, err = openTap(name); return err }); err != nil {
			t.Fatalf("netnstest: tap %s: %v", name, err)
		}
		return f
	}
	ends := [2]*os.File{plug(node, tap), plug(guest, card)}
	var carrying sync.WaitGroup
	for i := range ends {
		carrying.Go(func() {
			frame := make([]byte, 64<<10)
			for {
				n, err := ends[i].Read(frame)
				if err != nil {
					return // closed, or the tap is gone
				}
				_, _ = ends[1-i].Write(frame[:n]) // what a card that is down does not take is lost
			}
		})
	}
	t.Cleanup(func() {
		for _, f := range ends {
			_ = f.Close()
		}
		carrying.Wait()
	})
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("TUNSETIFF: %w", err)
	}
	return os.NewFile(uintptr(fd), "tap "+name), nil
}
