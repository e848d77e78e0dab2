package libvirt_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/computetest"
	"github.com/dewpoint-cloud/dewpoint/compute/libvirt"
	"github.com/dewpoint-cloud/dewpoint/internal/libvirtd"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// The test program is its own reaper.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "reap" {
		err := libvirtd.Reap(os.Args[2:])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			syscall.Exit(1)
		}
		syscall.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// rig is a libvirtd of a test's own, in a network namespace of its own.
type rig struct {
	*libvirtd.Daemon
	t               testing.TB
	dir, netns      string
	kernel, ramdisk string
}

func newRig(t testing.TB) *rig {
	testneed.Root(t)
	testneed.Tools(t, "libvirtd", "virtlogd", "virsh", "ip", "qemu-system-x86_64")
	dir, err := os.MkdirTemp("", "dplv")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	r := &rig{t: t, dir: dir, netns: fmt.Sprintf("dplv%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)}
	r.kernel, r.ramdisk = guest(t, dir)
	r.command("ip", "netns", "add", r.netns)
	t.Cleanup(func() { r.command("ip", "netns", "del", r.netns) })
	r.start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		require.NoError(t, r.KillGuests(ctx))
		require.NoError(t, r.Stop(ctx))
	})
	return r
}

func (r *rig) start() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	self, err := os.Executable()
	require.NoError(r.t, err)
	cache, err := os.UserCacheDir() // what libvirt learns of QEMU takes seconds: runs share it
	if err == nil {
		cache = filepath.Join(cache, "dewpoint", "libvirt")
	}
	r.Daemon, err = libvirtd.Start(ctx, libvirtd.Config{Dir: r.dir, NetNS: r.netns, Reaper: []string{self, "reap"}, CacheDir: cache})
	require.NoError(r.t, err)
}

func (r *rig) command(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(r.t, err, "%s %s: %s", name, strings.Join(args, " "), out)
	return string(out)
}

func (r *rig) virsh(args ...string) string {
	return r.command("virsh", append([]string{"-q", "-c", r.URI()}, args...)...)
}

func (r *rig) driver() *libvirt.Hypervisor {
	h, err := libvirt.New(libvirt.Config{Socket: r.Socket(), Type: "qemu"})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, h.Close()) })
	return h
}

func (r *rig) machine() compute.Machine {
	id := uuid.NewString()
	return compute.Machine{
		ID: id, Epoch: 3, Name: "test", VCPUs: 1, MemoryMiB: 96, Kernel: r.kernel, Ramdisk: r.ramdisk,
		Cmdline: "console=ttyS0 panic=-1 quiet", ConsoleLog: filepath.Join(r.dir, id+".console"),
	}
}

// qemu returns the process that runs a machine.
func (r *rig) qemu(id string) int {
	text, err := os.ReadFile(filepath.Join(r.dir, "run", "qemu", "instance-"+id+".pid"))
	require.NoError(r.t, err)
	var pid int
	_, err = fmt.Sscan(string(text), &pid)
	require.NoError(r.t, err)
	require.Greater(r.t, pid, 1)
	return pid
}

// guests returns the processes that run machines of this rig, whatever libvirtd knows of them.
func (r *rig) guests() (all []int) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(r.t, err)
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err != nil || !strings.Contains(string(text), "guest=instance-") || !strings.Contains(string(text), r.dir) {
			continue // what ended meanwhile has no line any more
		}
		var pid int
		_, err = fmt.Sscanf(line, "/proc/%d/", &pid)
		require.NoError(r.t, err)
		all = append(all, pid)
	}
	return all
}

func (r *rig) env() computetest.Env {
	return computetest.Env{
		Driver: r.driver(), Dir: r.dir, Banner: banner, Patience: time.Minute,
		Machine:  func() (compute.Machine, error) { return r.machine(), nil },
		PowerOff: func(id string) error { r.virsh("shutdown", id, "--mode", "acpi"); return nil },
		Crash:    func(id string) error { return syscall.Kill(r.qemu(id), syscall.SIGKILL) },
		Foreign: func() (string, func(), error) {
			id := uuid.NewString()
			file := filepath.Join(r.dir, id+".xml")
			require.NoError(r.t, os.WriteFile(file, fmt.Appendf(nil, `<domain type='qemu'><name>foreign-%s</name><uuid>%s</uuid>
				<memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`, id, id), 0o600))
			r.virsh("create", file)
			return id, func() { r.virsh("destroy", id) }, nil
		},
		Restart: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			require.NoError(r.t, r.Kill(ctx))
			r.start()
			return nil
		},
	}
}

func TestPluggerOnQEMU(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	r := newRig(t)
	env := r.env()
	computetest.TestPlugger(t, func(t *testing.T) computetest.PlugEnv {
		return computetest.PlugEnv{Env: env, Disk: func() (compute.Disk, error) {
			id := uuid.NewString()[:20]
			path := filepath.Join(r.dir, id+".raw")
			return compute.Disk{Path: path, Format: "raw", Serial: id, Device: "vdx"}, os.WriteFile(path, make([]byte, 1<<20), 0o600)
		}, Enlarge: func(d compute.Disk, bytes int64) error { return os.Truncate(d.Path, bytes) },
			Size: func(id string, d compute.Disk) (bytes int64, err error) {
				_, err = fmt.Sscanf(r.virsh("domblkinfo", id, d.Device), "Capacity: %d", &bytes)
				return bytes, err
			}}
	})
}

func TestContractOnQEMU(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	r := newRig(t)
	env := r.env()
	computetest.TestHypervisor(t, func(t *testing.T) computetest.Env { return env })
}
