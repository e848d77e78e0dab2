package initramfs

import (
	"debug/elf"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
)

// Busybox finds the busybox that needs no library, in the tree of a machine.
func Busybox(root string) (string, error) {
	for _, dir := range []string{"bin", "usr/bin", "sbin", "usr/sbin"} {
		file := filepath.Join(root, dir, "busybox")
		if Static(file) {
			return file, nil
		}
	}
	return "", fmt.Errorf("no statically linked busybox in %s: install busybox-static: %w", root, errdefs.ErrFailedPrecondition)
}

// Static tells whether a file is a program that needs no library.
func Static(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}
