package libvirt_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
for m in $($b cat /modules); do $b insmod /$m; done
for e in /sys/class/input/event*; do
	case $($b cat $e/device/name) in *Power*) button=/dev/input/${e##*/};; esac
done
[ -b /dev/vda ] && echo "guest: vda $($b cat /sys/block/vda/serial) $($b head -n 1 /dev/vda)"
[ -b /dev/vdb ] && echo "guest: vdb read-only $($b cat /sys/block/vdb/ro)"
{ until [ -b /dev/sda ]; do $b sleep 0.1; done; echo "guest: sda $($b cat /sys/block/sda/size) $($b head -n 1 /dev/sda)"; } &
[ -d /sys/class/net/eth0 ] && echo "guest: eth0 $($b cat /sys/class/net/eth0/address) $($b cat /sys/class/net/eth0/mtu)"
exec 3<$button
echo "` + banner + `"
$b dd of=/dev/null bs=24 count=1 <&3 2>/dev/null
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
	testneed.Tools(t, "busybox", "modprobe")
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	depends, err := exec.Command("modprobe", "-S", version, "--show-depends", "-a", "button", "evdev", "virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod").Output()
	if err != nil {
		testneed.Missing(t, "needs the modules of kernel "+version)
	}
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
	files, order := map[string]string{"bin/busybox": "/usr/bin/busybox"}, ""
	for line := range strings.Lines(string(depends)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "insmod" && files[filepath.Base(words[1])] == "" {
			files[filepath.Base(words[1])] = words[1]
			order += filepath.Base(words[1]) + "\n"
		}
	}
	for name, path := range files {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		add(name, 0o100755, content)
	}
	add("modules", 0o100644, []byte(order))
	add("init", 0o100755, []byte(guestInit))
	add("TRAILER!!!", 0, nil)
	require.NoError(t, packed.Close())
	ramdisk = filepath.Join(dir, "ramdisk")
	require.NoError(t, os.WriteFile(ramdisk, archive.Bytes(), 0o600))
	return kernel, ramdisk
}
