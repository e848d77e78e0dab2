package libvirt_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/libvirt"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// waitFor waits until the console has a line with the text, and returns the console.
func waitFor(t *testing.T, h *libvirt.Hypervisor, id, text string) string {
	var console []byte
	require.Eventually(t, func() bool {
		var err error
		console, err = h.Console(t.Context(), id, 1<<20)
		require.NoError(t, err)
		return strings.Contains(string(console), text)
	}, 60*time.Second, 50*time.Millisecond, "the guest did not say %q", text)
	return string(console)
}

func TestDisksAndCards(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	testneed.Tools(t, "qemu-img")
	r := newRig(t)
	h, m := r.driver(), r.machine()
	base, overlay, data := filepath.Join(r.dir, "base.raw"), filepath.Join(r.dir, "disk.qcow2"), filepath.Join(r.dir, "data.raw")
	require.NoError(t, os.WriteFile(base, append([]byte("written in the base\n"), make([]byte, 1<<20-20)...), 0o600))
	require.NoError(t, os.WriteFile(data, make([]byte, 1<<20), 0o600))
	r.command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay)
	r.command("ip", "-n", r.netns, "tuntap", "add", "tap7", "mode", "tap", "vnet_hdr")
	m.Disks = []compute.Disk{
		{Path: overlay, Format: "qcow2", Serial: "the-root", Backing: []compute.BackingFile{{Path: base, Format: "raw"}}},
		{Path: data, Format: "raw", ReadOnly: true},
		{Path: base, Format: "raw", ReadOnly: true, Device: "sda"},
	}
	m.NICs = []compute.NIC{{Tap: "tap7", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 7}, MTU: 1440}}
	require.NoError(t, h.Create(t.Context(), m))
	console := waitFor(t, h, m.ID, banner)
	require.Contains(t, console, "guest: vda the-root written in the base")
	require.Contains(t, console, "guest: vdb read-only 1")
	waitFor(t, h, m.ID, "guest: sda 2048 written in the base")
	require.Contains(t, console, "guest: eth0 02:00:00:00:00:07 1440")
	require.NoError(t, h.Destroy(t.Context(), m.ID, m.Epoch))
	require.Contains(t, r.command("ip", "-n", r.netns, "link", "show", "tap7"), "tap7", "the tap outlives the machine")
}

// TestHeadersAreNotFollowed gives a machine a disk whose header names a file of the host, as a tenant might make it.
func TestHeadersAreNotFollowed(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	testneed.Tools(t, "qemu-img")
	r := newRig(t)
	h := r.driver()
	secret := filepath.Join(r.dir, "secret")
	require.NoError(t, os.WriteFile(secret, append([]byte("secret of the host\n"), make([]byte, 1<<20)...), 0o600))
	for _, format := range []string{"qcow2", "raw"} {
		m := r.machine()
		disk := filepath.Join(r.dir, m.ID+".disk")
		r.command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, disk)
		m.Disks = []compute.Disk{{Path: disk, Format: format}}
		require.NoError(t, h.Create(t.Context(), m))
		require.NotContains(t, waitFor(t, h, m.ID, banner), "secret of the host", format)
		require.NoError(t, h.Destroy(t.Context(), m.ID, m.Epoch))
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	r := newRig(t)
	h := r.driver()
	for what, spoil := range map[string]func(*compute.Machine){ // libvirt's words
		"no-such-disk":   func(m *compute.Machine) { m.Disks = []compute.Disk{{Path: "/no-such-disk", Format: "raw"}} },
		"no-such-kernel": func(m *compute.Machine) { m.Kernel = "/no-such-kernel" },
		"managed='no' but specified dev doesn't exist": func(m *compute.Machine) {
			m.NICs = []compute.NIC{{Tap: "no-such-tap", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
		},
	} {
		m := r.machine()
		spoil(&m)
		err := h.Create(t.Context(), m)
		require.ErrorContains(t, err, what)
		require.NotContains(t, err.Error(), "\n")
		all, err := h.List(t.Context())
		require.NoError(t, err)
		for _, d := range all {
			require.NotEqual(t, compute.PowerRunning, d.Power, what)
		}
		require.NoError(t, h.Destroy(t.Context(), m.ID, m.Epoch))
	}
	require.Empty(t, strings.TrimSpace(r.virsh("list", "--all", "--name")))
}

// TestKilledInTheMiddleOfCreate kills libvirtd at several moments of a Create and checks that repeating it settles it.
func TestKilledInTheMiddleOfCreate(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	r := newRig(t)
	h := r.driver()
	for _, moment := range []time.Duration{0, 5 * time.Millisecond, 8 * time.Millisecond, 12 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 350 * time.Millisecond} {
		m := r.machine()
		result := make(chan error, 1)
		go func() { result <- h.Create(t.Context(), m) }()
		time.Sleep(moment) // not to wait for anything: the moment is what differs
		require.NoError(t, r.Kill(t.Context()))
		if err := <-result; err != nil {
			require.ErrorIs(t, err, errdefs.ErrUnavailable)
		}
		r.start()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		require.Eventually(t, func() bool { return h.Create(ctx, m) == nil }, time.Minute, 100*time.Millisecond, "after %v", moment)
		if moment >= 100*time.Millisecond { // booting takes long, and is not what differs
			require.Equal(t, 1, strings.Count(waitFor(t, h, m.ID, banner), banner))
		}
		require.Equal(t, []int{r.qemu(m.ID)}, r.guests(), "after %v", moment)
		require.NoError(t, h.Destroy(ctx, m.ID, m.Epoch))
		require.Empty(t, r.guests(), "after %v", moment)
		cancel()
		require.Empty(t, strings.TrimSpace(r.virsh("list", "--all", "--name")), "after %v", moment)
	}
}
