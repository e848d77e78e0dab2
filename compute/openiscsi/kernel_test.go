package openiscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/computetest"
	"github.com/dewpoint-cloud/dewpoint/internal/nodevm"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi"
)

// TestOnTheKernel has the kernel log in at our target, in a machine of its own.
func TestOnTheKernel(t *testing.T) {
	if !nodevm.Inside() {
		testneed.Slow(t)
		testneed.Tools(t, "iscsiadm", "iscsid", "mkfs.ext4")
		nodevm.Run(t, nodevm.Config{Tests: "^TestOnTheKernel$", Memory: 768, Modules: []string{"iscsi_tcp", "sd_mod", "crc32c_generic", "ext4"},
			Tools: []string{"iscsiadm", "iscsid", "mkfs.ext4", "e2fsck", "blkdiscard", "blockdev", "fstrim"}})
		return
	}
	begin(t)
	t.Run("the contract", func(t *testing.T) {
		computetest.TestConnector(t, func(t *testing.T) computetest.ConnectorEnv {
			l := newLab(t)
			return computetest.ConnectorEnv{Connector: l.Connector, Use: use, Left: l.left, Enlarge: l.enlarge, Size: size,
				Connection: func() (compute.Connection, error) { return l.export(64 << 20), nil },
				Newer:      func(c compute.Connection) (compute.Connection, error) { return l.again(c), nil }}
		})
	})
	t.Run("a file system", testFileSystem)
	t.Run("refusals", testRefusals)
	t.Run("fencing", testFencing)
	t.Run("a larger volume", testLarger)
	t.Run("cut short", testCutShort)
	t.Run("a target that comes back", testTargetComesBack)
}

// begin starts iscsid.
func begin(t *testing.T) {
	for name, text := range map[string]string{
		"/etc/iscsi/iscsid.conf":          "iscsid.startup = /bin/true\nnode.startup = automatic\n",
		"/etc/iscsi/initiatorname.iscsi":  "InitiatorName=iqn.2026-01.org.example:not-this-one\n",
		"/etc/passwd":                     "root:x:0:0:root:/:/bin/sh\n",
		"/run/lock/iscsi/.keep":           "",
		"/etc/iscsi/ifaces/not-ours":      "",
		"/mnt/.keep":                      "",
		"/var/lib/iscsi/nodes/not-at-all": "",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	}
	cmd := exec.Command("iscsid", "-f")
	var says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &says, &says
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(says.String())
		}
	})
	require.Eventually(t, func() bool {
		err := exec.Command("iscsiadm", "-m", "session").Run() // 21, no session, says that it is there
		code, ok := err.(*exec.ExitError)
		return ok && code.ExitCode() == 21
	}, time.Minute, 50*time.Millisecond)
}

// lab is a target with an exporter, and the Connector that is tested.
type lab struct {
	*Connector
	t        *testing.T
	dir      string
	exporter *iscsi.Exporter
	portal   string
	stop     func()
	exports  map[string]volume.Export
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, dir: t.TempDir(), exports: map[string]volume.Export{}}
	var err error
	l.Connector, err = New(Config{Patience: time.Minute})
	require.NoError(t, err)
	l.serve("127.0.0.1:0")
	t.Cleanup(func() { l.stop() })
	return l
}

