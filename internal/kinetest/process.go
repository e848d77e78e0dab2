package kinetest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/dewpoint-cloud/dewpoint/internal/freeport"
)

// patience is how long a server may take to start.
const patience = 5 * time.Minute

// process is a server that was started here.
type process struct {
	command func() *exec.Cmd
	log     string // file
	answers func() bool

	cmd   *exec.Cmd
	ended chan struct{}
}

// start starts the server and returns when it answers. One that ends before is started again, because its port or its memory may not be
// free yet of the one before.
func (p *process) start(t testing.TB) {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if p.cmd == nil {
			out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			cmd, ended := p.command(), make(chan struct{})
			cmd.Stdout, cmd.Stderr = out, out
			err = cmd.Start()
			_ = out.Close() // the process has it
			if err != nil {
				t.Fatal(err)
			}
			p.cmd, p.ended = cmd, ended
			go func() {
				defer close(ended)
				_ = cmd.Wait()
			}()
		}
		if p.answers() {
			return
		}
		select {
		case <-p.ended:
			p.cmd = nil
		default:
		}
		if time.Now().After(until) {
			text, _ := os.ReadFile(p.log)
			p.end(syscall.SIGKILL)
			t.Fatalf("kinetest: a server does not answer within %v:\n%s", patience, text)
		}
	}
}

// end ends the server, if it runs, and waits for its end.
func (p *process) end(how syscall.Signal) {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(how)
		<-p.ended
		p.cmd = nil
	}
}

// freePort returns a port of the loopback address that nobody uses now.
func freePort(t testing.TB) int {
	t.Helper()
	ports, err := freeport.Find("127.0.0.1", 1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

// listens tells whether somebody listens on a port.
func listens(port int) bool {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}
