package nodevm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is an installed kernel with its modules.
type kernel struct {
	image   string
	dir     string            // of the modules
	files   map[string]string // of each module, the file
	deps    map[string][]string
	builtin map[string]bool
}

var errNoKernel = errors.New("no kernel with its modules in /boot and /lib/modules: install linux-image-cloud-amd64")

// findKernel takes one of those made for clouds, which start fastest, else any.
func findKernel() (*kernel, error) {
	images, err := filepath.Glob("/boot/vmlinuz-*")
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(images, func(a, b string) int {
		return strings.Count(b, "-cloud-") - strings.Count(a, "-cloud-")
	})
	for _, image := range images {
		k := &kernel{image: image, dir: "/lib/modules/" + strings.TrimPrefix(image, "/boot/vmlinuz-"),
			files: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
		list, err := os.ReadFile(k.dir + "/modules.dep")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(list)) {
			file, deps, _ := strings.Cut(line, ":")
			name := moduleName(file)
			k.files[name] = file
			for _, dep := range strings.Fields(deps) {
				k.deps[name] = append(k.deps[name], moduleName(dep))
			}
		}
		built, err := os.ReadFile(k.dir + "/modules.builtin")
		if err != nil {
			return nil, err
		}
		for _, file := range strings.Fields(string(built)) {
			k.builtin[moduleName(file)] = true
		}
		return k, nil
	}
	return nil, errNoKernel
}

// moduleName is what the kernel calls the module of a file: kernel/net/virtio-rng.ko.xz is virtio_rng.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// modules puts modules into the archive with all that they need, and the order to load them in.
func (k *kernel) modules(a *archive, names []string) error {
	var order strings.Builder
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] || k.builtin[name] {
			return nil
		}
		seen[name] = true
		file, there := k.files[name]
		if !there {
			return fmt.Errorf("the kernel %s has no module %s", k.image, name)
		}
		for _, dep := range k.deps[name] {
			if err := add(dep); err != nil {
				return err
			}
		}
		content, err := unpacked(filepath.Join(k.dir, file))
		if err != nil {
			return err
		}
		a.add("/lib/modules/"+name+".ko", content)
		order.WriteString(name + "\n")
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return err
		}
	}
	a.add("/lib/modules/order", []byte(order.String()))
	return nil
}

// unpacked reads the file of a module, which distributions pack in several ways.
func unpacked(file string) ([]byte, error) {
	tool := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(file)]
	if tool == "" {
		return os.ReadFile(file)
	}
	content, err := exec.Command(tool, "-dc", file).Output()
	if err != nil {
		return nil, fmt.Errorf("unpacking %s with %s: %w", file, tool, err)
	}
	return content, nil
}
