package file_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/nodevm"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/volume/file"
)

// TestCopiesShareBlocks uses XFS and Btrfs, in a machine of its own: with reflinks copies cost no room, without them they cost their data.
func TestCopiesShareBlocks(t *testing.T) {
	if !nodevm.Inside() {
		testneed.Slow(t)
		testneed.Tools(t, "mkfs.xfs", "mkfs.btrfs")
		nodevm.Run(t, nodevm.Config{Tests: "^TestCopiesShareBlocks$", Memory: 1024, Modules: []string{"loop", "crc32c_generic", "xfs", "btrfs"},
			Tools: []string{"mkfs.xfs", "mkfs.btrfs"}})
		return
	}
	const size = 24 << 20
	for _, on := range []struct {
		fs, option string
		shares     bool
	}{{"xfs", "-mreflink=1", true}, {"xfs", "-mreflink=0", false}, {"btrfs", "-msingle", true}} {
		run := func(name string, args ...string) {
			t.Helper()
			out, err := exec.Command(name, args...).CombinedOutput()
			require.NoError(t, err, "%v %s: %s", on, name, out)
		}
		disk, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
		require.NoError(t, os.WriteFile(disk, nil, 0o600))
		require.NoError(t, os.Truncate(disk, 320<<20))
		run("mkfs."+on.fs, "-q", on.option, disk)
		run("mount", "-t", on.fs, "-o", "loop", disk, dir)
		volumes := filepath.Join(dir, "volumes")
		require.NoError(t, os.Mkdir(volumes, 0o700))
		d, err := file.Open(file.Config{Dir: volumes, TotalGiB: 16})
		require.NoError(t, err)
		used := func() int64 {
			run("sync")
			var s syscall.Statfs_t
			require.NoError(t, syscall.Statfs(dir, &s))
			return int64(s.Blocks-s.Bfree) * s.Bsize
		}
		ctx := t.Context()
		content := func(id string) []byte {
			t.Helper()
			path, err := d.Path(ctx, id)
			require.NoError(t, err)
			f, err := os.Open(path)
			require.NoError(t, err)
			defer f.Close()
			b := make([]byte, size)
			_, err = f.ReadAt(b, 0)
			require.NoError(t, err)
			return b
		}
		id, snapshot := uuid.NewString(), uuid.NewString()
		require.NoError(t, d.Create(ctx, id, 1))
		path, err := d.Path(ctx, id)
		require.NoError(t, err)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		first := bytes.Repeat([]byte("what it held then   "), size/20+1)[:size]
		_, err = f.WriteAt(first, 0)
		require.NoError(t, err)
		before := used()
		require.NoError(t, d.Snapshot(ctx, snapshot, id))
		clones := []string{uuid.NewString(), uuid.NewString()}
		require.NoError(t, d.Clone(ctx, clones[0], snapshot, 1))
		require.NoError(t, d.Clone(ctx, clones[1], id, 2))
		cost := used() - before
		if on.shares {
			require.Less(t, cost, int64(2<<20), on)
		} else {
			require.Greater(t, cost, int64(3*size-1<<20), on)
		}
		// What is written afterwards is in one of them alone.
		_, err = f.WriteAt([]byte("something else"), 4096)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		for _, c := range clones {
			require.True(t, bytes.Equal(first, content(c)))
		}
		require.False(t, bytes.Equal(first, content(id)))
		require.NoError(t, d.DeleteSnapshot(ctx, snapshot))
		require.NoError(t, d.Delete(ctx, id))
		require.True(t, bytes.Equal(first, content(clones[0])))
		require.NoError(t, d.Close())
		run("umount", dir)
	}
}
