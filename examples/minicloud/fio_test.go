package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/internal/testguest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state/bolt"
)

func fioOptions(dir string) options {
	return options{dir: dir, instances: 1, cidr: netip.MustParsePrefix("10.97.0.0/24"), bridge: "br100", netns: filepath.Base(dir), memory: testguest.MemoryMiB}
}

// fioCloud is a process that is killed: a cloud with one machine, which boots from a volume and has fio write to it. It starts the machine
// whenever that has stopped, and repeats what the machine says.
func fioCloud(dir, kernel, ramdisk string) error {
	ctx, o := context.Background(), fioOptions(dir)
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	h, err := prepareHost(ctx, o, logger)
	if err != nil {
		return err
	}
	records, err := bolt.Open(bolt.Config{Path: filepath.Join(dir, "records.db")})
	if err != nil {
		return err
	}
	cfg, _, err := drivers(ctx, o, h, logger)
	if err != nil {
		return err
	}
	cfg.Log = records
	cloud, err := dewpoint.New(cfg)
	if err != nil {
		return err
	}
	return during(ctx, cloud, func(ctx context.Context, s *dewpoint.Services) error {
		ctx = auth.NewContext(ctx, auth.Admin(projectName))
		if err := ensureNetwork(ctx, o, s); err != nil {
			return err
		}
		flavor, err := ensureFlavor(ctx, o, s)
		if err != nil {
			return err
		}
		have, err := s.Compute.List(ctx, compute.ListOptions{})
		if err != nil {
			return err
		}
		if len(have) == 0 {
			disk, err := fioImage(ctx, s, dir, kernel, ramdisk)
			if err != nil {
				return err
			}
			if have, err = s.Compute.Run(ctx, compute.RunRequest{Name: "fio", Flavor: flavor, Networks: []string{networkName},
				BootVolume: &compute.BootVolume{Image: disk, DeleteOnTermination: true}}); err != nil {
				return err
			}
		}
		var said []byte
		for ; ; time.Sleep(50 * time.Millisecond) {
			i, err := s.Compute.Get(ctx, have[0].ID)
			switch {
			case err != nil:
				return err
			case i.State == compute.StateError:
				return errors.New(i.Fault)
			case i.State == compute.StateStopped && i.Task == compute.TaskNone:
				if err := s.Compute.Start(ctx, i.ID); err != nil {
					return err
				}
			case i.State == compute.StateActive:
				text, err := s.Compute.Console(ctx, i.ID, 0)
				if err == nil && !bytes.Equal(text, said) {
					said = text
					fmt.Printf("%s\n", text)
				}
			}
		}
	})
}

// fioImage registers the guest of fio.
func fioImage(ctx context.Context, s *dewpoint.Services, dir, kernel, ramdisk string) (string, error) {
	k, err := register(ctx, s, kernel, image.Spec{Name: "fio kernel", Format: image.Kernel})
	if err != nil {
		return "", err
	}
	r, err := register(ctx, s, ramdisk, image.Spec{Name: "fio ramdisk", Format: image.Ramdisk})
	if err != nil {
		return "", err
	}
	disk := filepath.Join(dir, "empty")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		return "", err
	}
	d, err := register(ctx, s, disk, image.Spec{Name: "fio", Format: image.Raw, KernelID: k.ID, RamdiskID: r.ID,
		Properties: map[string]string{"os_command_line": testguest.Cmdline}})
	return d.ID, err
}

// fioNode is such a process, as its killer sees it.
type fioNode struct {
	t               *testing.T
	dir             string
	kernel, ramdisk string
	cmd             *exec.Cmd
	lines           chan string
	errors          bytes.Buffer
	sure            map[int]bool
	killed          map[int]bool // virtual machines
}

func (n *fioNode) start() {
	self, err := os.Executable()
	require.NoError(n.t, err)
	n.cmd = exec.Command(self)
	n.cmd.Env = append(os.Environ(), "DEWPOINT_MINI_FIO="+n.dir, "DEWPOINT_MINI_KERNEL="+n.kernel, "DEWPOINT_MINI_RAMDISK="+n.ramdisk)
	n.errors.Reset()
	n.cmd.Stderr = &n.errors
	n.cmd.WaitDelay = time.Second // what it has started outlives it
	out, err := n.cmd.StdoutPipe()
	require.NoError(n.t, err)
	require.NoError(n.t, n.cmd.Start())
	lines := make(chan string, 100_000)
	n.lines = lines
	go func() {
		defer close(lines)
		for text := bufio.NewScanner(out); text.Scan(); {
			lines <- text.Text()
		}
	}()
}

