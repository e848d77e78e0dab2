package qemuimg

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a qemu-img made of a line of shell.
func fake(t *testing.T, script string) string {
	t.Helper()
	testneed.Tools(t, "prlimit", "sh")
	path := filepath.Join(t.TempDir(), "qemu-img")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	return path
}

func TestEveryCallNamesTheFormats(t *testing.T) {
	said := filepath.Join(t.TempDir(), "args")
	r := New(Config{QemuImg: fake(t, `echo "$@" > `+said)})
	rows := []struct {
		want string
		call func() error
	}{
		{"create -q -f qcow2 -F raw -b /base /disk 1024", func() error {
			return r.CreateOverlay(t.Context(), "/disk", 1024, "/base", inspect.Raw)
		}},
		{"resize -q -f raw /disk 2048", func() error { return r.Resize(t.Context(), "/disk", inspect.Raw, 2048) }},
		{"convert -q -f raw -t writeback -O qcow2 /a /b", func() error {
			return r.Convert(t.Context(), "/a", inspect.Raw, "/b", inspect.QCOW2, 1<<30)
		}},
		{"check -q -f qcow2 /disk", func() error { return r.Check(t.Context(), "/disk") }},
	}
	for _, row := range rows {
		err := row.call()
		// Under the file size limit of check, 0, the fake can't write; all others must succeed.
		if !strings.HasPrefix(row.want, "check") {
			require.NoError(t, err)
			got, err := os.ReadFile(said)
			require.NoError(t, err)
			require.Equal(t, row.want, strings.TrimSpace(string(got)))
		}
	}
	argv := r.argv(call{"check", inspect.QCOW2, time.Second, 0, []string{"/disk"}})
	require.Contains(t, strings.Join(argv, " "), "check -q -f qcow2 /disk")
}

func TestBadArgumentsStartNothing(t *testing.T) {
	r := New(Config{QemuImg: "/nonexistent", Prlimit: "/nonexistent"})
	ctx := t.Context()
	for name, err := range map[string]error{
		"relative path":   r.Check(ctx, "disk"),
		"unclean path":    r.Check(ctx, "/a/../disk"),
		"option":          r.Resize(ctx, "--help", inspect.Raw, 1),
		"protocol":        r.CreateOverlay(ctx, "/disk", 1, "nbd://host", inspect.Raw),
		"json":            r.CreateOverlay(ctx, "/disk", 1, `json:{"driver":"raw"}`, inspect.Raw),
		"control":         r.Check(ctx, "/disk\n"),
		"no format":       r.Resize(ctx, "/disk", "", 1),
		"other format":    r.Convert(ctx, "/a", "vmdk", "/b", inspect.Raw, 1),
		"other target":    r.Convert(ctx, "/a", inspect.Raw, "/b", "vmdk", 1),
		"kernel":          r.Resize(ctx, "/disk", inspect.Kernel, 1),
		"no size":         r.Resize(ctx, "/disk", inspect.Raw, 0),
		"negative size":   r.CreateOverlay(ctx, "/disk", -1, "/base", inspect.Raw),
		"no limit":        r.Convert(ctx, "/a", inspect.Raw, "/b", inspect.Raw, 0),
		"backing: no fmt": r.CreateOverlay(ctx, "/disk", 1, "/base", ""),
	} {
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
	}
}

