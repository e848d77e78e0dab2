package libvirtd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/internal/libvirtd"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// The test program is its own reaper, and its own starter that gets killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "reap":
			exit(libvirtd.Reap(os.Args[2:]))
		case "start":
			_, err := libvirtd.Start(context.Background(), config(os.Args[2]))
			if err == nil {
				fmt.Println("started")
				select {}
			}
			exit(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// exit ends the program without the second that the race detector waits in os.Exit.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	}
	syscall.Exit(0)
}

func config(dir string) libvirtd.Config {
	self, _ := os.Executable()
	return libvirtd.Config{Dir: dir, Reaper: []string{self, "reap"}}
}

func need(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "libvirtd", "virtlogd", "virsh")
}

func directory(t *testing.T) string {
	dir, err := os.MkdirTemp("", "dplv")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// patience is how long a test waits for what takes a second where the machine has nothing else to do.
const patience = 5 * time.Minute

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), d)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, cfg libvirtd.Config) *libvirtd.Daemon {
	d, err := libvirtd.Start(within(t, patience), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Stop(within(t, patience))) })
	return d
}

func TestConfig(t *testing.T) {
	for want, cfg := range map[string]libvirtd.Config{
		`Dir "run" is not an absolute path`:        {Dir: "run"},
		"is 90 bytes long, at most 83 are allowed": {Dir: "/" + strings.Repeat("d", 89)},
		`CacheDir "c" is not`:                      {Dir: "/d", CacheDir: "c"},
	} {
		_, err := libvirtd.Start(t.Context(), cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, want)
	}
}

func TestStartAdoptStop(t *testing.T) {
	need(t)
	cfg := config(directory(t))
	d := start(t, cfg)
	require.False(t, d.Adopted())
	require.Equal(t, libvirtd.Socket(cfg.Dir), d.Socket())
	out, err := exec.Command("virsh", "-c", d.URI(), "uri").CombinedOutput()
	require.NoError(t, err, "%s", out)

	again := start(t, cfg)
	require.True(t, again.Adopted())
	require.Equal(t, d.PID(), again.PID())

	pid := d.PID()
	require.NoError(t, again.Kill(within(t, patience)))
	require.Zero(t, d.PID())
	third := start(t, cfg)
	require.False(t, third.Adopted())
	require.NotEqual(t, pid, third.PID())

	require.NoError(t, d.Stop(within(t, patience)))
	require.NoError(t, d.Stop(within(t, patience)))
	require.Zero(t, third.PID())
}

func TestDaemonOutlivesItsStarter(t *testing.T) {
	need(t)
	cfg := config(directory(t))
	self, err := os.Executable()
	require.NoError(t, err)
	starter := exec.Command(self, "start", cfg.Dir)
	out, err := starter.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, starter.Start())
	line := make([]byte, len("started\n"))
	_, err = out.Read(line)
	require.NoError(t, err)
	require.NoError(t, starter.Process.Kill())
	_ = starter.Wait()
	require.True(t, start(t, cfg).Adopted())
}

func TestNothingOfTheMachineIsTouched(t *testing.T) {
	need(t)
	before, _ := os.ReadDir("/run/libvirt")
	cfg := config(directory(t))
	d := start(t, cfg)
	after, _ := os.ReadDir("/run/libvirt")
	require.Equal(t, len(before), len(after))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.False(t, bytes.Contains(mounts, []byte(cfg.Dir)))
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", d.PID()))
	require.NoError(t, err)
	require.True(t, bytes.Contains(theirs, []byte("/var/lib/libvirt")))
}

