// Package fioguest makes a guest for tests that does nothing but write to its first disk with fio, and checks what it has written; or what else
// a script says.
//
// The disk is regions of 1 MiB. The guest has fio write one after the other, through its page cache: its blocks in random order, each with a
// checksum and its place, flushed every 16. It says on its console "begun N", and "sure N" when fio has ended well: then all of the
// region is on the disk, whatever is killed afterwards. Region 0 holds the number of the next one, so that a guest that is started again goes on, and
// writes none twice.
package fioguest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dewpoint-cloud/dewpoint/internal/initramfs"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// Cmdline is the command line of the guest's kernel.
const Cmdline = "console=ttyS0 panic=-1 quiet cryptomgr.notests no_timer_check"

// MemoryMiB is what the guest needs.
const MemoryMiB = 512

var job = []string{"--name=region", "--rw=randwrite", "--bs=4k", "--size=1M", "--ioengine=psync", "--thread", "--verify=crc32c",
	"--fsync=16", "--end_fsync=1", "--verify_state_save=0", "--output=/dev/null"}

const script = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
cd /tmp
exec < /dev/null > /dev/console 2>&1
while read -r module; do insmod "/lib/modules/$module"; done < /lib/modules/order
region=$(dd if=/dev/vda bs=512 count=1 2> /dev/null | tr -d '\0')
case $region in '' | *[!0-9]*) region=1 ;; esac
while :; do
    echo $((region + 1)) | dd of=/dev/vda bs=512 conv=sync,fsync 2> /dev/null || echo "failed $region"
    echo "begun $region"
    FIO --filename=/dev/vda --offset=${region}M --do_verify=0 && echo "sure $region" || echo "failed $region"
    region=$((region + 1))
done
`

// Build makes the guest's ramdisk in dir, and returns it with the kernel. What the machine lacks is [testneed.Missing].
func Build(t testing.TB, dir string) (kernel, ramdisk string) {
	t.Helper()
	testneed.Tools(t, "fio")
	fio, err := exec.LookPath("fio")
	if err != nil {
		t.Fatalf("fioguest: %v", err)
	}
	return Ramdisk(t, dir, strings.ReplaceAll(script, "FIO", strings.Join(append([]string{fio}, job...), " ")), []string{"virtio_pci", "virtio_blk"}, fio)
}

// Ramdisk makes that of a guest that runs a script of busybox's shell, and has these modules, in the order of /lib/modules/order, and programs. What
// the machine lacks is [testneed.Missing].
func Ramdisk(t testing.TB, dir, script string, modules []string, programs ...string) (kernel, ramdisk string) {
	t.Helper()
	k, err := initramfs.NewestKernel("/")
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	busybox, err := initramfs.Busybox("/")
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	files, err := k.Modules(modules)
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	ramdisk = filepath.Join(dir, "ramdisk")
	if err := write(t.Context(), ramdisk, script, busybox, files, programs); err != nil {
		t.Fatalf("fioguest: %v", err)
	}
	return k.Image, ramdisk
}

func write(ctx context.Context, file, script, busybox string, modules, programs []string) error {
	shell, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	a := initramfs.NewArchive()
	for _, dir := range []string{"/proc", "/sys", "/tmp", "/mnt"} {
		a.Dir(dir)
	}
	a.File("/bin/busybox", 0o755, shell)
	a.File("/init", 0o755, []byte(script))
	for _, program := range programs {
		if err := a.Program(program); err != nil {
			return err
		}
	}
	if err := a.Modules(ctx, modules); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := a.Write(f); err != nil {
		return err
	}
	return f.Close()
}

// Verify has fio look whether a region is on a disk, or in the file that one is kept in.
func Verify(ctx context.Context, disk string, region int) error {
	out, err := exec.CommandContext(ctx, "fio", append(job, "--filename="+disk, fmt.Sprint("--offset=", region, "M"), "--verify_only", "--verify_fatal=1")...).
		CombinedOutput()
	if err != nil {
		return fmt.Errorf("region %d is not what was flushed: %w: %s", region, err, out)
	}
	return nil
}

// Said tells what a line of the guest's console says: "begun", "sure" or "failed" of a region; "" is anything else.
func Said(line string) (what string, region int) {
	what, number, _ := strings.Cut(strings.TrimSpace(line), " ")
	if _, err := fmt.Sscanf(number, "%d", &region); err != nil || what != "begun" && what != "sure" && what != "failed" {
		return "", 0
	}
	return what, region
}
