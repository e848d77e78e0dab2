//go:build linux

package ext4

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s: %s", name, out)
	return string(out)
}

// fs makes a file system with a directory of configuration in it, or another.
func fs(t *testing.T, kind, dir string) []byte {
	t.Helper()
	testneed.Tools(t, "mke2fs", "debugfs", "e2fsck", "prlimit")
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, dir, "interfaces"), bytes.Repeat([]byte("old\n"), 5000), 0o755))
	file := filepath.Join(t.TempDir(), "fs")
	run(t, "mke2fs", "-q", "-t", kind, "-d", root, file, "8M")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return b
}

// disk puts contents at multiples of a MiB into a file, and their places into an MBR or GPT.
func disk(t *testing.T, gpt bool, contents ...[]byte) string {
	t.Helper()
	b := make([]byte, 1<<20)
	if gpt {
		b[446+4] = 0xee
		binary.LittleEndian.PutUint32(b[446+8:], 1)
		copy(b[512:], "EFI PART")
		binary.LittleEndian.PutUint64(b[512+72:], 2)
		binary.LittleEndian.PutUint32(b[512+80:], 128)
		binary.LittleEndian.PutUint32(b[512+84:], 128)
	}
	b[510], b[511] = 0x55, 0xaa
	for i, content := range contents {
		start := len(b) / 512
		if gpt {
			e := b[1024+128*i:]
			e[0] = 1
			binary.LittleEndian.PutUint64(e[32:], uint64(start))
		} else {
			e := b[446+16*i:]
			e[4] = 0x83
			binary.LittleEndian.PutUint32(e[8:], uint32(start))
		}
		b = append(b, content...)
	}
	return file(t, b)
}

func file(t *testing.T, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(name, b, 0o600))
	return name
}

func TestWrite(t *testing.T) {
	const name = "/etc/network/interfaces"
	boot, other := fs(t, "ext2", "grub"), make([]byte, 1<<20)
	for what, c := range map[string]struct {
		disk   string
		offset string
	}{
		"ext4 on the whole disk": {file(t, fs(t, "ext4", "etc/network")), "0"},
		"ext2 on the whole disk": {file(t, fs(t, "ext2", "etc/network")), "0"},
		"second of an MBR":       {disk(t, false, other, fs(t, "ext3", "etc/network")), "2097152"},
		"behind a boot in a GPT": {disk(t, true, boot, fs(t, "ext4", "etc/network")), "9437184"},
	} {
		t.Run(what, func(t *testing.T) {
			w := New(Config{})
			for _, content := range []string{"auto lo\n", "", string(bytes.Repeat([]byte("new\n"), 9000))} {
				require.NoError(t, w.Write(t.Context(), c.disk, name, []byte(content)))
				at := c.disk + "?offset=" + c.offset
				out, err := exec.Command("debugfs", "-R", "cat "+name, at).Output()
				require.NoError(t, err)
				require.Equal(t, content, string(out))
				require.Regexp(t, `Mode:\s+0644`, run(t, "debugfs", "-R", "stat "+name, at))
				require.Regexp(t, `User:\s+0\s+Group:\s+0`, run(t, "debugfs", "-R", "stat "+name, at))
				run(t, "e2fsck", "-f", "-n", at)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	good := fs(t, "ext4", "etc/network")
	dirty := bytes.Clone(good)
	dirty[1024+0x60] |= 4
	tiny := make([]byte, 600)
	tiny[510], tiny[511] = 0x55, 0xaa
	bad := make([]byte, 1<<20)
	copy(bad[512:], "EFI PART")
	bad[446+4], bad[510], bad[511] = 0xee, 0x55, 0xaa
	w := New(Config{})
	const name = "/etc/network/interfaces"
	for what, c := range map[string]struct {
		disk, name string
		content    []byte
		class      error
	}{
		"no file system":       {file(t, make([]byte, 1<<20)), name, nil, errdefs.ErrInvalidArgument},
		"empty":                {file(t, nil), name, nil, errdefs.ErrInvalidArgument},
		"a table and no more":  {file(t, tiny), name, nil, errdefs.ErrInvalidArgument},
		"a damaged table":      {file(t, bad), name, nil, errdefs.ErrInvalidArgument},
		"not unmounted":        {file(t, dirty), name, nil, errdefs.ErrFailedPrecondition},
		"no such directory":    {file(t, good), "/etc/none/interfaces", nil, errdefs.ErrInvalidArgument},
		"a second command":     {file(t, good), "/etc/network/x\nrm y", nil, errdefs.ErrInvalidArgument},
		"a blank":              {file(t, good), "/etc/network/a b", nil, errdefs.ErrInvalidArgument},
		"upwards":              {file(t, good), "/etc/../x", nil, errdefs.ErrInvalidArgument},
		"relative":             {file(t, good), "etc/network/x", nil, errdefs.ErrInvalidArgument},
		"in the root":          {file(t, good), "/x", nil, errdefs.ErrInvalidArgument},
		"too long":             {file(t, good), name, make([]byte, MaxContent+1), errdefs.ErrInvalidArgument},
		"more than there's":    {file(t, good), name, bytes.Repeat([]byte("x"), MaxContent), nil},
		"a path with a query":  {"/x?offset=1", name, nil, errdefs.ErrInvalidArgument},
		"a path that's a name": {"x", name, nil, errdefs.ErrInvalidArgument},
	} {
		err := w.Write(t.Context(), c.disk, c.name, c.content)
		if c.class == nil {
			require.NoError(t, err, what)
			continue
		}
		require.ErrorIs(t, err, c.class, what)
	}
	full := file(t, good)
	run(t, "debugfs", "-w", "-R", "write "+file(t, bytes.Repeat([]byte("x"), 6<<20))+" big", full)
	require.ErrorIs(t, w.Write(t.Context(), full, name, bytes.Repeat([]byte("y"), MaxContent)), errdefs.ErrInternal, "a full one is noticed")
	require.ErrorIs(t, New(Config{Debugfs: "/nonexistent"}).Write(t.Context(), file(t, good), name, nil), errdefs.ErrFailedPrecondition)
	require.ErrorIs(t, New(Config{Prlimit: "/nonexistent"}).Write(t.Context(), file(t, good), name, nil), errdefs.ErrFailedPrecondition)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.Write(ctx, file(t, good), name, nil), context.Canceled)
}

// A name that leads elsewhere in the image stays in the image.
func TestLinksStayInside(t *testing.T) {
	image := file(t, fs(t, "ext4", "real"))
	run(t, "debugfs", "-w", "-R", "symlink /etc /../../../../real", image)
	outside := t.TempDir()
	_ = New(Config{}).Write(t.Context(), image, "/etc/interfaces", []byte("x"))
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, left)
	out, err := exec.Command("debugfs", "-R", "cat /real/interfaces", image).Output()
	require.NoError(t, err)
	require.Contains(t, []string{"x", string(bytes.Repeat([]byte("old\n"), 5000))}, string(out))
}

func FuzzFind(f *testing.F) {
	mbr := make([]byte, 4096)
	mbr[510], mbr[511], mbr[446+4] = 0x55, 0xaa, 0xee
	copy(mbr[512:], "EFI PART")
	f.Add(mbr)
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _ := find(bytes.NewReader(b))
		require.LessOrEqual(t, len(all), maxPartitions)
	})
}
