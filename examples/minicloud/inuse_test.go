package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/file"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi"
)

// places is how many blocks a writer writes to in turn.
const places = 16

// mark is what the n-th write consists of.
func mark(n int) byte { return byte(n%251 + 1) }

// remote is QEMU's initiator, with a volume of ours.
type remote struct {
	in  io.WriteCloser
	out *bufio.Scanner
	cmd *exec.Cmd
}

func openRemote(t *testing.T, c volume.Connection, initiator string) *remote {
	t.Helper()
	cmd := exec.Command("stdbuf", "-oL", "qemu-io", "--object", "secret,id=chap,data="+c.Secret, "--image-opts", fmt.Sprintf(
		"driver=iscsi,transport=tcp,portal=%s,target=%s,lun=%d,user=%s,password-secret=chap,initiator-name=%s", c.Portal, c.IQN, c.LUN, c.User, initiator))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	return &remote{in, bufio.NewScanner(out), cmd}
}

// write does the n-th write, and returns when it is done and flushed.
func (r *remote) write(n int) error {
	if _, err := fmt.Fprintf(r.in, "write -f -P %d %d 512\n", mark(n), n%places*(1<<20)); err != nil {
		return err
	}
	for r.out.Scan() {
		if strings.Contains(r.out.Text(), "wrote 512/512 bytes") {
			return nil
		}
		if strings.Contains(r.out.Text(), "failed") {
			return fmt.Errorf("write %d: %s", n, r.out.Text())
		}
	}
	return fmt.Errorf("write %d: it ended: %w", n, r.out.Err())
}

// TestSnapshotWhileItIsWritten: a snapshot of a volume that is written to over iSCSI has all that was flushed before it, and is of one moment.
func TestSnapshotWhileItIsWritten(t *testing.T) {
	testneed.Tools(t, "qemu-io", "stdbuf")
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	driver, err := file.Open(file.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := iscsi.NewServer(iscsi.Config{})
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving, listener) }()
	exporter, err := iscsi.NewExporter(iscsi.ExporterConfig{Target: server, Portal: listener.Addr().String()})
	require.NoError(t, err)
	records := memstate.New(memstate.Config{})
	cloud, err := dewpoint.New(dewpoint.Config{Log: records, VolumeDriver: driver, VolumeExporter: exporter, Dir: filepath.Join(t.TempDir(), "cloud")})
	require.NoError(t, err)
	life, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- cloud.Run(life) }()
	s, err := cloud.Services(ctx)
	require.NoError(t, err)
	ctx = auth.NewContext(ctx, auth.Admin("project"))

	v, err := s.Volumes.Create(ctx, volume.CreateRequest{SizeGiB: 1})
	require.NoError(t, err)
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	const initiator = "iqn.2026-01.example:writer"
	_, err = s.Volumes.Attach(ctx, volume.AttachRequest{Volume: v.ID, Consumer: "a writer", Initiator: initiator})
	require.NoError(t, err)
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateInUse)
	require.NoError(t, err)
	at, err := s.Volumes.Connection(ctx, v.ID)
	require.NoError(t, err)
	r := openRemote(t, at, initiator)

	written := make(chan int) // each as it is done
	more, over := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 1; ; n++ {
			if err := r.write(n); err != nil {
				over <- err
				return
			}
			select {
			case written <- n:
			case <-more:
				over <- nil
				return
			}
		}
	}()
	last := 0
	next := func() {
		t.Helper()
		select {
		case last = <-written:
		case err := <-over:
			require.FailNow(t, "the writer has ended", "%v", err)
		}
	}
	for last < 2*places {
		next()
	}
	for range 3 {
		flushed := last
		x, err := s.Volumes.Snapshot(ctx, volume.SnapshotRequest{Volume: v.ID})
		require.NoError(t, err)
		for x.State == volume.StateCreating { // it goes on meanwhile
			next()
			x, err = s.Volumes.GetSnapshot(ctx, x.ID)
			require.NoError(t, err)
		}
		require.Equal(t, volume.StateAvailable, x.State, x.Fault)
		next() // and afterwards
		c, err := s.Volumes.Create(ctx, volume.CreateRequest{Snapshot: x.ID})
		require.NoError(t, err)
		_, err = s.Volumes.WaitFor(ctx, c.ID, volume.StateAvailable)
		require.NoError(t, err)
		path, err := driver.Path(ctx, c.ID)
		require.NoError(t, err)
		f, err := os.Open(path)
		require.NoError(t, err)
		got := make([]byte, places)
		for i := range got {
			_, err := f.ReadAt(got[i:i+1], int64(i)<<20)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		moments := []int{} // after which the volume looked so
		for n := flushed; n <= last; n++ {
			want := make([]byte, places)
			for back := range places {
				want[(n-back)%places] = mark(n - back)
			}
			if slices.Equal(want, got) {
				moments = append(moments, n)
			}
		}
		require.NotEmpty(t, moments, "between the writes %d and %d it never held %v", flushed, last, got)
	}
	for range 2 {
		next()
	}
	close(more)
	require.NoError(t, <-over)
	require.NoError(t, r.in.Close())
	require.NoError(t, r.cmd.Wait())
	found, err := cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	end()
	require.NoError(t, <-ended)
	stop()
	require.NoError(t, <-served)
	require.NoError(t, exporter.Close())
	require.NoError(t, driver.Close())
}
