package lvm

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/nodevm"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// TestOnLVM uses LVM itself, in a machine of its own: a group on a loop device.
func TestOnLVM(t *testing.T) {
	if !nodevm.Inside() {
		testneed.Slow(t)
		testneed.Tools(t, "lvm")
		nodevm.Run(t, nodevm.Config{Tests: "^TestOnLVM$", Modules: []string{"loop", "dm_mod", "dm_snapshot", "dm_thin_pool"}, Memory: 768,
			Tools: []string{"lvs", "vgs", "lvcreate", "lvremove", "lvchange", "lvextend", "vgcreate"}})
		return
	}
	kinds(t, testOnLVM)
}

const lvmConf = `
activation { udev_sync = 0  udev_rules = 0  verify_udev_operations = 1  monitoring = 0 }
global { thin_check_executable = ""  use_lvmpolld = 0  event_activation = 0 }
devices { use_devicesfile = 0  obtain_device_list_from_udev = 0  external_device_info_source = "none" }
backup { backup = 0  archive = 0 }
`

func testOnLVM(t *testing.T, thin bool) {
	group, loop := "linear0", "/dev/loop0"
	if thin {
		group, loop = "thin0", "/dev/loop1"
	}
	system := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(system, "lvm.conf"), []byte(lvmConf), 0o600))
	t.Setenv("LVM_SYSTEM_DIR", system)
	run := func(name string, args ...string) {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	// A disk full of what somebody left on it.
	require.NoError(t, os.WriteFile(disk, []byte(strings.Repeat("what was here before", 96<<20/20)), 0o600))
	run("losetup", loop, disk)
	run("vgcreate", "-y", "-s", "4m", group, loop)
	cfg := Config{VG: group, gib: small}
	if thin {
		run("lvcreate", "-y", "-Zy", "-L", "64m", "--thinpool", "pool", group)
		cfg.ThinPool = "pool"
	}
	d, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	ctx := t.Context()
	zeros := func(id string, from, to int64) {
		t.Helper()
		path, err := d.Path(ctx, id)
		require.NoError(t, err)
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		b := make([]byte, to-from)
		_, err = f.ReadAt(b, from)
		require.NoError(t, err)
		require.Empty(t, strings.Trim(string(b), "\x00"), "it is not all zeros")
	}
	before, err := d.Stats(ctx)
	require.NoError(t, err)
	require.Positive(t, before.FreeGiB)

	id, snapshot, clone := uuid.NewString(), uuid.NewString(), uuid.NewString()
	for range 2 {
		require.NoError(t, d.Create(ctx, id, 1))
	}
	zeros(id, 0, small)
	put(t, d, id, "secret of a tenant  ")
	for range 2 {
		require.NoError(t, d.Snapshot(ctx, snapshot, id))
	}
	put(t, d, id, "written after it    ")
	for range 2 {
		require.NoError(t, d.Clone(ctx, clone, snapshot, 2))
	}
	require.Equal(t, "secret of a tenant  ", get(t, d, clone, 0))
	require.Equal(t, "written after it    ", get(t, d, id, 0))
	zeros(clone, small, 2*small)
	for range 2 {
		require.NoError(t, d.Extend(ctx, id, 3))
	}
	zeros(id, small, 3*small)
	all, err := d.List(ctx)
	require.NoError(t, err)
	require.ElementsMatch(t, []volume.Info{{ID: id, SizeGiB: 3}, {ID: snapshot, SizeGiB: 1, Of: id}, {ID: clone, SizeGiB: 2}}, all)
	require.ErrorIs(t, d.Delete(ctx, id), errdefs.ErrFailedPrecondition)

	testInUse(t, d, thin)

	// A foreign one with our prefix stays; one that is in use stays, with an error; what is missing is success; what has no room is refused.
	foreign := volumePrefix + uuid.NewString()
	if thin {
		run("lvcreate", "-y", "-n", foreign, "-V", "4m", "--thinpool", "pool", group)
	} else {
		run("lvcreate", "-y", "-Zn", "-Wn", "-n", foreign, "-L", "4m", group)
	}
	require.NoError(t, d.Delete(ctx, strings.TrimPrefix(foreign, volumePrefix)))
	require.ErrorIs(t, d.Create(ctx, strings.TrimPrefix(foreign, volumePrefix), 1), errdefs.ErrAlreadyExists)
	run("lvs", group+"/"+foreign)
	path, err := d.Path(ctx, clone)
	require.NoError(t, err)
	held, err := os.Open(path)
	require.NoError(t, err)
	require.ErrorIs(t, d.Delete(ctx, clone), errdefs.ErrUnavailable)
	require.NoError(t, held.Close())
	require.ErrorIs(t, d.Create(ctx, uuid.NewString(), 1000), errdefs.ErrResourceExhausted)

	// A device node that leads elsewhere is not used, and what it leads to stays as it is.
	other := uuid.NewString()
	require.NoError(t, d.Create(ctx, other, 1))
	put(t, d, other, "of somebody else    ")
	otherPath, err := d.Path(ctx, other)
	require.NoError(t, err)
	node, err := os.Readlink(path)
	require.NoError(t, err)
	target, err := filepath.EvalSymlinks(otherPath)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink(target, path))
	_, err = d.Path(ctx, clone)
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.ErrorContains(t, err, "stale")
	if !thin { // which are made of each other without their nodes
		require.ErrorIs(t, d.Clone(ctx, uuid.NewString(), clone, 2), errdefs.ErrUnavailable)
	}
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink(node, path))
	require.Equal(t, "of somebody else    ", get(t, d, other, 0))

	// One that somebody has removed is not found, and nothing else goes with it.
	run("lvremove", "-y", "-f", group+"/"+volumePrefix+other)
	_, err = d.Path(ctx, other)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.ErrorIs(t, d.Extend(ctx, other, 2), errdefs.ErrNotFound)
	require.ErrorIs(t, d.Clone(ctx, uuid.NewString(), other, 2), errdefs.ErrNotFound)
	require.ErrorIs(t, d.Snapshot(ctx, uuid.NewString(), other), errdefs.ErrNotFound)
	require.NoError(t, d.Delete(ctx, other))

	// A full group takes nothing more, and what is in it stays.
	if !thin {
		room, err := d.Stats(ctx)
		require.NoError(t, err)
		filler := uuid.NewString()
		require.NoError(t, d.Create(ctx, filler, room.FreeGiB))
		require.ErrorIs(t, d.Create(ctx, uuid.NewString(), 1), errdefs.ErrResourceExhausted)
		require.ErrorIs(t, d.Extend(ctx, id, 4), errdefs.ErrResourceExhausted)
		require.ErrorIs(t, d.Clone(ctx, uuid.NewString(), clone, 2), errdefs.ErrResourceExhausted)
		require.NoError(t, d.Delete(ctx, filler))
	}
	require.Equal(t, "secret of a tenant  ", get(t, d, clone, 0))
	all, err = d.List(ctx)
	require.NoError(t, err)
	require.Len(t, all, 3)

	for range 2 {
		require.NoError(t, d.DeleteSnapshot(ctx, snapshot))
		require.NoError(t, d.Delete(ctx, clone))
		require.NoError(t, d.Delete(ctx, id))
	}
	again := uuid.NewString()
	require.NoError(t, d.Create(ctx, again, 8))
	zeros(again, 0, 8*small)
	require.NoError(t, d.Delete(ctx, again))
	all, err = d.List(ctx)
	require.NoError(t, err)
	require.Empty(t, all)
}

