// Package testguest makes guests for tests: a kernel, and a ramdisk with a script of busybox's shell.
package testguest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/dewpoint-cloud/dewpoint/internal/initramfs"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// Cmdline is the command line of a guest's kernel.
const Cmdline = "console=ttyS0 panic=-1 quiet cryptomgr.notests no_timer_check"

// MemoryMiB is what a guest needs.
const MemoryMiB = 512

// Ramdisk makes that of a guest that runs a script of busybox's shell, and has these modules, in the order of /lib/modules/order, and programs. What
// the machine lacks is [testneed.Missing].
func Ramdisk(t testing.TB, dir, script string, modules []string, programs ...string) (kernel, ramdisk string) {
	t.Helper()
	k, err := initramfs.NewestKernel("/")
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	busybox, err := initramfs.Busybox("/")
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	files, err := k.Modules(modules)
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	ramdisk = filepath.Join(dir, "ramdisk")
	if err := write(t.Context(), ramdisk, script, busybox, files, programs); err != nil {
		t.Fatalf("testguest: %v", err)
	}
	return k.Image, ramdisk
}

func write(ctx context.Context, file, script, busybox string, modules, programs []string) error {
	shell, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	a := initramfs.NewArchive()
	for _, dir := range []string{"/proc", "/sys", "/tmp", "/mnt"} {
		a.Dir(dir)
	}
	a.File("/bin/busybox", 0o755, shell)
	a.File("/init", 0o755, []byte(script))
	for _, program := range programs {
		if err := a.Program(program); err != nil {
			return err
		}
	}
	if err := a.Modules(ctx, modules); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := a.Write(f); err != nil {
		return err
	}
	return f.Close()
}
