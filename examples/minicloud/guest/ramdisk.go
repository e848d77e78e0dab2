package guest

import (
	"compress/gzip"
	"context"
	"embed"
	"fmt"
	"os"

	"github.com/dewpoint-cloud/dewpoint/internal/initramfs"
)

// root holds the guest's own programs.
//
//go:embed root
var root embed.FS

// applets are the programs of busybox that the guest's scripts use.
var applets = []string{"cat", "dd", "echo", "hostname", "insmod", "ip", "kill", "mkdir", "mke2fs", "mount", "ping", "poweroff", "rm", "sh",
	"sleep", "sync", "tr", "udhcpc", "umount"}

// scripts are the guest's own programs: where they are in root, and in the guest.
var scripts = [][2]string{{"init", "/init"}, {"lease", "/bin/lease"}, {"peers", "/bin/peers"}, {"about", "/bin/about"}, {"volumes", "/bin/volumes"}}

// script is the text of a program of the guest's own.
func script(name string) []byte {
	content, err := root.ReadFile("root/" + name)
	if err != nil {
		panic(err) // it is embedded above
	}
	return content
}

// writeRamdisk writes the initial ramdisk to file.
func writeRamdisk(ctx context.Context, file, busybox string, modules []string) error {
	archive, err := content(ctx, busybox, modules)
	if err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	packed := gzip.NewWriter(f)
	err = archive.Write(packed)
	for _, finish := range []func() error{packed.Close, f.Sync, f.Close} {
		if ferr := finish(); err == nil {
			err = ferr
		}
	}
	if err != nil {
		return fmt.Errorf("guest: writing %s: %w", file, err)
	}
	return nil
}

// content is that of the ramdisk.
func content(ctx context.Context, busybox string, modules []string) (*initramfs.Archive, error) {
	a := initramfs.NewArchive()
	for _, dir := range []string{"/etc", "/proc", "/run", "/sys"} {
		a.Dir(dir)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	a.File("/bin/busybox", 0o755, program)
	for _, applet := range applets {
		a.Link("/bin/"+applet, "busybox")
	}
	for _, s := range scripts {
		a.File(s[1], 0o755, script(s[0]))
	}
	return a, a.Modules(ctx, modules)
}
