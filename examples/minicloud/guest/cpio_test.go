package guest

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// unpackArchive reads a compressed archive back, by the letter of the format.
func unpackArchive(t *testing.T, file string) map[string]entry {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	packed, err := gzip.NewReader(f)
	require.NoError(t, err)
	data, err := io.ReadAll(packed)
	require.NoError(t, err)

	entries, inodes := map[string]entry{}, map[uint32]bool{}
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
		entries[name] = entry{name: name, mode: field(1), major: field(9), minor: field(10), content: data[start:end]}
	}
}

func TestCpioReadsTheArchive(t *testing.T) {
	testneed.Tools(t, "cpio")
	var archive bytes.Buffer
	require.NoError(t, writeArchive(&archive, []entry{
		{name: "dir", mode: modeDir | 0o755},
		{name: "dir/odd", mode: modeFile | 0o644, content: []byte("12345")},
		{name: "dir/empty", mode: modeFile | 0o600},
		{name: "link", mode: modeLink | 0o777, content: []byte("dir/odd")},
	}))
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--extract", "--quiet", "--no-preserve-owner")
	cmd.Dir, cmd.Stdin = dir, &archive
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Empty(t, string(out))
	require.Equal(t, "12345", string(read(t, dir+"/link")))
	require.Empty(t, read(t, dir+"/dir/empty"))
}

// pack runs a program that packs a file.
func pack(t *testing.T, command []string) {
	t.Helper()
	testneed.Tools(t, command[0])
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	require.NoError(t, err, string(out))
}
