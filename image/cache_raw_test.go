package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

func TestRawContent(t *testing.T) {
	testneed.Tools(t, "qemu-img", "prlimit")
	dir := t.TempDir()
	s := newSource()
	content := disk(3 << 20)
	raw := s.add("raw", Raw, content)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "raw"), content, 0o600))
	run(t, dir, "convert", "-f", "raw", "-O", "qcow2", "-c", "raw", "qcow2")
	packed, err := os.ReadFile(filepath.Join(dir, "qcow2"))
	require.NoError(t, err)
	qcow2 := s.add("qcow2", QCOW2, packed)
	c, err := NewCache(CacheConfig{Dir: filepath.Join(dir, "cache"), Source: s})
	require.NoError(t, err)
	defer c.Close()
	left := func() []os.DirEntry {
		all, err := os.ReadDir(filepath.Join(dir, "cache", incomingDir))
		require.NoError(t, err)
		return all
	}
	for _, img := range []Image{raw, qcow2} {
		// Twice at once, with sweeps that find nobody else to use the content.
		var paths []string
		require.NoError(t, c.Raw(t.Context(), img, func(first string) error {
			return c.Raw(t.Context(), img, func(second string) error {
				_, err := c.Sweep(t.Context(), 0)
				require.NoError(t, err)
				paths = []string{first, second}
				for _, path := range paths {
					got, err := os.ReadFile(path)
					require.NoError(t, err)
					require.True(t, bytes.Equal(content, got), img.ID)
				}
				return nil
			})
		}))
		for _, path := range paths {
			require.NoFileExists(t, path)
		}
		spoilt := errors.New("spoilt")
		require.ErrorIs(t, c.Raw(t.Context(), img, func(string) error { return spoilt }), spoilt)
		require.Empty(t, left())
		_, err = c.Sweep(t.Context(), 0)
		require.NoError(t, err)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	unused := func(string) error { t.Error("it was used"); return nil }
	require.ErrorIs(t, c.Raw(ended, qcow2, unused), context.Canceled)
	require.True(t, errdefs.IsInvalidArgument(c.Raw(t.Context(), s.add("kernel", Kernel, []byte("kernel")), unused)))
	require.True(t, errdefs.IsNotFound(c.Raw(t.Context(), Image{ID: "gone", Format: Raw, Status: Active, SHA256: raw.SHA256, Size: 1}, unused)))
	require.Empty(t, left())
}
