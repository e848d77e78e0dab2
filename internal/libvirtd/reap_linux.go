package libvirtd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Reap runs a command and adopts all processes that it leaves behind (PR_SET_CHILD_SUBREAPER, prctl(2)), reaps them as they
// end, and returns when the last has ended. It is the whole of a program that [Config] names as Reaper, say
//
//	if len(os.Args) > 2 && os.Args[1] == "reap" {
//		err = libvirtd.Reap(os.Args[2:])
//	}
//
// It reaps all children of the process, and outlives the usual signals to end: what it takes care of is ended instead.
func Reap(argv []string) error {
	if len(argv) == 0 {
		return errors.New("libvirtd: no command to run")
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("libvirtd: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("libvirtd: becoming a subreaper: %w", err)
	}
	// Caught and dropped, not ignored: what is ignored would be so in the command, too.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if _, err := os.StartProcess(path, argv, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}); err != nil {
		return fmt.Errorf("libvirtd: %w", err)
	}
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("libvirtd: waiting: %w", err)
		}
	}
}
