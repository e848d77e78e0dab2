package initramfs

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Kernel is an installed kernel with its modules.
type Kernel struct {
	Image   string            // its file
	Release string            // "6.1.0-56-cloud-amd64"
	dir     string            // of the modules
	files   map[string]string // of each module, the file
	deps    map[string][]string
	builtin map[string]bool
}

// NewestKernel finds the kernel to boot, in the tree of a machine: the newest of those made for clouds, which start fastest, else the newest.
func NewestKernel(root string) (*Kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(images, func(a, b string) int {
		if ca, cb := strings.Contains(a, "-cloud-"), strings.Contains(b, "-cloud-"); ca != cb {
			if ca {
				return -1
			}
			return 1
		}
		return -compareReleases(a, b)
	})
	for _, image := range images {
		release := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		dir := filepath.Join(root, "lib", "modules", release)
		if _, err := os.Stat(filepath.Join(dir, "modules.dep")); err == nil {
			f, err := os.Open(image) // some distributions let only root read it
			if err != nil {
				return nil, err
			}
			f.Close()
			return readKernel(image, release, dir)
		}
	}
	return nil, fmt.Errorf("no kernel with its modules in %s: install %s: %w", filepath.Join(root, "boot"),
		kernelPackage(), errdefs.ErrFailedPrecondition)
}

func kernelPackage() string { return "linux-image-cloud-" + runtime.GOARCH }

// compareReleases orders "6.1.0-9" before "6.1.0-56": digits as numbers, the rest as text.
func compareReleases(a, b string) int {
	for a != "" && b != "" {
		na, ra := number(a)
		nb, rb := number(b)
		if na >= 0 && nb >= 0 {
			if na != nb {
				return cmp.Compare(na, nb)
			}
			a, b = ra, rb
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// number cuts the digits that s starts with; n is -1 if there are none.
func number(s string) (n int, rest string) {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(s[:end])
	if err != nil {
		return -1, s
	}
	return n, s[end:]
}

// readKernel reads what depmod wrote about the modules of a kernel (modules.dep(5)).
func readKernel(image, release, dir string) (*Kernel, error) {
	k := &Kernel{Image: image, Release: release, dir: dir,
		files: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, deps, ok := strings.Cut(line, ":")
		if !ok {
			return
		}
		name := moduleName(file)
		k.files[name] = file
		for _, dep := range strings.Fields(deps) {
			k.deps[name] = append(k.deps[name], moduleName(dep))
		}
	})
	if err != nil {
		return nil, err
	}
	err = eachLine(filepath.Join(dir, "modules.builtin"), func(line string) { k.builtin[moduleName(line)] = true })
	if err != nil {
		return nil, err
	}
	return k, nil
}

func eachLine(path string, do func(string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		do(lines.Text())
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}
