package initramfs

import (
	"bytes"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// A program in the archive runs with nothing else there; fio's libraries have libraries where they alone look for them.
func TestAProgramBringsItsLibraries(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "cpio", "chroot", "fio")
	fio, err := exec.LookPath("fio")
	require.NoError(t, err)
	a := NewArchive()
	require.NoError(t, a.Program(fio))
	var archive bytes.Buffer
	require.NoError(t, a.Write(&archive))
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--extract", "--quiet")
	cmd.Dir, cmd.Stdin = dir, &archive
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	out, err = exec.Command("chroot", dir, fio, "--version").CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "fio-")
}
