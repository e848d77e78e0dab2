package netns

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f in the network namespace at path, and returns its error; with "" it runs f where it is called. Sockets that f opens,
// and programs that it starts, belong to the namespace; goroutines that it starts don't. A path that can't be opened and
// one that is no network namespace are errors, and f did not run.
func Do(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return OnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// OnThread runs f on a thread that nobody else gets afterwards, whatever f did to it. The process's first thread can't end,
// and /proc/self speaks of it: f gets another.
func OnThread(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			ended <- OnThread(f)
			runtime.UnlockOSThread()
			return
		}
		ended <- f()
	}()
	return <-ended
}