// kill ends the process as a crash does, and takes what it has said.
func (n *fioNode) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	for line := range n.lines {
		n.note(line)
	}
	_ = n.cmd.Wait()
	n.cmd = nil
}

func (n *fioNode) note(line string) {
	what, region := testguest.FioSaid(line)
	require.NotEqual(n.t, "failed", what, line)
	if what == "sure" {
		n.sure[region] = true
	}
}

// await waits until one more region is sure.
func (n *fioNode) await() {
	n.t.Helper()
	limit := time.After(patience)
	for before := len(n.sure); len(n.sure) == before; {
		select {
		case line, more := <-n.lines:
			if !more {
				_ = n.cmd.Wait()
				require.FailNow(n.t, "the process has ended", n.errors.String())
			}
			n.note(line)
		case <-limit:
			n.kill()
			require.FailNow(n.t, "no region becomes sure", n.errors.String())
		}
	}
}

// machine waits until the virtual machine runs, which one that was killed does again, and returns its process.
func (n *fioNode) machine() int {
	n.t.Helper()
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(50 * time.Millisecond) {
		if pid := n.running(); pid != 0 {
			return pid
		}
	}
	n.kill()
	require.FailNow(n.t, "no virtual machine runs", n.errors.String())
	return 0
}

// running is the process of the virtual machine, 0 if there is none but those that were killed.
func (n *fioNode) running() int {
	n.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(n.t, err)
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(n.dir+"/")) && bytes.Contains(bytes.SplitN(line, []byte{0}, 2)[0], []byte("qemu-system")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			require.NoError(n.t, err)
			if !n.killed[pid] {
				return pid
			}
		}
	}
	return 0
}

// volume is the file of the volume.
func (n *fioNode) volume() string {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, "volumes", "*"))
	require.NoError(n.t, err)
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Size() == 1<<30 {
			return file
		}
	}
	require.FailNow(n.t, "there is no volume", files)
	return ""
}

// TestFioSurvivesKilledAgents kills the process with the agents and the target, the virtual machine, or both, while fio writes in the machine to the volume
// that it has booted from: all that fio has flushed is there, the machine goes on, or is started again and goes on.
func TestFioSurvivesKilledAgents(t *testing.T) {
	testneed.Slow(t)
	testneed.Root(t)
	testneed.Tools(t, "ip", "qemu-img", "busybox", "libvirtd", "virtlogd", "qemu-system-x86_64")
	if runtime.GOARCH != "amd64" {
		testneed.Missing(t, "needs amd64: fio's guest knows no other machine")
	}
	dir, err := os.MkdirTemp("", "minf") // a short path: sockets lie in it
	require.NoError(t, err)
	n := &fioNode{t: t, dir: dir, sure: map[int]bool{}, killed: map[int]bool{}}
	t.Cleanup(func() {
		n.kill()
		h, err := prepareHost(context.Background(), fioOptions(dir), slog.New(slog.NewTextHandler(io.Discard, nil)))
		require.NoError(t, err)
		require.NoError(t, h.remove(context.Background(), true))
		require.NoError(t, os.RemoveAll(dir))
	})
	n.kernel, n.ramdisk = testguest.Fio(t, t.TempDir())
	n.start()
	for round, victim := range []string{"agents", "machine", "both", "agents"} {
		n.await()
		if round%2 == 1 {
			time.Sleep(rand.N(1500 * time.Millisecond)) // any moment will do
		}
		machine := n.machine()
		if victim != "machine" {
			n.kill()
		}
		if victim != "agents" {
			require.NoError(t, syscall.Kill(machine, syscall.SIGKILL))
			n.killed[machine] = true
		}
		volume := n.volume()
		for region := range n.sure {
			require.NoError(t, testguest.VerifyFio(t.Context(), volume, region), "round %d, killed: %s", round, victim)
		}
		if victim != "machine" {
			n.start()
		}
		t.Logf("round %d, killed: %s: %d regions are there", round, victim, len(n.sure))
	}
	n.await()
}
