package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/libvirt"
	"github.com/dewpoint-cloud/dewpoint/internal/libvirtd"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network/dhcp"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// The test program is its own reaper, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "reap" {
		if err := libvirtd.Reap(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv("DEWPOINT_MINI_FIO"); dir != "" {
		fmt.Fprintln(os.Stderr, fioCloud(dir, os.Getenv("DEWPOINT_MINI_KERNEL"), os.Getenv("DEWPOINT_MINI_RAMDISK")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// realNode is a node with real machines, that can be started more than once.
type realNode struct {
	options options
	cfg     dewpoint.Config
	disks   *storage
}

func newRealNode(t testing.TB, ctx context.Context) *realNode {
	t.Helper()
	testneed.Slow(t)
	testneed.Root(t)
	testneed.Tools(t, "ip", "qemu-img", "busybox", "libvirtd", "virtlogd", "qemu-system-x86_64")
	dir, err := os.MkdirTemp("", "minv")
	require.NoError(t, err)
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	o := options{dir: dir, instances: 2, cidr: netip.MustParsePrefix("10.98.0.0/24"), bridge: "br100", netns: filepath.Base(dir), memory: 128}
	h, err := prepareHost(ctx, o, logger)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.remove(context.Background(), true)) })
	disks, err := openStorage(ctx, o, h, logger)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, disks.close()) })
	machines, err := libvirt.New(libvirt.Config{Socket: h.socket, Type: "qemu"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, machines.Close()) })
	bridges, err := linux.New(linux.Config{NetNS: h.netns})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bridges.Close()) })
	leases, err := dhcp.New(dhcp.Config{Dir: filepath.Join(dir, "dhcp"), NetNS: h.netns})
	require.NoError(t, err)
	records := memstate.New(memstate.Config{})
	return &realNode{options: o, disks: disks, cfg: dewpoint.Config{Log: records, Hypervisor: machines, NetworkManager: bridges, DHCP: leases,
		VolumeDriver: disks.driver, VolumeExporter: disks.exporter, Dir: filepath.Join(dir, "cloud"), Logger: logger}}
}

// start runs the cloud on the node until stop is called, or the test ends.
func (n *realNode) start(t testing.TB, ctx context.Context) (cloud *dewpoint.Cloud, s *dewpoint.Services, stop func()) {
	t.Helper()
	cloud, err := dewpoint.New(n.cfg)
	require.NoError(t, err)
	life, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- cloud.Run(life) }()
	stop = sync.OnceFunc(func() { end(); require.NoError(t, <-ended) })
	t.Cleanup(stop)
	s, err = cloud.Services(ctx)
	require.NoError(t, err)
	return cloud, s, stop
}

// says waits for a line on a machine's console.
func says(t testing.TB, ctx context.Context, s *dewpoint.Services, id, line string) {
	t.Helper()
	for {
		text, err := s.Compute.Console(ctx, id, 0)
		if err == nil && strings.Contains(string(text), line) {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			volumes, _ := s.Volumes.List(auth.NewContext(context.Background(), auth.Admin("project")), volume.ListOptions{})
			require.FailNow(t, "it does not say: "+line, "%v\n%s\n%+v", err, text, volumes)
		}
	}
}

