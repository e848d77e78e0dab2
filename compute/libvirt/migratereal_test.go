package libvirt_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/computetest"
	"github.com/dewpoint-cloud/dewpoint/compute/libvirt"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// on is a machine as it is on a rig.
func (r *rig) on(m compute.Machine) (compute.Machine, error) {
	m = m.Clone()
	m.Kernel, m.Ramdisk, m.ConsoleLog = r.kernel, r.ramdisk, filepath.Join(r.dir, m.ID+".console")
	return m, nil
}

// peer is a driver of a rig to which machines can move.
func (r *rig) peer() *libvirt.Hypervisor {
	h, err := libvirt.New(libvirt.Config{Socket: r.Socket(), Type: "qemu", Peer: r.URI()})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, h.Close()) })
	return h
}

func TestMigratorOnQEMU(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	first, second := newRig(t), newRig(t)
	env := computetest.MigrateEnv{Env: first.env(), To: second.env(), There: second.on, Back: first.on,
		Nowhere: `{"Libvirtd":"qemu+unix:///system?socket=/nowhere"}`}
	env.Driver, env.To.Driver = first.peer(), second.peer()
	computetest.TestMigrator(t, func(t *testing.T) computetest.MigrateEnv { return env })
}

// A local disk is copied while the guest runs: what is below it, both hosts have. The drive that is only read is the destination's own.
func TestLocalDisksMove(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	testneed.Tools(t, "qemu-img", "qemu-io")
	first, second := newRig(t), newRig(t)
	files := func(r *rig) (disks []compute.Disk) {
		base, overlay, drive := filepath.Join(r.dir, "base.raw"), filepath.Join(r.dir, "disk.qcow2"), filepath.Join(r.dir, "drive.raw")
		require.NoError(t, os.WriteFile(base, append([]byte("written in the base\n"), make([]byte, 64<<20)...), 0o600))
		require.NoError(t, os.WriteFile(drive, make([]byte, 1<<20), 0o600))
		r.command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay)
		return []compute.Disk{{Path: overlay, Format: "qcow2", Serial: "root", Backing: []compute.BackingFile{{Path: base, Format: "raw"}}},
			{Path: drive, Format: "raw", ReadOnly: true}}
	}
	m := first.machine()
	m.Disks = files(first)
	first.command("qemu-io", "-c", "write -P 0x5a 1M 20M", m.Disks[0].Path)
	from, to := first.peer(), second.peer()
	require.NoError(t, from.Create(t.Context(), m))
	require.Contains(t, waitFor(t, from, m.ID, banner), "guest: vda root written in the base")
	there, err := second.on(m)
	require.NoError(t, err)
	there.Disks = files(second)
	address, err := to.Prepare(t.Context(), there)
	require.NoError(t, err)
	require.NoError(t, from.Migrate(t.Context(), there, address))
	require.NoError(t, to.Create(t.Context(), there))
	require.NoError(t, from.Destroy(t.Context(), m.ID, m.Epoch))
	require.NoError(t, to.Stop(t.Context(), m.ID, time.Minute))
	second.command("qemu-img", "compare", m.Disks[0].Path, there.Disks[0].Path)
	require.Contains(t, second.command("qemu-io", "-c", "read -P 0x5a 1M 20M", there.Disks[0].Path), "read 20971520/20971520")
	info := second.command("qemu-img", "info", there.Disks[0].Path)
	require.Contains(t, info, filepath.Join(second.dir, "base.raw"))
	require.NoError(t, to.Destroy(t.Context(), m.ID, m.Epoch))
}
