package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// root holds the guest's own programs.
//
//go:embed root
var root embed.FS

// scripts are the guest's own programs, with the paths that they have in it.
func scripts() []entry {
	script := func(source, target string) entry {
		content, err := fs.ReadFile(root, "root/"+source)
		if err != nil {
			panic(err) // it is embedded above
		}
		return entry{name: target, mode: modeFile | 0o755, content: content}
	}
	return []entry{script("init", "init"), script("lease", "bin/lease"), script("peers", "bin/peers"),
		script("about", "bin/about"), script("volumes", "bin/volumes")}
}

// writeRamdisk writes the initial ramdisk to file.
func writeRamdisk(ctx context.Context, file, busybox string, modules []string) error {
	entries, err := tree(ctx, busybox, modules)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	packed := gzip.NewWriter(f)
	err = writeArchive(packed, entries)
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

// tree is the content of the ramdisk, directories before what is in them.
func tree(ctx context.Context, busybox string, modules []string) ([]entry, error) {
	var entries []entry
	for _, dir := range []string{"bin", "dev", "etc", "lib", "lib/modules", "proc", "run", "sys"} {
		entries = append(entries, entry{name: dir, mode: modeDir | 0o755})
	}
	// The kernel opens it for the first program, before that can mount anything.
	entries = append(entries, entry{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1})

	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("guest: %w", err)
	}
	entries = append(entries, entry{name: "bin/busybox", mode: modeFile | 0o755, content: program})
	for _, applet := range applets {
		entries = append(entries, entry{name: "bin/" + applet, mode: modeLink | 0o777, content: []byte("busybox")})
	}
	entries = append(entries, scripts()...)

	var order strings.Builder
	for _, module := range modules {
		content, err := unpacked(ctx, module)
		if err != nil {
			return nil, err
		}
		name := moduleName(module) + ".ko"
		entries = append(entries, entry{name: path.Join("lib/modules", name), mode: modeFile | 0o644, content: content})
		order.WriteString(name + "\n")
	}
	return append(entries, entry{name: "lib/modules/order", mode: modeFile | 0o644, content: []byte(order.String())}), nil
}

// unpacked reads the file of a module, which the distributions compress in three ways or not at all.
func unpacked(ctx context.Context, file string) ([]byte, error) {
	var tool []string
	switch filepath.Ext(file) {
	case ".ko":
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("guest: %w", err)
		}
		return content, nil
	case ".gz":
		return gunzip(file)
	case ".xz":
		tool = []string{"xz", "-dc", file}
	case ".zst":
		tool = []string{"zstd", "-dcq", file}
	default:
		return nil, fmt.Errorf("guest: module %s is packed in an unknown way: %w", file, errdefs.ErrNotImplemented)
	}
	if _, err := exec.LookPath(tool[0]); err != nil {
		return nil, fmt.Errorf("guest: module %s is packed: install %s: %w", file, map[string]string{"xz": "xz-utils",
			"zstd": "zstd"}[tool[0]], errdefs.ErrFailedPrecondition)
	}
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, tool[0], tool[1:]...)
	cmd.Stderr = &complaint
	content, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("guest: unpacking %s: %s: %w", file, bytes.TrimSpace(complaint.Bytes()), err)
	}
	return content, nil
}

func gunzip(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("guest: %w", err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("guest: unpacking %s: %w", file, err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("guest: unpacking %s: %w", file, err)
	}
	return content, nil
}
