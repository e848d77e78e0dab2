package initramfs

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Has tells whether the kernel has a module, built in or not.
func (k *Kernel) Has(name string) bool { return k.builtin[name] || k.files[name] != "" }

// Modules are the files of modules and of all that they need, in an order in which they can be loaded, without what is built in.
func (k *Kernel) Modules(names []string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] || k.builtin[name] {
			return nil
		}
		seen[name] = true
		for _, dep := range k.deps[name] {
			if err := add(dep); err != nil {
				return err
			}
		}
		file, ok := k.files[name]
		if !ok {
			return fmt.Errorf("the kernel %s has no module %s: install %s: %w", k.Release, name, kernelPackage(),
				errdefs.ErrFailedPrecondition)
		}
		files = append(files, filepath.Join(k.dir, file))
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Modules puts the files of modules into the archive, as /lib/modules/NAME.ko, and their names in /lib/modules/order, a line each.
func (a *Archive) Modules(ctx context.Context, files []string) error {
	var order strings.Builder
	for _, file := range files {
		content, err := unpacked(ctx, file)
		if err != nil {
			return err
		}
		name := moduleName(file) + ".ko"
		a.File("/lib/modules/"+name, 0o644, content)
		order.WriteString(name + "\n")
	}
	a.File("/lib/modules/order", 0o644, []byte(order.String()))
	return nil
}

// moduleName is what the kernel calls the module of a file: kernel/net/virtio-rng.ko.xz is virtio_rng.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// unpacked reads the file of a module, which the distributions compress in three ways or not at all.
func unpacked(ctx context.Context, file string) ([]byte, error) {
	var tool []string
	switch filepath.Ext(file) {
	case ".ko":
		return os.ReadFile(file)
	case ".gz":
		return gunzip(file)
	case ".xz":
		tool = []string{"xz", "-dc", file}
	case ".zst":
		tool = []string{"zstd", "-dcq", file}
	default:
		return nil, fmt.Errorf("the module %s is packed in an unknown way: %w", file, errdefs.ErrNotImplemented)
	}
	if _, err := exec.LookPath(tool[0]); err != nil {
		return nil, fmt.Errorf("the module %s is packed: install %s: %w", file, map[string]string{"xz": "xz-utils",
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
		return nil, fmt.Errorf("unpacking %s: %s: %w", file, bytes.TrimSpace(complaint.Bytes()), err)
	}
	return content, nil
}

func gunzip(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", file, err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", file, err)
	}
	return content, nil
}
