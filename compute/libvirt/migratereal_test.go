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

// TestKilledInTheMiddleOfMigrate kills either libvirtd at several moments of a Migrate: the machine never runs on both hosts, and Abort tells on which
// it is: at the source, where it runs, unless the source's own libvirtd ended in the moment in which it left.
func TestKilledInTheMiddleOfMigrate(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	first, second := newRig(t), newRig(t)
	from, to := first.peer(), second.peer()
	ctx := t.Context()
	power := func(h *libvirt.Hypervisor, id string) (p compute.PowerState) {
		require.Eventually(t, func() bool {
			all, err := h.List(ctx)
			for _, d := range all {
				if d.ID == id {
					p = d.Power
				}
			}
			return err == nil
		}, time.Minute, 50*time.Millisecond)
		return p
	}
	for _, victim := range []*rig{first, second} {
		for _, moment := range []time.Duration{20 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, 800 * time.Millisecond} {
			m := first.machine()
			require.NoError(t, from.Create(ctx, m))
			waitFor(t, from, m.ID, banner)
			there, err := second.on(m)
			require.NoError(t, err)
			address, err := to.Prepare(ctx, there)
			require.NoError(t, err)
			begun, result := time.Now(), make(chan error, 1)
			go func() { result <- from.Migrate(ctx, there, address) }()
			time.Sleep(moment) // not to wait for anything: the moment is what differs
			require.NoError(t, victim.Kill(ctx))
			err = <-result
			t.Logf("killed after %v, migrated after %v: %v", moment, time.Since(begun), err)
			victim.start()
			var left bool
			require.Eventually(t, func() bool { left, err = from.Abort(ctx, m.ID); return err == nil }, time.Minute, 100*time.Millisecond, "after %v", moment)
			here, elsewhere := power(from, m.ID), power(to, m.ID)
			require.NotEqual(t, compute.PowerRunning, elsewhere, "after %v", moment)
			if left {
				require.NotEqual(t, compute.PowerRunning, here, "after %v", moment)
				require.NoError(t, to.Create(ctx, there), "after %v", moment)
				require.Equal(t, compute.PowerRunning, power(to, m.ID))
			} else if here != compute.PowerRunning { // a libvirtd that ends just then forgets why a domain is off
				require.Contains(t, []compute.PowerState{compute.PowerShutoff, compute.PowerCrashed}, here, "after %v", moment)
				require.Equal(t, first, victim, "after %v", moment)
			}
			require.NoError(t, from.Destroy(ctx, m.ID, m.Epoch))
			require.NoError(t, to.Destroy(ctx, m.ID, m.Epoch))
			require.Empty(t, append(first.guests(), second.guests()...), "after %v", moment)
		}
	}
}