// TestAMachineBootsFromAVolume that is made of an image for it, counts its boots there, and takes it along.
func TestAMachineBootsFromAVolume(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	n := newRealNode(t, ctx)
	_, s, stop := n.start(t, ctx)
	ctx = auth.NewContext(ctx, auth.Admin("project"))
	req, err := furnish(ctx, n.options, s)
	require.NoError(t, err)
	req.Name, req.Image, req.BootVolume = "mini-1", "", &compute.BootVolume{Image: req.Image, DeleteOnTermination: true}
	made, err := s.Compute.Run(ctx, req)
	require.NoError(t, err)
	id, v := made[0].ID, made[0].BootVolume
	_, err = s.Compute.WaitActive(ctx, id)
	require.NoError(t, err)
	says(t, ctx, s, id, "disk 1024 MiB boot 1")
	require.NoError(t, s.Compute.Reboot(ctx, id, true))
	_, err = s.Compute.WaitActive(ctx, id)
	require.NoError(t, err)
	says(t, ctx, s, id, "disk 1024 MiB boot 2")

	// The agents end and begin again, with their target; the machine goes on, and boots again.
	stop()
	cloud, s, _ := n.start(t, ctx)
	require.NoError(t, s.Compute.Reboot(ctx, id, true))
	_, err = s.Compute.WaitActive(ctx, id)
	require.NoError(t, err)
	says(t, ctx, s, id, "disk 1024 MiB boot 3")
	require.NoError(t, s.Compute.Stop(ctx, id))
	_, err = s.Compute.Wait(ctx, id, func(i compute.Instance) bool { return i.State == compute.StateStopped })
	require.NoError(t, err)
	require.NoError(t, s.Compute.Start(ctx, id))
	_, err = s.Compute.WaitActive(ctx, id)
	require.NoError(t, err)
	says(t, ctx, s, id, "disk 1024 MiB boot 4")
	found, err := cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)

	require.NoError(t, s.Compute.Terminate(ctx, id))
	require.NoError(t, s.Compute.WaitGone(ctx, id))
	require.NoError(t, s.Volumes.WaitGone(ctx, v))
	left, err := n.disks.driver.List(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestAVolumeMoves writes a file on a volume in one machine and reads it in the next.
func TestAVolumeMoves(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	n := newRealNode(t, ctx)
	o, disks := n.options, n.disks
	cloud, s, _ := n.start(t, ctx)
	ctx = auth.NewContext(ctx, auth.Admin("project"))

	v, err := s.Volumes.Create(ctx, volume.CreateRequest{Name: "data", SizeGiB: 1})
	require.NoError(t, err)
	var ids []string
	for n := range 2 {
		i, err := launch(ctx, o, s, fmt.Sprintf("mini-%d", n+1))
		require.NoError(t, err)
		ids = append(ids, i.ID)
	}
	says := func(n int, line string) { t.Helper(); says(t, ctx, s, ids[n], line) }
	for n, id := range ids {
		_, err := s.Compute.WaitActive(ctx, id)
		require.NoError(t, err)
		says(n, fmt.Sprintf("hostname mini-%d", n+1))
	}
	serial := compute.VolumeSerial(v.ID)
	attach := func(n int) {
		t.Helper()
		begun := time.Now()
		_, err := s.Compute.AttachVolume(ctx, compute.AttachRequest{Instance: ids[n], Volume: v.ID})
		require.NoError(t, err)
		_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateInUse)
		require.NoError(t, err)
		t.Logf("attached in %v", time.Since(begun).Round(time.Millisecond))
	}
	detach := func() {
		t.Helper()
		begun := time.Now()
		require.NoError(t, s.Compute.DetachVolume(ctx, v.ID))
		_, err := s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
		require.NoError(t, err)
		t.Logf("detached in %v", time.Since(begun).Round(time.Millisecond))
	}
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	attach(0)
	says(0, "volume "+serial+" has a note from mini-1")
	found, err := cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	detach()
	says(0, "volume "+serial+" is gone")

	attach(1)
	says(1, "volume "+serial+" says: hello from mini-1")
	says(1, "volume "+serial+" has a note from mini-2")
	begun := time.Now()
	_, err = s.Volumes.Extend(ctx, v.ID, 2)
	require.NoError(t, err)
	larger, err := s.Volumes.WaitFor(ctx, v.ID, volume.StateInUse)
	require.NoError(t, err)
	require.Empty(t, larger.Fault)
	t.Logf("larger in %v", time.Since(begun).Round(time.Millisecond))
	says(1, "volume "+serial+" has 2048 MiB now")
	detach()

	// An instance that is stopped has it when it starts, and gives it back when it is terminated.
	require.NoError(t, s.Compute.Stop(ctx, ids[0]))
	_, err = s.Compute.Wait(ctx, ids[0], func(i compute.Instance) bool { return i.State == compute.StateStopped })
	require.NoError(t, err)
	attach(0)
	require.NoError(t, s.Compute.Start(ctx, ids[0]))
	_, err = s.Compute.WaitActive(ctx, ids[0])
	require.NoError(t, err)
	says(0, "volume "+serial+" says: hello from mini-2")
	for _, id := range ids {
		require.NoError(t, s.Compute.Terminate(ctx, id))
	}
	for _, id := range ids {
		require.NoError(t, s.Compute.WaitGone(ctx, id))
	}
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	require.NoError(t, s.Volumes.Delete(ctx, v.ID))
	require.NoError(t, s.Volumes.WaitGone(ctx, v.ID))
	found, err = cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	left, err := disks.exporter.Exports(ctx)
	require.NoError(t, errors.Join(err, ctx.Err()))
	require.Empty(t, left)
}
