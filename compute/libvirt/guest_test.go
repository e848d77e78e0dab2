package libvirt_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// banner is what the test's guest writes once its power button works.
const banner = "guest: ready"

const guestInit = `#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev
$b insmod /button.ko; $b insmod /evdev.ko
for e in /sys/class/input/event*; do
	case $($b cat $e/device/name) in *Power*) button=/dev/input/${e##*/};; esac
done
echo "` + banner + ` $($b grep -c . /proc/partitions)"
$b dd if=$button of=/dev/null bs=24 count=1 2>/dev/null
echo "guest: off"
$b poweroff -f
`

// guest returns a kernel of this machine and a ramdisk with a guest that powers off when it is asked to, and does nothing else.
func guest(t testing.TB, dir string) (kernel, ramdisk string) {
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if len(kernels) == 0 {
		testneed.Missing(t, "needs a kernel /boot/vmlinuz-*-cloud-amd64")
	}
	kernel = kernels[len(kernels)-1]
	modules := "/lib/modules/" + filepath.Base(kernel)[len("vmlinuz-"):] + "/kernel/drivers/"
	testneed.Tools(t, "busybox")
	var archive bytes.Buffer
	packed := gzip.NewWriter(&archive)
	n := 0
	add := func(name string, mode uint32, content []byte) {
		// The format is the kernel's "newc": Documentation/driver-api/early-userspace/buffer-format.rst
		n++
		fmt.Fprintf(packed, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", n, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0,
			len(name)+1, 0, name)
		pad := func(have int) { _, _ = packed.Write(make([]byte, -have&3)) }
		pad(110 + len(name) + 1)
		_, _ = packed.Write(content)
		pad(len(content))
	}
	add("bin", 0o040755, nil)
	for name, path := range map[string]string{
		"bin/busybox": "/usr/bin/busybox", "button.ko": modules + "acpi/button.ko", "evdev.ko": modules + "input/evdev.ko",
	} {
		content, err := os.ReadFile(path)
		if err != nil {
			testneed.Missing(t, "needs "+path)
		}
		add(name, 0o100755, content)
	}
	add("init", 0o100755, []byte(guestInit))
	add("TRAILER!!!", 0, nil)
	require.NoError(t, packed.Close())
	ramdisk = filepath.Join(dir, "ramdisk")
	require.NoError(t, os.WriteFile(ramdisk, archive.Bytes(), 0o600))
	return kernel, ramdisk
}
