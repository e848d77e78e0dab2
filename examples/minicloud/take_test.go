package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

// asks has a process ask the cloud in a directory.
func asks(ctx context.Context, dir, args string) (string, error) {
	do, err := understand(append(strings.Fields(args), "-dir", dir), io.Discard)
	if err != nil {
		return "", err
	}
	var said bytes.Buffer
	err = do(ctx, &said)
	return said.String(), err
}

// TestCommandsAreTaken by a process that has its cloud for itself, as long as it lives.
func TestCommandsAreTaken(t *testing.T) {
	dir := t.TempDir()
	_, err := asks(t.Context(), dir, "volume list")
	require.ErrorContains(t, err, "no minicloud runs in "+dir)
	driver, err := fakevolume.New(fakevolume.Config{Dir: t.TempDir(), TotalGiB: 16})
	require.NoError(t, err)
	cloud, err := dewpoint.New(dewpoint.Config{Dir: filepath.Join(dir, "cloud"), VolumeDriver: driver, VolumeExporter: fakevolume.NewExporter()})
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(socket(options{dir: dir})), 0o700))
	require.NoError(t, os.WriteFile(socket(options{dir: dir}), nil, 0o600)) // as one that was killed leaves it
	o := options{dir: dir, netns: "host"}
	require.NoError(t, during(t.Context(), cloud, func(ctx context.Context, s *dewpoint.Services) error {
		return take(ctx, o, s, func() error {
			does := func(args, says string) {
				t.Helper()
				out, err := asks(t.Context(), dir, args)
				require.NoError(t, err)
				require.Regexp(t, says, out)
			}
			does("volume create -size 2 -name data", `^\S{36}\tdata\t2 GiB\tavailable\n$`)
			does("volume extend data -size 3", `\tdata\t3 GiB\tavailable\n$`)
			does("volume list", `(?m)^\S{36} +data +3 GiB +available `)
			does("volume image data -name picture", `^\S{36}\tpicture\t\d+ bytes\tactive\n$`)
			does("images", `(?m)^\S{36} +picture +qcow2 +active `)
			does("image delete picture", `^\S{36}\tpicture\tgone\n$`)
			does("images", `^ID .*\n$`)
			_, err = asks(t.Context(), dir, "image delete picture")
			require.EqualError(t, err, `image "picture": not found`)
			_, err = asks(t.Context(), dir, "volume create -name tränke -size 2000000")
			require.ErrorContains(t, err, "SizeGiB is 2000000")
			_, err = asks(t.Context(), dir, "volume delete tränke")
			require.EqualError(t, err, `volume "tränke": not found`)
			_, err = asks(t.Context(), dir, "volume attach data nobody")
			require.EqualError(t, err, `machine "nobody": not found`)

			// Only what asks is taken, and the directory is the taker's.
			for _, words := range []string{`["controller"]`, `["volume"]`, `["nonsense"]`, `["volume","list","-sice","2"]`, `nonsense`} {
				w := &recorder{head: http.Header{}}
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(words))
				require.NoError(t, err)
				commandHandler(o, s).ServeHTTP(w, r)
				require.Equal(t, http.StatusBadRequest, w.status, words)
			}
			info, err := os.Stat(filepath.Dir(socket(o)))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), "nobody else may ask")

			// Who goes away is not waited for.
			life, end := context.WithCancel(t.Context())
			end()
			_, err = asks(life, dir, "volume list")
			require.ErrorIs(t, err, context.Canceled)
			return nil
		})
	}))
	_, err = asks(t.Context(), dir, "volume list")
	require.ErrorContains(t, err, "no minicloud runs in "+dir)
}

