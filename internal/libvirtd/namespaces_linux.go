package libvirtd

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netns"
)

// inNamespaces calls start in a mount namespace in which cfg's directories lie over libvirt's own, and in cfg's network
// namespace. What start forks stays there. It runs on a thread of its own that ends afterwards: a thread can't come back
// from a mount namespace.
func inNamespaces(cfg Config, start func() error) error {
	return netns.OnThread(func() error {
		if err := enter(cfg); err != nil {
			return err
		}
		return start()
	})
}

func enter(cfg Config) error {
	if cfg.NetNS != "" {
		ns, err := os.Open(cfg.NetNS)
		if err != nil {
			return fmt.Errorf("network namespace: %w", err)
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network namespace %s: %w", cfg.NetNS, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	for _, bind := range [][2]string{
		{filepath.Join(cfg.Dir, "etc"), "/etc/libvirt"},
		{filepath.Join(cfg.Dir, "lib"), "/var/lib/libvirt"},
		{filepath.Join(cfg.Dir, "log"), "/var/log/libvirt"},
		{filepath.Join(cfg.Dir, "run"), "/run/libvirt"},
		{cfg.CacheDir, "/var/cache/libvirt"},
	} {
		if err := os.MkdirAll(bind[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(bind[0], bind[1], "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s over %s: %w", bind[0], bind[1], err)
		}
	}
	if cfg.NetNS != "" { // /sys shows the interfaces of the namespace that it was mounted in
		if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			return fmt.Errorf("sysfs: %w", err)
		}
	}
	return nil
}
