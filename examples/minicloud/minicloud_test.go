package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// patience is how long a test waits for what comes within seconds where the machine has nothing else to do.
const patience = 5 * time.Minute

// rig is the program, and a place on this machine for it.
type rig struct {
	program string
	dir     string
	netns   string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	testneed.Slow(t)
	testneed.Root(t)
	testneed.Tools(t, "go", "ip", "qemu-img", "busybox")
	dir, err := os.MkdirTemp("", "mini") // a short path: sockets lie in it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	r := &rig{program: filepath.Join(dir, "minicloud"), dir: filepath.Join(dir, "d"), netns: filepath.Base(dir)}
	out, err := exec.Command("go", "build", "-o", r.program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	t.Cleanup(func() {
		if _, err := os.Stat(r.dir); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if out, err := r.run(context.Background(), "-remove"); err != nil {
			t.Errorf("taking down what the test left: %v\n%s", err, out)
		}
	})
	return r
}

func (r *rig) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.program, append([]string{"-dir", r.dir, "-netns", r.netns, "-wait", patience.String()}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // it says where it hangs
	cmd.WaitDelay = time.Second                                              // libvirtd and its guests outlive it
	return cmd
}

func (r *rig) run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	out, err := r.command(ctx, args...).CombinedOutput()
	return string(out), err
}

// processes are those that have the directory in their command line: daemons and guests.
func (r *rig) processes(t *testing.T) (all []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(r.dir+"/")) {
			all = append(all, file+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return all
}

func TestTwoMachinesReachEachOther(t *testing.T) {
	r := newRig(t)
	out, err := r.run(t.Context(), "-exit", "-keep")
	require.NoError(t, err, out)
	for _, name := range []string{"mini-1", "mini-2"} {
		require.Regexp(t, name+` +[0-9a-f-]{36} +\S+ +10\.99\.0\.\d+ +ACTIVE +mini-\d`, out)
	}
	require.Contains(t, out, "audit: the records and the host agree")

	// Started again, it finds them running.
	out, err = r.run(t.Context(), "-exit", "-keep")
	require.NoError(t, err, out)
	require.Contains(t, out, "mini-1: found, ACTIVE")
	require.NotContains(t, out, "launching")

	out, err = r.run(t.Context(), "-exit")
	require.NoError(t, err, out)
	require.Contains(t, out, "mini-2: gone")
	require.Empty(t, r.processes(t))
	require.NoFileExists(t, "/run/netns/"+r.netns)
}

// Killed at random instants of a launch and of a termination, it is started again: every operation ends, and the records and the host agree exactly.
func TestKilledAtAnyInstant(t *testing.T) {
	r := newRig(t)
	out, err := r.run(t.Context(), "-audit") // libvirt learns about QEMU, which takes long once
	require.NoError(t, err, out)
	require.Contains(t, out, "data path:\ndesired:\n  nothing\nactual:\n  nothing\ndifference:\n  none\n")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 20 {
		instances, span := 2, 3*time.Second
		if round%2 == 1 {
			instances, span = 0, 1500*time.Millisecond
		}
		at := time.Duration(random.Int64N(int64(span)))
		cmd := r.command(t.Context(), "-instances", fmt.Sprint(instances), "-exit", "-keep")
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		require.NoError(t, cmd.Start())
		time.Sleep(at)
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		_ = cmd.Wait()

		out, err := r.run(t.Context(), "-audit")
		require.NoErrorf(t, err, "round %d, killed after %v\n%s\nstarted again:\n%s", round, at, said.String(), out)
	}
	out, err = r.run(t.Context(), "-remove")
	require.NoError(t, err, out)
	require.Empty(t, r.processes(t))
	require.NoFileExists(t, "/run/netns/"+r.netns)
	require.NoDirExists(t, r.dir)
}

func TestACommandLineThatIsWrongSaysHow(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"-instances 201", "-instances is 201, must be 0 to 200"},
		{"-memory 12", "-memory is 12 MiB, must be 96 to 4096"},
		{"-cidr nonsense", "-cidr"},
		{"-cidr6 nonsense", "-cidr6"},
		{"-dir " + strings.Repeat("x", 73), "must have 1 to 72"},
		{"-uplink eth0", "-netns host"},
		{"-keep", "-keep goes with -exit"},
		{"-audit -exit", "-audit goes with neither"},
		{"-exit launch", `takes no argument, but has "launch"; a command comes first`},
		{"-netns=", "-netns is empty"},
	} {
		_, err := parse(strings.Fields(c.args), &bytes.Buffer{})
		require.ErrorContains(t, err, c.says, c.args)
	}
}

func TestWhatAGuestWritesDoesNotWorkOnTheTerminal(t *testing.T) {
	require.Equal(t, ".[31mred é.", printable("\x1b[31mred é\u009b"))
}