func (l *lab) serve(address string) {
	listener, err := net.Listen("tcp", address)
	require.NoError(l.t, err)
	server := iscsi.NewServer(iscsi.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	l.portal = listener.Addr().String()
	l.exporter, err = iscsi.NewExporter(iscsi.ExporterConfig{Target: server, Portal: l.portal})
	require.NoError(l.t, err)
	l.stop = func() {
		cancel()
		require.NoError(l.t, <-ended)
		require.NoError(l.t, l.exporter.Close())
	}
}

const initiator = "iqn.2026-01.cloud.dewpoint:host-1"

// export makes a volume and exports it.
func (l *lab) export(size int64) compute.Connection {
	id := uuid.NewString()
	path := filepath.Join(l.dir, id)
	require.NoError(l.t, os.WriteFile(path, nil, 0o600))
	require.NoError(l.t, os.Truncate(path, size))
	return l.again(compute.Connection{VolumeID: id, Device: "vdb"})
}

// again exports a volume with the next epoch.
func (l *lab) again(c compute.Connection) compute.Connection {
	e := volume.Export{VolumeID: c.VolumeID, Epoch: c.Epoch + 1, Path: filepath.Join(l.dir, c.VolumeID), Initiator: initiator,
		User: fmt.Sprint("attachment-", c.Epoch+1), Secret: strings.ReplaceAll(uuid.NewString(), "-", "")}
	target, err := l.exporter.Export(l.t.Context(), e)
	require.NoError(l.t, err)
	l.exports[c.VolumeID] = e
	return compute.Connection{VolumeID: c.VolumeID, Epoch: e.Epoch, Target: target, Initiator: initiator, User: e.User, Secret: e.Secret, Device: "vdb"}
}

// left tells what the host has of a connection.
func (l *lab) left(c compute.Connection) string {
	var found []string
	all, err := l.sessions(c.VolumeID)
	require.NoError(l.t, err)
	for _, s := range all {
		if s.epoch == c.Epoch {
			found = append(found, "session "+s.id)
		}
	}
	files, err := filepath.Glob("/etc/iscsi/ifaces/" + record(c.VolumeID, c.Epoch))
	require.NoError(l.t, err)
	found = append(found, files...)
	if c.Secret != "" && exec.Command("grep", "-rq", c.Secret, "/etc/iscsi").Run() == nil {
		found = append(found, "its secret")
	}
	return strings.Join(found, ", ")
}

func use(d compute.Disk) error {
	f, err := os.OpenFile(d.Path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	data := []byte(uuid.NewString())
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	back := make([]byte, len(data))
	if _, err := f.ReadAt(back, 0); err != nil {
		return err
	}
	if !bytes.Equal(data, back) {
		return fmt.Errorf("read %q", back)
	}
	return nil
}

func size(d compute.Disk) (int64, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, io.SeekEnd)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
}

func testFileSystem(t *testing.T) {
	l := newLab(t)
	c := l.export(64 << 20)
	backing := filepath.Join(l.dir, c.VolumeID)
	require.NoError(t, os.WriteFile(backing, bytes.Repeat([]byte{0xaa}, 64<<20), 0o600)) // what somebody has left
	allocated := func() int64 {
		out, err := exec.Command("stat", "-c", "%b", backing).Output()
		require.NoError(t, err)
		var n int64
		_, err = fmt.Sscan(string(out), &n)
		require.NoError(t, err)
		return n * 512
	}
	d, err := l.Connect(t.Context(), c)
	require.NoError(t, err)
	run(t, "blockdev", "--getsize64", d.Path)
	run(t, "blkdiscard", "-z", d.Path)
	b, err := os.ReadFile(backing)
	require.NoError(t, err)
	require.Empty(t, bytes.Trim(b, "\x00"), "zeros were written")
	run(t, "mkfs.ext4", "-q", d.Path)
	run(t, "mount", "-t", "ext4", d.Path, "/mnt")
	content := bytes.Repeat([]byte(uuid.NewString()), 500_000)
	require.NoError(t, os.WriteFile("/mnt/kept", content, 0o600))
	require.NoError(t, os.WriteFile("/mnt/dropped", content, 0o600))
	run(t, "sync")
	full := allocated()
	require.NoError(t, os.Remove("/mnt/dropped"))
	run(t, "sync")
	run(t, "fstrim", "/mnt")
	require.Less(t, allocated(), full-10<<20, "what was discarded has its room back")
	run(t, "umount", "/mnt")
	run(t, "e2fsck", "-fn", d.Path)
	require.NoError(t, l.Disconnect(t.Context(), c))

	next := l.again(c)
	d, err = l.Connect(t.Context(), next)
	require.NoError(t, err)
	run(t, "e2fsck", "-fn", d.Path)
	run(t, "mount", "-t", "ext4", d.Path, "/mnt")
	back, err := os.ReadFile("/mnt/kept")
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, back))
	run(t, "umount", "/mnt")
	run(t, "blkdiscard", d.Path)
	require.Less(t, allocated(), int64(1<<20))
	require.NoError(t, l.Disconnect(t.Context(), next))
}

