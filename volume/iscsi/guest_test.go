package iscsi

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testguest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// fileSystem has a guest make a file system on its disk, keep one file, give back the room of another, and look whether all is well.
const fileSystem = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec < /dev/null > /dev/console 2>&1
while read -r module; do insmod "/lib/modules/$module"; done < /lib/modules/order
MKFS -q -F /dev/vda && mount -t ext4 /dev/vda /mnt &&
    dd if=/dev/urandom of=/mnt/kept bs=1M count=8 2> /dev/null &&
    dd if=/dev/urandom of=/mnt/gone bs=1M count=64 2> /dev/null && sync &&
    rm /mnt/gone && sync && fstrim /mnt && sum=$(sha256sum < /mnt/kept) && umount /mnt && FSCK -fn /dev/vda &&
    echo "well ${sum%% *}"
echo ended
poweroff -f
`

// TestAGuestsFileSystem has a Linux guest, with QEMU as the initiator, make, use, trim and check a file system on a volume.
func TestAGuestsFileSystem(t *testing.T) {
	testneed.Slow(t)
	needMachine(t)
	testneed.Tools(t, "mkfs.ext4", "e2fsck", "debugfs")
	mkfs, err := exec.LookPath("mkfs.ext4")
	require.NoError(t, err)
	fsck, err := exec.LookPath("e2fsck")
	require.NoError(t, err)
	kernel, ramdisk := testguest.Ramdisk(t, t.TempDir(), strings.NewReplacer("MKFS", mkfs, "FSCK", fsck).Replace(fileSystem),
		[]string{"virtio_pci", "virtio_blk", "ext4"}, mkfs, fsck)
	path := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, 1<<30))

	m := startMachine(t, kernel, ramdisk, startProcess(t, path, testInitiator))
	var said []string
	sum := ""
	for limit := time.After(10 * time.Minute); sum == ""; {
		select {
		case line, more := <-m.lines:
			require.True(t, more && line != "ended", "the guest says: %q", said)
			said = append(said, line)
			if what, rest, _ := strings.Cut(strings.TrimSpace(line), " "); what == "well" {
				sum = rest
			}
		case <-limit:
			require.FailNow(t, "the guest does not end", "it says: %q", said)
		}
	}
	kept, err := exec.CommandContext(t.Context(), "debugfs", "-R", "cat /kept", path).Output()
	require.NoError(t, err)
	require.Len(t, kept, 8<<20)
	have := sha256.Sum256(kept)
	require.Equal(t, sum, hex.EncodeToString(have[:]))
	out, err := exec.CommandContext(t.Context(), "e2fsck", "-fn", path).CombinedOutput()
	require.NoError(t, err, string(out))
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(path, &st))
	require.Less(t, st.Blocks*512, int64(64<<20), "what the guest has given back takes no room")
}
