package iscsi

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is written in pieces is all there.
func TestFileWritesInPieces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	fill(t, path, 1<<20)
	f, err := OpenFile(path)
	require.NoError(t, err)
	for _, size := range []int{0, 512, piece - 512, piece, piece + 512, 3*piece + 4096} {
		data := pattern(size, uint64(size))
		n, err := f.WriteAt(data, 4096)
		require.NoError(t, err)
		require.Equal(t, size, n)
		got := make([]byte, size)
		_, err = f.ReadAt(got, 4096)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got), "%d bytes", size)
	}
	require.NoError(t, f.Close())
	n, err := f.WriteAt(make([]byte, 2*piece), 0)
	require.Error(t, err)
	require.Zero(t, n)
}