// testInUse: a snapshot of a volume that is written to has what was flushed before it, and nothing without what was flushed before that.
func testInUse(t *testing.T, d *Driver, thin bool) {
	ctx, id := t.Context(), uuid.NewString()
	require.NoError(t, d.Create(ctx, id, 1))
	path, err := d.Path(ctx, id)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	const places = 16
	write := func(n uint64) {
		_, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, n), int64(n%places)*small/places)
		require.NoError(t, errors.Join(err, f.Sync()))
	}
	var n atomic.Uint64
	for range 2 * places {
		write(n.Add(1))
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				write(n.Load() + 1)
				n.Add(1)
			}
		}
	}()
	for range 2 {
		before := n.Load()
		snapshot, clone := uuid.NewString(), uuid.NewString()
		require.NoError(t, d.Snapshot(ctx, snapshot, id))
		require.NoError(t, d.Clone(ctx, clone, snapshot, 1))
		path, err := d.Path(ctx, clone)
		require.NoError(t, err)
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		var got [places]uint64
		for i := range got {
			got[i] = binary.BigEndian.Uint64(content[i*small/places:])
		}
		last := slices.Max(got[:])
		require.GreaterOrEqual(t, last, before)
		for i, has := range got {
			require.Equal(t, last-(last-uint64(i))%places, has, "thin %v, slot %d of %v", thin, i, got)
		}
		require.NoError(t, d.Delete(ctx, clone))
		require.NoError(t, d.DeleteSnapshot(ctx, snapshot))
	}
	close(stop)
	<-ended
	require.NoError(t, f.Close())
	require.NoError(t, d.Delete(ctx, id))
}
