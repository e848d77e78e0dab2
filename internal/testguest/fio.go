package testguest

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

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

// Fio makes the ramdisk, in dir, of a guest that does nothing but write to its first disk with fio, and returns it with the kernel. What the machine
// lacks is [testneed.Missing].
//
// The disk is regions of 1 MiB. The guest has fio write one after the other, through its page cache: its blocks in random order, each with a
// checksum and its place, flushed every 16. It says on its console "begun N", and "sure N" when fio has ended well: then all of the
// region is on the disk, whatever is killed afterwards. Region 0 holds the number of the next one, so that a guest that is started again goes on, and
// writes none twice.
func Fio(t testing.TB, dir string) (kernel, ramdisk string) {
	t.Helper()
	testneed.Tools(t, "fio")
	fio, err := exec.LookPath("fio")
	if err != nil {
		t.Fatalf("testguest: %v", err)
	}
	return Ramdisk(t, dir, strings.ReplaceAll(script, "FIO", strings.Join(append([]string{fio}, job...), " ")), []string{"virtio_pci", "virtio_blk"}, fio)
}

// VerifyFio has fio look whether a region is on a disk, or in the file that one is kept in.
func VerifyFio(ctx context.Context, disk string, region int) error {
	out, err := exec.CommandContext(ctx, "fio", append(job, "--filename="+disk, fmt.Sprint("--offset=", region, "M"), "--verify_only", "--verify_fatal=1")...).
		CombinedOutput()
	if err != nil {
		return fmt.Errorf("region %d is not what was flushed: %w: %s", region, err, out)
	}
	return nil
}

// FioSaid tells what a line of the console of [Fio]'s guest says: "begun", "sure" or "failed" of a region; "" is anything else.
func FioSaid(line string) (what string, region int) {
	what, number, _ := strings.Cut(strings.TrimSpace(line), " ")
	if _, err := fmt.Sscanf(number, "%d", &region); err != nil || what != "begun" && what != "sure" && what != "failed" {
		return "", 0
	}
	return what, region
}