func testRefusals(t *testing.T) {
	l := newLab(t)
	c := l.export(1 << 20)
	for name, spoil := range map[string]func(c *compute.Connection){
		"another secret":    func(c *compute.Connection) { c.Secret = "not-the-secret-that-it-is" },
		"another initiator": func(c *compute.Connection) { c.Initiator += "0" },
		"another target":    func(c *compute.Connection) { c.Target.IQN += "0" },
		"nobody there":      func(c *compute.Connection) { c.Target.Portal = "127.0.0.1:1" },
	} {
		bad := c
		spoil(&bad)
		limited, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := l.Connect(limited, bad)
		cancel()
		require.Error(t, err, name)
		require.NotErrorIs(t, err, context.DeadlineExceeded, name)
		require.NotContains(t, err.Error(), bad.Secret)
		require.Empty(t, l.left(bad), name)
		switch name {
		case "another secret":
			require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
		case "nobody there":
			require.ErrorIs(t, err, errdefs.ErrUnavailable)
		default:
			t.Logf("%s: %v", name, err)
			require.True(t, errdefs.IsPermissionDenied(err) || errdefs.IsFailedPrecondition(err), "%s: %v", name, err)
		}
	}
	d, err := l.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, use(d))
	require.NoError(t, l.Disconnect(t.Context(), c))
}

// testFencing: the volume is given to somebody else while this host has it, and writes go nowhere from then on.
func testFencing(t *testing.T) {
	l := newLab(t)
	c := l.export(1 << 20)
	d, err := l.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, use(d))
	older, err := os.OpenFile(d.Path, os.O_RDWR|os.O_SYNC, 0) // before the newer device can have its name
	require.NoError(t, err)
	defer older.Close()
	next := l.again(c)
	before, err := os.ReadFile(filepath.Join(l.dir, c.VolumeID))
	require.NoError(t, err)
	written := make(chan error, 1)
	go func() {
		_, err := older.WriteAt([]byte("from the older one"), 0)
		written <- err
	}()
	got, err := l.Connect(t.Context(), next)
	require.NoError(t, err)
	require.Error(t, <-written, "the older session was ended, and what it was to write with it")
	after, err := os.ReadFile(filepath.Join(l.dir, c.VolumeID))
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "the older one has written nothing")
	require.NoError(t, use(got))
	_, err = l.Connect(t.Context(), c)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.NoError(t, use(got))
	require.NoError(t, l.Disconnect(t.Context(), next))
	require.Empty(t, l.left(next)+l.left(c))
}

func testLarger(t *testing.T) {
	l := newLab(t)
	c := l.export(4 << 20)
	d, err := l.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, l.enlarge(c, 9<<20))
	require.NoError(t, l.Grow(t.Context(), c, 9<<20))
	f, err := os.OpenFile(d.Path, os.O_RDWR|os.O_SYNC, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("the end"), 9<<20-512)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.ErrorIs(t, l.Grow(ctx, c, 10<<20), context.DeadlineExceeded, "nobody has made it so large")
	require.NoError(t, l.Disconnect(t.Context(), c))
}

// enlarge has a volume that is exported have more bytes.
func (l *lab) enlarge(c compute.Connection, bytes int64) error {
	return errors.Join(os.Truncate(filepath.Join(l.dir, c.VolumeID), bytes), l.exporter.Resized(l.t.Context(), c.VolumeID))
}

// testCutShort asks a target that takes connections and says nothing.
func testCutShort(t *testing.T) {
	l := newLab(t)
	c := l.export(1 << 20)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	mute := c
	mute.Target.Portal = silent.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = l.Connect(ctx, mute)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, l.Disconnect(t.Context(), mute))
	require.Eventually(t, func() bool { return l.left(mute) == "" }, time.Minute, 100*time.Millisecond)
	_, err = l.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, l.Disconnect(t.Context(), c))
}

// testTargetComesBack: what a machine writes while the target is away is written when it is there again.
func testTargetComesBack(t *testing.T) {
	l := newLab(t)
	c := l.export(1 << 20)
	d, err := l.Connect(t.Context(), c)
	require.NoError(t, err)
	address := l.portal
	l.stop()
	written := make(chan error, 1)
	go func() { written <- use(d) }()
	l.serve(address)
	_, err = l.exporter.Export(t.Context(), l.exports[c.VolumeID])
	require.NoError(t, err)
	require.NoError(t, <-written)
	again, err := l.Connect(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, d, again)
	require.NoError(t, l.Disconnect(t.Context(), c))
	require.Empty(t, l.left(c))
}
