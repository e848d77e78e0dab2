//go:build linux

package dhcp

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	ossignal "os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
)

// childMain is what the test binary does when a test runs it as a program of its own: it is a server for the ports of
// testDesired until it is interrupted or killed, or kills itself when leases are on disk and nobody was told.
func childMain() {
	dir := os.Getenv("DHCP_CHILD_DIR")
	if dir == "" {
		return
	}
	ports, _ := strconv.Atoi(os.Getenv("DHCP_CHILD_PORTS"))
	s, err := New(Config{Dir: dir})
	if err == nil {
		err = s.Apply(context.Background(), testDesired(ports))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv("DHCP_CHILD_DIES") != "" {
		s.committed = func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }
	}
	ctx, stop := ossignal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("ready")
	_ = s.Run(ctx)
	fmt.Printf("%+v\n", s.Counters())
	os.Exit(0)
}

// startChild runs the test binary as a server in a namespace.
func startChild(t testing.TB, ns *netnstest.NS, dir string, ports int, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), "DHCP_CHILD_DIR="+dir, "DHCP_CHILD_PORTS="+strconv.Itoa(ports)), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, ns.Do(cmd.Start))
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready", strings.TrimSpace(line))
	said := make(chan string, 1)
	go func() {
		rest, _ := lines.ReadString('\n')
		said <- rest
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		t.Log("server: ", <-said)
		_ = cmd.Wait()
	})
	return cmd
}
