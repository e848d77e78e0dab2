package iscsi

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/initramfs"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// fioRegions is how many regions of 1 MiB the volume of the test has.
const fioRegions = 64

// fioJob is one region: its blocks in random order, each with a checksum and its place, flushed every 16.
var fioJob = []string{"--name=region", "--rw=randwrite", "--bs=4k", "--size=1M", "--ioengine=psync", "--thread", "--verify=crc32c",
	"--fsync=16", "--end_fsync=1", "--verify_state_save=0", "--output=/dev/null"}

// fioInit is the only program of the guest: it has fio write one region of its disk after the other, through its page cache, and says of each
// when it was begun, and that it is sure when fio has ended well.
const fioInit = `#!/bin/busybox sh
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
region=$(sed 's/.*region=//' /proc/cmdline)
while :; do
    echo "begun $region"
    FIO --filename=/dev/vda --offset=${region}M --do_verify=0 && echo "sure $region" || echo "failed $region"
    region=$((region + 1))
done
`

// fioGuest is a virtual machine whose disk is the volume: QEMU is the initiator.
type fioGuest struct {
	cmd   *exec.Cmd
	lines chan string
}

// fioRamdisk makes the guest's ramdisk.
func fioRamdisk(t *testing.T, k *initramfs.Kernel, file string) {
	t.Helper()
	fio, err := exec.LookPath("fio")
	require.NoError(t, err)
	busybox, err := initramfs.Busybox("/")
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	content, err := os.ReadFile(busybox)
	require.NoError(t, err)
	a := initramfs.NewArchive()
	for _, dir := range []string{"/proc", "/sys", "/tmp"} {
		a.Dir(dir)
	}
	a.File("/bin/busybox", 0o755, content)
	a.File("/init", 0o755, []byte(strings.ReplaceAll(fioInit, "FIO", strings.Join(append([]string{fio}, fioJob...), " "))))
	require.NoError(t, a.Program(fio))
	modules, err := k.Modules([]string{"virtio_pci", "virtio_blk"})
	if errdefs.IsFailedPrecondition(err) {
		testneed.Missing(t, err.Error())
	}
	require.NoError(t, err)
	require.NoError(t, a.Modules(t.Context(), modules))
	f, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, a.Write(f))
	require.NoError(t, f.Close())
}

func startFioGuest(t *testing.T, k *initramfs.Kernel, ramdisk string, p *process, region int) *fioGuest {
	t.Helper()
	g := &fioGuest{lines: make(chan string, 10*fioRegions)}
	g.cmd = exec.Command("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", "512", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-nic", "none", "-kernel", k.Image, "-initrd", ramdisk,
		"-append", fmt.Sprint("console=ttyS0 panic=-1 quiet cryptomgr.notests no_timer_check region=", region),
		"-drive", "if=virtio,cache=none,file="+strings.ReplaceAll(qemuJSON(p), ",", ",,"), "-serial", "stdio")
	out, err := g.cmd.StdoutPipe()
	require.NoError(t, err)
	g.cmd.Stderr = os.Stderr
	require.NoError(t, g.cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(g.lines)
		for console := bufio.NewScanner(out); console.Scan(); {
			g.lines <- strings.TrimSpace(console.Text())
		}
	}()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-read
		_ = g.cmd.Wait()
	})
	return g
}

// await reads what the guest says until it says what is awaited, and returns the region of it. What is sure is noted on the way.
func (g *fioGuest) await(t *testing.T, what string, sure map[int]bool) (region int) {
	t.Helper()
	limit := time.After(2 * time.Minute)
	for {
		select {
		case line, more := <-g.lines:
			require.True(t, more, "the guest has ended before it said %q", what)
			said, number, _ := strings.Cut(line, " ")
			_, err := fmt.Sscan(number, &region)
			require.NotEqual(t, "failed", said, line)
			if err == nil && said == "sure" {
				sure[region] = true
			}
			if err == nil && said == what {
				return region
			}
		case <-limit:
			require.FailNow(t, "the guest does not say "+what)
		}
	}
}

// TestFioSurvivesKills has fio write to a volume in a virtual machine, and kills the target with the agent whose process it is in, the virtual machine, or both,
// at any moment: all that fio has flushed is there. A machine that is not killed itself goes on when the target is back.
func TestFioSurvivesKills(t *testing.T) {
	testneed.Slow(t)
	if runtime.GOARCH != "amd64" {
		testneed.Missing(t, "needs amd64: the test knows how to start no other machine")
	}
	testneed.Tools(t, "qemu-system-x86_64", "fio")
	k, err := initramfs.NewestKernel("/")
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	dir := t.TempDir()
	path, ramdisk := filepath.Join(dir, "volume"), filepath.Join(dir, "ramdisk")
	fioRamdisk(t, k, ramdisk)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, fioRegions<<20))

	p := startProcess(t, path, testInitiator)
	_, port, _ := strings.Cut(p.addr, ":")
	t.Setenv("DEWPOINT_ISCSI_PORT", port)
	sure := map[int]bool{}
	var g *fioGuest
	next := 0
	for round := range 6 {
		if g == nil {
			g = startFioGuest(t, k, ramdisk, p, next)
		}
		next = 1 + g.await(t, "sure", sure)
		require.Less(t, next+5, fioRegions)
		if round%2 == 1 { // somewhere in the next, and else at once, while what was flushed is as young as can be
			next = 1 + g.await(t, "begun", sure)
			time.Sleep(rand.N(1500 * time.Millisecond)) // any moment will do
		}
		victim := []string{"target", "guest", "both"}[round%3]
		if victim != "guest" {
			p.kill()
		}
		if victim != "target" {
			require.NoError(t, g.cmd.Process.Kill())
			for line := range g.lines { // what it had said
				var region int
				if _, err := fmt.Sscanf(line, "sure %d", &region); err == nil {
					sure[region] = true
				}
				if _, err := fmt.Sscanf(line, "begun %d", &region); err == nil {
					next = region + 1
				}
			}
			g = nil
		}
		for region := range sure { // nobody has it open any more, or somebody writes elsewhere
			out, err := program(t, "fio", append(fioJob, "--filename="+path, fmt.Sprint("--offset=", region, "M"), "--verify_only", "--verify_fatal=1")...)
			require.NoError(t, err, "round %d, %s killed: region %d is not what was flushed: %s", round, victim, region, out)
		}
		if victim != "guest" {
			p = startProcess(t, path, testInitiator)
		}
	}
	require.GreaterOrEqual(t, len(sure), 6)
	t.Logf("%d regions were sure, and are there", len(sure))
}
