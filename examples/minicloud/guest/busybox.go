package guest

import (
	"debug/elf"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
)

// applets are the programs of busybox that the guest's scripts use.
var applets = []string{"cat", "dd", "echo", "hostname", "insmod", "ip", "kill", "mkdir", "mke2fs", "mount", "ping", "poweroff", "rm", "sh",
	"sleep", "sync", "tr", "udhcpc", "umount"}

// findBusybox finds the busybox that needs no library.
func findBusybox(root string) (string, error) {
	for _, dir := range []string{"bin", "usr/bin", "sbin", "usr/sbin"} {
		path := filepath.Join(root, dir, "busybox")
		if static(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("guest: no statically linked busybox in %s: install busybox-static: %w", root,
		errdefs.ErrFailedPrecondition)
}

// static tells whether path is a program that runs without a dynamic loader.
func static(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}
