package initramfs

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func TestTheNewestCloudKernelIsPreferred(t *testing.T) {
	root := t.TempDir()
	for _, release := range []string{"6.1.0-56-cloud-amd64", "6.1.0-9-cloud-amd64", "6.12.1-amd64"} {
		write(t, root, "boot/vmlinuz-"+release, "kernel")
		write(t, root, "lib/modules/"+release+"/modules.dep", "")
		write(t, root, "lib/modules/"+release+"/modules.builtin", "kernel/drivers/virtio/virtio-pci.ko\n")
	}
	write(t, root, "boot/vmlinuz-6.2.0-1-cloud-amd64", "newer, without modules")
	k, err := NewestKernel(root)
	require.NoError(t, err)
	require.Equal(t, "6.1.0-56-cloud-amd64", k.Release)
	require.True(t, k.Has("virtio_pci"))
	require.False(t, k.Has("virtio_net"))
}

func TestUnpackedReadsPackedModules(t *testing.T) {
	dir := t.TempDir()
	for suffix, tool := range map[string][]string{".gz": {"gzip"}, ".xz": {"xz"}, ".zst": {"zstd", "-q", "--rm"}} {
		t.Run(suffix, func(t *testing.T) {
			name := "a" + suffix[1:]
			write(t, dir, name+".ko", "the module")
			pack(t, append(tool, filepath.Join(dir, name+".ko")))
			content, err := unpacked(t.Context(), filepath.Join(dir, name+".ko"+suffix))
			require.NoError(t, err)
			require.Equal(t, "the module", string(content))
		})
	}
	testneed.Tools(t, "xz")
	write(t, dir, "broken.ko.xz", "not packed")
	_, err := unpacked(t.Context(), filepath.Join(dir, "broken.ko.xz"))
	require.Error(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = unpacked(ctx, filepath.Join(dir, "broken.ko.xz"))
	require.ErrorIs(t, err, context.Canceled)
}
