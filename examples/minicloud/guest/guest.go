// Package guest makes the machine that minicloud boots: a kernel, an initial ramdisk and a disk, out of nothing but the
// kernel and busybox packages that are installed on this machine.
//
// The ramdisk is the whole system: one static busybox, the few modules a virtual machine needs, and four scripts (see
// root/). The guest tells its story on the serial console, one line each:
//
//	dewpoint: booted after 1.41 s
//	dewpoint: disk 64 MiB boot 1
//	dewpoint: address 10.0.0.2/24 gateway 10.0.0.1 lease 3600 mtu 1500 dns 10.0.0.1 hostname mini-1
//	dewpoint: ping 10.0.0.3 ok
//	dewpoint: metadata hostname mini-1.novalocal
//	dewpoint: power button, going down
//
// It keeps its lease renewed, pings the first addresses of its subnet until each has answered once, asks the cloud for its
// name, counts its boots on its disk, and goes down when its power button is pressed.
package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/internal/initramfs"
)

// Config says where the guest is made and of what.
type Config struct {
	// Dir keeps the files; it is made if it is not there. Required. Each distinct guest has a directory of its own in it, and
	// none is ever changed or removed, so that what is being read stays.
	Dir string

	Peers  int          // how many addresses of its subnet the guest pings, from the first; 0: 8
	Logger *slog.Logger // nil: silent

	root string // of the tree in which the packages are installed; "": /
}

// Files is a guest ready to be registered as images.
type Files struct {
	Kernel     string // path of the kernel
	Ramdisk    string // path of the initial ramdisk: a gzip-compressed cpio archive
	Disk       string // path of the machine's disk
	DiskFormat string // "raw"
	Cmdline    string // the kernel's command line
}

// Build makes the guest, or finds it made: while the kernel and busybox packages stay the same, only the first call with
// a Dir works, within a second, and later ones return at once. Several may run with the same Dir, in several processes too;
// one killed leaves only a temporary directory in Dir.
//
// A missing package is FailedPrecondition, and the error says what to install.
func Build(ctx context.Context, cfg Config) (Files, error) {
	if cfg.Dir == "" {
		return Files{}, fmt.Errorf("guest: Config.Dir is empty: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Peers < 0 {
		return Files{}, fmt.Errorf("guest: Config.Peers is %d, must not be negative: %w", cfg.Peers, errdefs.ErrInvalidArgument)
	}
	if cfg.Peers == 0 {
		cfg.Peers = 8
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.root == "" {
		cfg.root = "/"
	}
	kernel, err := initramfs.NewestKernel(cfg.root)
	if err != nil {
		return Files{}, fmt.Errorf("guest: %w", err)
	}
	modules, err := modules(kernel)
	if err != nil {
		return Files{}, fmt.Errorf("guest: %w", err)
	}
	busybox, err := initramfs.Busybox(cfg.root)
	if err != nil {
		return Files{}, fmt.Errorf("guest: %w", err)
	}
	key, err := fingerprint(append([]string{kernel.Image, busybox}, modules...))
	if err != nil {
		return Files{}, err
	}
	dir := filepath.Join(cfg.Dir, key)
	files := Files{
		Kernel:     kernel.Image,
		Ramdisk:    filepath.Join(dir, "ramdisk.cpio.gz"),
		Disk:       filepath.Join(dir, "disk.raw"),
		DiskFormat: "raw",
		Cmdline:    cmdline(cfg.Peers),
	}
	if _, err := os.Stat(dir); err == nil {
		return files, nil
	}
	start := time.Now()
	if err := build(ctx, dir, busybox, modules); err != nil {
		return Files{}, err
	}
	cfg.Logger.Info("guest built", "kernel", kernel.Release, "dir", dir, "took", time.Since(start).Round(time.Millisecond))
	return files, nil
}

// build makes dir with the ramdisk and the disk in it, whole or not at all.
func build(ctx context.Context, dir, busybox string, modules []string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".building-")
	if err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil { // the hypervisor may be another user
		return fmt.Errorf("guest: %w", err)
	}
	if err := writeRamdisk(ctx, filepath.Join(tmp, "ramdisk.cpio.gz"), busybox, modules); err != nil {
		return err
	}
	if err := writeDisk(filepath.Join(tmp, "disk.raw")); err != nil {
		return err
	}
	err = os.Rename(tmp, dir)
	if errors.Is(err, fs.ErrExist) { // another process was faster, and made the same
		return nil
	}
	if err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	return nil
}

// cmdline is the kernel's command line: the console, and what saves a third of a second where instructions are emulated.
func cmdline(peers int) string {
	console := "ttyS0"
	if runtime.GOARCH == "arm64" {
		console = "ttyAMA0"
	}
	return fmt.Sprintf("console=%s quiet no_timer_check cryptomgr.notests i8042.noaux i8042.nokbd nomodeset dewpoint.peers=%d",
		console, peers)
}

// fingerprint changes when the ramdisk made of these files would: with their paths, sizes and times, with the scripts, and
// with this program's way to pack them.
func fingerprint(paths []string) (string, error) {
	const layout = "2" // to be raised with each change to how the ramdisk or the disk is written
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%q", layout, applets)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("guest: %w", err)
		}
		fmt.Fprintf(h, "\x00%s\x00%d\x00%d", path, info.Size(), info.ModTime().UnixNano())
	}
	for _, s := range scripts {
		fmt.Fprintf(h, "\x00%s\x00%s", s[1], script(s[0]))
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
