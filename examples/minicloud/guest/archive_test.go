package guest

import (
	"compress/gzip"
	"io"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// file is a file of an archive.
type file struct {
	mode, major, minor uint32
	content            string
}

// unpackArchive reads a compressed archive back, by the letter of the format.
func unpackArchive(t *testing.T, path string) map[string]file {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	packed, err := gzip.NewReader(f)
	require.NoError(t, err)
	data, err := io.ReadAll(packed)
	require.NoError(t, err)

	entries, inodes := map[string]file{}, map[uint32]bool{}
	for at := 0; ; {
		require.Zero(t, at%4)
		header := data[at:]
		require.Equal(t, "070701", string(header[:6]))
		field := func(n int) uint32 {
			v, err := strconv.ParseUint(string(header[6+8*n:14+8*n]), 16, 32)
			require.NoError(t, err)
			return uint32(v)
		}
		nameEnd := at + 110 + int(field(11))
		name := string(data[at+110 : nameEnd-1])
		require.Zero(t, data[nameEnd-1])
		start := (nameEnd + 3) &^ 3
		end := start + int(field(6))
		at = (end + 3) &^ 3
		if name == "TRAILER!!!" {
			require.Len(t, data, at)
			return entries
		}
		require.False(t, inodes[field(0)], "two files with one inode are one file with two names")
		inodes[field(0)] = true
		entries[name] = file{mode: field(1), major: field(9), minor: field(10), content: string(data[start:end])}
	}
}
