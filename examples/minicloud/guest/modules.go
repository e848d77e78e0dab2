package guest

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// wanted are the modules of a virtual machine that this guest uses. What a kernel has built in, or has not at all
// because its architecture does without, is passed over.
var wanted = []module{
	{name: "virtio_pci", required: true},
	{name: "virtio_net", required: true},
	{name: "virtio_blk", required: true},
	{name: "af_packet", required: true}, // raw sockets, for DHCP
	{name: "evdev", required: true},     // the power button's events ...
	{name: "button", required: true},    // ... from ACPI
	{name: "gpio_pl061"},                // the button of an Arm machine without ACPI
	{name: "gpio_keys"},
}

type module struct {
	name     string
	required bool
}

// modules are the files of the wanted modules and of all that they need, in an order in which they can be loaded.
func (k *kernel) modules(wanted []module) ([]string, error) {
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
			return fmt.Errorf("guest: kernel %s has no module %s: install %s: %w", k.release, name, kernelPackage(),
				errdefs.ErrFailedPrecondition)
		}
		files = append(files, filepath.Join(k.dir, file))
		return nil
	}
	for _, m := range wanted {
		if _, there := k.files[m.name]; !there && !m.required {
			continue
		}
		if err := add(m.name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// moduleName is what the kernel calls the module of a file: kernel/net/virtio-rng.ko.xz is virtio_rng.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
