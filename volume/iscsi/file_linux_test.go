package iscsi

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFileDiscardsAndKnowsItsHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	f, err := OpenFile(path)
	require.NoError(t, err)
	defer f.Close()
	full := make([]byte, 1<<20)
	for i := range full {
		full[i] = 0xaa
	}
	_, err = f.WriteAt(full, 0)
	require.NoError(t, err)
	require.NoError(t, f.Discard(0, 0))
	require.NoError(t, f.Discard(64<<10, 128<<10))
	require.NoError(t, f.Discard(512<<10+512, 512))
	require.NoError(t, f.Sync())
	clear(full[64<<10 : 192<<10])
	clear(full[512<<10+512 : 512<<10+1024])
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, full, got)
	mapped, n, err := f.Mapped(64 << 10)
	require.NoError(t, err)
	require.False(t, mapped)
	require.EqualValues(t, 128<<10, n)
	mapped, n, err = f.Mapped(0)
	require.NoError(t, err)
	require.True(t, mapped)
	require.EqualValues(t, 64<<10, n)
	size, err := f.Size()
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, size)
}