// TestAMinicloudThatEndsInTheMiddle of its answer is told from one that has answered: what it said is shown, and the command fails.
func TestAMinicloudThatEndsInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Dir(socket(options{dir: dir})), 0o700))
	l, err := net.Listen("unix", socket(options{dir: dir}))
	require.NoError(t, err)
	defer l.Close()
	for _, c := range []struct{ says, shown string }{
		{"", ""},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\naccepted\n\r\n", "accepted\n"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\naccepted\n\r\n0\r\n", "accepted\n"}, // what would say how it went does not come
	} {
		ended := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = http.ReadRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, c.says)
				_ = conn.Close() // as that of a process that is killed
			}
			ended <- err
		}()
		said, err := asks(t.Context(), dir, "launch")
		require.ErrorContains(t, err, "the minicloud in "+dir+" has ended, or can't be reached any more: ")
		require.Equal(t, c.shown, said)
		require.NoError(t, <-ended)
	}
}

type recorder struct {
	head   http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.head }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *recorder) WriteHeader(status int)      { r.status = status }

// TestVolumesBesideMinicloud: a person starts minicloud, and asks it for volumes and machines from a second shell. What they launched is theirs.
func TestVolumesBesideMinicloud(t *testing.T) {
	r := newRig(t)
	config := patient(t, filepath.Dir(r.dir))
	run := func(args string) (string, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, r.program, append(strings.Fields(args), "-dir", r.dir, "-config", config)...).CombinedOutput()
		return string(out), err
	}
	does := func(args, says string) {
		t.Helper()
		out, err := run(args)
		require.NoError(t, err, out)
		require.Regexp(t, says, out)
	}
	start := func(args ...string) (stop func() string) {
		t.Helper()
		cmd := r.command(t.Context(), args...)
		log, err := os.Create(filepath.Join(filepath.Dir(r.dir), "log"))
		require.NoError(t, err)
		cmd.Stdout, cmd.Stderr = log, log
		require.NoError(t, cmd.Start())
		text := func() string { b, _ := os.ReadFile(log.Name()); return string(b) }
		require.Eventually(t, func() bool { return strings.Contains(text(), "stays up until interrupted") }, 2*patience, 100*time.Millisecond, "%s", text)
		return func() string {
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			require.NoError(t, cmd.Wait())
			require.NoError(t, log.Close())
			return text()
		}
	}
	stop := start("-instances", "1", "-memory", "96")
	does("volume create -size 1 -name data", `\tdata\t1 GiB\tavailable`)
	does("volume attach data mini-1", `\tdata\t1 GiB\tin-use\tmini-1 as vdb\n`)
	does("volume list", `data +1 GiB +in-use +\S+ +mini-1 as vdb`)
	does("volume extend data -size 2", `\tdata\t2 GiB\tin-use`)
	does("volume snapshot data -name before", `\tbefore\t2 GiB\tavailable`)
	out, err := run("volume delete data")
	require.Error(t, err, out)
	require.Contains(t, out, "minicloud: ")
	does("volume detach data", `\tdata\t2 GiB\tavailable`)
	does("volume attach data mini-1 -device sdc", `\tin-use\tmini-1 as sdc\n`)
	does("volume detach data", `\tdata\t2 GiB\tavailable`)
	out, err = run("volume attach data mini-1 -device hda")
	require.Error(t, err, out)
	require.Contains(t, out, `Device is "hda", must be "vdb" to "vdz" or "sda" to "sdz"`)
	does("launch -name mine -boot-size 1", `(?m)^\S+\tmine\taccepted\n\S+\tmine\tACTIVE$`)
	does("list", `(?s) mine +ACTIVE .* mini-1 +ACTIVE | mini-1 +ACTIVE .* mine +ACTIVE `)
	does("datapath", `(?s)desired:\n.*  tap .*difference:\n  none\n$`)

	// Ended and begun again, with machines of its own that are fewer, it leaves the person's alone.
	stop()
	stop = start("-instances", "0")
	does("list", `^.*\n\S{36}  mine +ACTIVE .*\n$`)
	does("volume list", `data +2 GiB +available`)
	does("terminate mine", `\tmine\tgone`)
	does("launch -name other", `\tother\tACTIVE`)
	require.Contains(t, stop(), "mini-1: gone")

	out, err = r.run(t.Context(), "-remove")
	require.NoError(t, err, out)
	require.Contains(t, out, "other: gone")
	require.Empty(t, r.processes(t))
}