func TestFailuresHaveAClassAndNoPath(t *testing.T) {
	rows := []struct {
		name, script string
		class        error
		text         string
	}{
		{"exit 1", "echo qemu-img: /var/secret: bad >&2; exit 1", errdefs.ErrInternal, "exit status 1"},
		{"full disk", "echo '/var/secret: No space left on device' >&2; exit 1", errdefs.ErrResourceExhausted, "no space left"},
		{"processor time", "while :; do :; done", errdefs.ErrResourceExhausted, "processor time"},
		{"file size", "exec head -c 100000000 /dev/zero > $0.out", errdefs.ErrResourceExhausted, "more than 67108864 bytes"},
		{"signal", "kill -SEGV $$", errdefs.ErrInternal, "signal"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var log bytes.Buffer
			r := New(Config{QemuImg: fake(t, row.script), CPU: time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			err := r.CreateOverlay(t.Context(), "/disk", 1<<20, "/base", inspect.Raw)
			require.ErrorIs(t, err, row.class)
			require.ErrorContains(t, err, row.text)
			require.NotContains(t, err.Error(), "secret")
			require.Contains(t, log.String(), "qemu-img failed")
		})
	}
	testneed.Tools(t, "prlimit")
	require.ErrorIs(t, New(Config{QemuImg: "/nonexistent"}).Check(t.Context(), "/disk"), errdefs.ErrFailedPrecondition)
	require.ErrorIs(t, New(Config{Prlimit: "/nonexistent"}).Check(t.Context(), "/disk"), errdefs.ErrFailedPrecondition)
	require.ErrorIs(t, New(Config{QemuImg: fake(t, "exit 2")}).Check(t.Context(), "/disk"), errdefs.ErrDataLoss)
	require.NoError(t, New(Config{QemuImg: fake(t, "exit 3")}).Check(t.Context(), "/disk"))
}

// The limits hold from the first instruction of qemu-img, and it has no environment to be misled by.
func TestLimitsAreOnTheChild(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	t.Setenv("LD_PRELOAD_EXAMPLE", "inherited")
	r := New(Config{QemuImg: fake(t, "{ ulimit -v; ulimit -t; ulimit -f; ulimit -c; env; } > "+out), AddressSpace: 512 << 20,
		CPU: 7 * time.Second})
	require.NoError(t, r.CreateOverlay(t.Context(), "/disk", 1, "/base", inspect.Raw))
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	lines := strings.Fields(string(b))
	require.Equal(t, []string{"524288", "7", "131072", "0"}, lines[:4]) // KiB, seconds, half KiB, blocks
	require.NotContains(t, string(b), "inherited")
}

// qemu-img has up to 64 threads when a disk is slow. Here it is asked to have many at once, because a disk can't be slowed down at will.
func TestItsThreadsHaveRoom(t *testing.T) {
	testneed.Tools(t, "qemu-img")
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	content := make([]byte, 64<<20)
	for i := range content {
		content[i] = byte(i>>12) | 1 // no zeros, which cost no thread
	}
	require.NoError(t, os.WriteFile(from, content, 0o600))
	r := New(Config{QemuImg: fake(t, "exec qemu-img convert -q -W -m 16 -f raw -O qcow2 "+from+" "+to)})
	for range 5 {
		require.NoError(t, r.Convert(t.Context(), from, inspect.Raw, to, inspect.QCOW2, 1<<30))
	}
}

func TestContextKillsTheChild(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	r := New(Config{QemuImg: fake(t, "echo $$ > "+pidFile+".tmp; mv "+pidFile+".tmp "+pidFile+"; exec sleep 1000")})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.CreateOverlay(ctx, "/disk", 1, "/base", inspect.Raw) }()
	require.Eventually(t, func() bool { _, err := os.Stat(pidFile); return err == nil }, time.Minute, time.Millisecond)
	cancel()
	require.Equal(t, context.Canceled, <-ended)
	pid, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	require.NoDirExists(t, "/proc/"+strings.TrimSpace(string(pid)))

	require.Equal(t, context.Canceled, r.Check(ctx, "/disk"))
}

func TestRealQemuImg(t *testing.T) {
	testneed.Tools(t, "qemu-img", "prlimit")
	dir := t.TempDir()
	r, ctx := New(Config{}), t.Context()
	base, disk, flat := filepath.Join(dir, "base"), filepath.Join(dir, "disk"), filepath.Join(dir, "flat")
	content := bytes.Repeat([]byte("dew point "), 100<<10)
	require.NoError(t, os.WriteFile(base, content, 0o400))

	require.NoError(t, r.CreateOverlay(ctx, disk, 1<<30, base, inspect.Raw))
	require.NoError(t, r.Check(ctx, disk))
	require.NoError(t, r.Resize(ctx, disk, inspect.QCOW2, 2<<30))
	require.Error(t, r.Resize(ctx, disk, inspect.QCOW2, 1<<30), "never smaller")

	out, err := exec.Command("qemu-img", "info", "-f", "qcow2", "--output=json", disk).Output()
	require.NoError(t, err)
	var info map[string]any
	require.NoError(t, json.Unmarshal(out, &info))
	require.Equal(t, base, info["backing-filename"])
	require.Equal(t, "raw", info["backing-filename-format"])
	require.EqualValues(t, 2<<30, info["virtual-size"])

	require.NoError(t, r.Convert(ctx, disk, inspect.QCOW2, flat, inspect.QCOW2, 1<<30))
	f, err := os.Open(flat)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	_, err = inspect.Check(inspect.QCOW2, f, st.Size(), inspect.Limits{})
	require.NoError(t, err, "what Convert makes is self-contained")
	require.ErrorIs(t, r.Convert(ctx, disk, inspect.QCOW2, flat+"2", inspect.Raw, 1<<20), errdefs.ErrResourceExhausted)
}

func BenchmarkCreateOverlay(b *testing.B) {
	testneed.Tools(b, "qemu-img", "prlimit")
	dir := b.TempDir()
	base := filepath.Join(dir, "base")
	require.NoError(b, os.WriteFile(base, make([]byte, 1<<20), 0o400))
	b.Run("ours", func(b *testing.B) {
		r := New(Config{})
		for b.Loop() {
			require.NoError(b, r.CreateOverlay(b.Context(), filepath.Join(dir, "disk"), 20<<30, base, inspect.Raw))
		}
	})
	b.Run("qemu-img alone", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base,
				filepath.Join(dir, "disk"), "20G").Run())
		}
	})
}
