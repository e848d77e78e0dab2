package iscsi

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// The initiators that libiscsi's test program is.
const (
	testInitiator  = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test"
	testInitiator2 = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test-2"
	testTarget     = "iqn.2026-01.org.dewpoint:t"
)

// ownAddr is an address of this machine, with a free port, for whoever needs the port again later: nobody else has connections from it that
// could take the port meanwhile.
const ownAddr = "127.26.1.1:0"

// TestMain is the tests, or with DEWPOINT_ISCSI_FILE in the environment a process with a target and nothing else: it exports the file to
// the initiators of DEWPOINT_ISCSI_INITIATORS, prints its address, and ends when its input does. With DEWPOINT_ISCSI_WRITER it is an initiator that
// writes.
func TestMain(m *testing.M) {
	if addr := os.Getenv("DEWPOINT_ISCSI_WRITER"); addr != "" {
		var seed uint64
		_, _ = fmt.Sscan(os.Getenv("DEWPOINT_ISCSI_SEED"), &seed)
		if err := write(addr, seed); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	path := os.Getenv("DEWPOINT_ISCSI_FILE")
	if path == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := child(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(path string) error {
	store, err := OpenFile(path)
	if err != nil {
		return err
	}
	cfg := Config{}
	if os.Getenv("DEWPOINT_ISCSI_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	s := NewServer(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	export := Export{IQN: testTarget, Volume: "9f8b4f9e-0000-4000-8000-000000000001", Store: store}
	for _, iqn := range strings.Fields(os.Getenv("DEWPOINT_ISCSI_INITIATORS")) {
		export.Initiators = append(export.Initiators, Initiator{IQN: iqn})
	}
	if err := s.Export(ctx, export); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("DEWPOINT_ISCSI_ADDR"), "127.0.0.1:0"))
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return s.Serve(ctx, listener)
}

// process is a target in a process of its own.
type process struct {
	cmd  *exec.Cmd
	in   io.Closer
	addr string
}

// startProcess exports a file from another process, until the test ends.
func startProcess(t testing.TB, path string, initiators ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "DEWPOINT_ISCSI_FILE="+path, "DEWPOINT_ISCSI_INITIATORS="+strings.Join(initiators, " "),
		"GORACE=halt_on_error=1") // a race there is a failure here
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{cmd: cmd, in: in}
	t.Cleanup(func() { p.kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	p.addr = strings.TrimSpace(line)
	return p
}

// kill ends the process as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.in.Close()
}

// url is where libiscsi's programs find the volume.
func (p *process) url() string { return "iscsi://" + p.addr + "/" + testTarget + "/0" }
