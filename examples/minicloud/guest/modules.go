package guest

import "github.com/dewpoint-cloud/dewpoint/internal/initramfs"

// required are the modules of a virtual machine that this guest uses.
var required = []string{"virtio_pci", "virtio_net", "virtio_blk",
	"af_packet",       // raw sockets, for DHCP
	"evdev", "button", // the power button's events, from ACPI
}

// optional is what a kernel may lack because its architecture does without: the button of an Arm machine without ACPI.
var optional = []string{"gpio_pl061", "gpio_keys"}

// modules are the files of the modules that a kernel must load for the guest, in the order to load them in.
func modules(k *initramfs.Kernel) ([]string, error) {
	names := append([]string(nil), required...)
	for _, name := range optional {
		if k.Has(name) {
			names = append(names, name)
		}
	}
	return k.Modules(names)
}