func TestAStaleProcessFileIsNotBelieved(t *testing.T) {
	need(t)
	cfg := config(directory(t))
	require.NoError(t, os.MkdirAll(filepath.Join(cfg.Dir, "run"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(cfg.Dir, "run", "libvirtd.pid"), fmt.Appendln(nil, os.Getpid()), 0o600))
	d := start(t, cfg)
	require.False(t, d.Adopted())
	require.NotEqual(t, os.Getpid(), d.PID())
}

// TestAGuestThatWasHalfStartedIsForgotten leaves what a libvirtd leaves that is killed before it knows its QEMU.
func TestAGuestThatWasHalfStartedIsForgotten(t *testing.T) {
	need(t)
	testneed.Tools(t, "sleep")
	cfg := config(directory(t))
	notes := filepath.Join(cfg.Dir, "run", "qemu")
	require.NoError(t, os.MkdirAll(notes, 0o700))
	stranger := exec.Command("sleep", "3600")
	require.NoError(t, stranger.Start())
	t.Cleanup(func() { _ = stranger.Wait() })
	t.Cleanup(func() { _ = stranger.Process.Kill() })
	qemu := exec.Command("sh", "-c", "read line", "guest=half", "-S") // which is what its command line says
	hold, err := qemu.StdinPipe()
	require.NoError(t, err)
	defer hold.Close()
	require.NoError(t, qemu.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = qemu.Wait() }()
	for name, pid := range map[string]int{"half": qemu.Process.Pid, "gone": stranger.Process.Pid} {
		require.NoError(t, os.WriteFile(filepath.Join(notes, name+".pid"), fmt.Append(nil, pid), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(notes, name+".xml"),
			[]byte("<!-- a note --><domstatus state='paused' reason='starting up' pid='0'><domain/></domstatus>"), 0o600))
	}
	d := start(t, cfg)
	<-ended
	require.NoError(t, stranger.Process.Signal(syscall.Signal(0)), "a process that has the number by chance is left alone")
	left, err := filepath.Glob(filepath.Join(notes, "*.xml"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NotZero(t, d.PID())
}

func TestADaemonThatFailsSaysWhy(t *testing.T) {
	need(t)
	cfg := config(directory(t))
	cfg.Reaper = []string{"/bin/sh", "-c", "echo no such luck >&2; exit 3"}
	_, err := libvirtd.Start(within(t, patience), cfg)
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.ErrorContains(t, err, "no such luck")
	cfg.NetNS = "no-such-namespace"
	_, err = libvirtd.Start(within(t, patience), cfg)
	require.ErrorContains(t, err, "/run/netns/no-such-namespace")
}

func TestReapAdoptsOrphans(t *testing.T) {
	testneed.Tools(t, "sh", "sleep")
	self, err := os.Executable()
	require.NoError(t, err)
	// The shell ends at once; what it leaves behind holds the reaper for half a second more.
	began := time.Now()
	out, err := exec.Command(self, "reap", "/bin/sh", "-c", "(sleep 0.5; ps -o ppid= -p $$ 2>/dev/null; echo done) & exit 0").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "done")
	require.GreaterOrEqual(t, time.Since(began), 500*time.Millisecond)
	require.Error(t, exec.Command(self, "reap", "/no/such/program").Run())
}

func TestNetworkNamespace(t *testing.T) {
	need(t)
	testneed.Tools(t, "ip")
	name := fmt.Sprintf("dplv%d", os.Getpid())
	require.NoError(t, exec.Command("ip", "netns", "add", name).Run())
	t.Cleanup(func() { require.NoError(t, exec.Command("ip", "netns", "del", name).Run()) })
	cfg := config(directory(t))
	cfg.NetNS = name
	d := start(t, cfg)
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", d.PID()))
	require.NoError(t, err)
	want, err := os.Stat("/run/netns/" + name)
	require.NoError(t, err)
	ours, err := os.Stat("/proc/self/ns/net")
	require.NoError(t, err)
	require.True(t, os.SameFile(want, theirs))
	require.False(t, os.SameFile(ours, theirs))
	links, err := exec.Command("nsenter", "-t", fmt.Sprint(d.PID()), "-m", "ls", "/sys/class/net").Output()
	require.NoError(t, err)
	require.Equal(t, "lo", strings.TrimSpace(string(links)), "/sys shows the namespace's interfaces")
}
