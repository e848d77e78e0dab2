package guest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// machine makes a tree like that of a machine with a kernel and busybox installed.
func machine(t *testing.T, release string) string {
	t.Helper()
	root := t.TempDir()
	modules := filepath.Join("lib/modules", release)
	write(t, root, "boot/vmlinuz-"+release, "kernel")
	write(t, root, modules+"/modules.dep", "kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko\n"+
		"kernel/net/core/failover.ko:\nkernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio-ring.ko\n"+
		"kernel/drivers/virtio/virtio-ring.ko:\nkernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko\n"+
		"kernel/drivers/acpi/button.ko:\nkernel/drivers/input/evdev.ko:\n")
	write(t, root, modules+"/modules.builtin", "kernel/net/packet/af_packet.ko\nkernel/drivers/virtio/virtio_pci.ko\n")
	for _, file := range []string{"drivers/net/virtio_net", "net/core/failover", "drivers/virtio/virtio", "drivers/virtio/virtio-ring",
		"drivers/block/virtio_blk", "drivers/acpi/button", "drivers/input/evdev"} {
		write(t, root, modules+"/kernel/"+file+".ko", "module "+file)
	}
	write(t, root, "usr/bin/busybox", string(staticProgram))
	return root
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

// staticProgram is the smallest ELF file: a header of 64 bytes with no program headers, and so none for a loader.
var staticProgram = append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0},
	append(make([]byte, 28), 64, 0, 56, 0, 0, 0, 64, 0, 0, 0, 0, 0)...)

func TestBuildPutsModulesInLoadingOrder(t *testing.T) {
	files, err := Build(t.Context(), Config{Dir: t.TempDir(), root: machine(t, "6.1.0-9-cloud-amd64")})
	require.NoError(t, err)
	content := unpackArchive(t, files.Ramdisk)
	require.Equal(t, "failover.ko\nvirtio_ring.ko\nvirtio.ko\nvirtio_net.ko\nvirtio_blk.ko\nevdev.ko\nbutton.ko\n",
		content["lib/modules/order"].content, "each after those that it needs")
	require.Equal(t, "module drivers/virtio/virtio-ring", content["lib/modules/virtio_ring.ko"].content)
	require.Equal(t, string(staticProgram), content["bin/busybox"].content)
	require.EqualValues(t, 0o120777, content["bin/sh"].mode)
	require.EqualValues(t, 0o100755, content["init"].mode)
	require.Equal(t, file{mode: 0o020600, major: 5, minor: 1}, content["dev/console"])
}

func TestBuildIsCachedAndReproducible(t *testing.T) {
	root, dir := machine(t, "6.1.0-9-cloud-amd64"), t.TempDir()
	first, err := Build(t.Context(), Config{Dir: dir, root: root})
	require.NoError(t, err)
	before, err := os.Stat(first.Ramdisk)
	require.NoError(t, err)

	again, err := Build(t.Context(), Config{Dir: dir, root: root})
	require.NoError(t, err)
	require.Equal(t, first, again)
	after, err := os.Stat(again.Ramdisk)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "the second call built again")

	elsewhere, err := Build(t.Context(), Config{Dir: t.TempDir(), root: root})
	require.NoError(t, err)
	require.Equal(t, read(t, first.Ramdisk), read(t, elsewhere.Ramdisk))

	write(t, root, "usr/bin/busybox", string(staticProgram)+"newer")
	changed, err := Build(t.Context(), Config{Dir: dir, root: root})
	require.NoError(t, err)
	require.NotEqual(t, first.Ramdisk, changed.Ramdisk)
	require.FileExists(t, first.Ramdisk, "a guest that may be in use was removed")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return content
}

func TestBuildTwiceAtOnce(t *testing.T) {
	root, dir := machine(t, "6.1.0-9-cloud-amd64"), t.TempDir()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, errs[i] = Build(t.Context(), Config{Dir: dir, root: root}) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "temporary directories stayed")
}

func TestBuildSaysWhatToInstall(t *testing.T) {
	for name, c := range map[string]struct {
		remove string
		want   string
	}{
		"no kernel":  {"boot", "install linux-image-cloud-"},
		"no modules": {"lib/modules", "install linux-image-cloud-"},
		"no module":  {"lib/modules/6.1.0-9-cloud-amd64/modules.builtin", "6.1.0-9-cloud-amd64/modules.builtin"},
		"no busybox": {"usr/bin/busybox", "install busybox-static"},
	} {
		t.Run(name, func(t *testing.T) {
			root, dir := machine(t, "6.1.0-9-cloud-amd64"), t.TempDir()
			require.NoError(t, os.RemoveAll(filepath.Join(root, c.remove)))
			_, err := Build(t.Context(), Config{Dir: dir, root: root})
			require.ErrorContains(t, err, c.want)
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}

	root := machine(t, "6.1.0-9-cloud-amd64")
	write(t, root, "lib/modules/6.1.0-9-cloud-amd64/modules.builtin", "")
	_, err := Build(t.Context(), Config{Dir: t.TempDir(), root: root})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "has no module virtio_pci")
}

func TestBuildRefusesBadConfig(t *testing.T) {
	_, err := Build(t.Context(), Config{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "Config.Dir")
	_, err = Build(t.Context(), Config{Dir: t.TempDir(), Peers: -1})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "Config.Peers")
}
