package initramfs

import (
	"bytes"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

func TestCpioReadsTheArchive(t *testing.T) {
	testneed.Tools(t, "cpio")
	a := &Archive{entries: map[string]entry{}} // without a device, which not everybody may make
	a.File("/dir/odd", 0o644, []byte("12345"))
	a.File("/dir/empty", 0o600, nil)
	a.Link("/link", "dir/odd")
	var archive bytes.Buffer
	require.NoError(t, a.Write(&archive))
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--extract", "--quiet", "--no-preserve-owner")
	cmd.Dir, cmd.Stdin = dir, &archive
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Empty(t, string(out))
	for name, want := range map[string]string{"/link": "12345", "/dir/empty": ""} {
		content, err := os.ReadFile(dir + name)
		require.NoError(t, err)
		require.Equal(t, want, string(content))
	}
}

// pack runs a program that packs a file.
func pack(t *testing.T, command []string) {
	t.Helper()
	testneed.Tools(t, command[0])
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	require.NoError(t, err, string(out))
}
