package kinetest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// Kine is a process of kine. Its methods must not be used at the same time, except URL.
type Kine struct {
	port    int
	process process
}

// Start starts kine on a database, with options beside those it needs. It ends with the test.
func Start(t testing.TB, dsn string, options ...string) *Kine {
	t.Helper()
	program, dir := build(t), t.TempDir()
	k := &Kine{port: freePort(t)}
	k.process = process{log: filepath.Join(dir, "log"), answers: func() bool { return listens(k.port) }, command: func() *exec.Cmd {
		cmd := exec.Command(program, append([]string{"--listen-address", fmt.Sprintf("127.0.0.1:%d", k.port), "--endpoint", dsn, "--metrics-bind-address", "0"}, options...)...)
		cmd.Dir, cmd.SysProcAttr = dir, attributes(0, 0)
		return cmd
	}}
	k.Restart(t)
	t.Cleanup(k.Kill)
	return k
}

// URL is kine's endpoint.
func (k *Kine) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", k.port) }

// Kill ends kine at once.
func (k *Kine) Kill() { k.process.end(syscall.SIGKILL) }

// Stop has kine stand still, with all that it has begun, until [Kine.Continue].
func (k *Kine) Stop() { _ = k.process.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue has kine go on after Stop.
func (k *Kine) Continue() { _ = k.process.cmd.Process.Signal(syscall.SIGCONT) }

// Restart starts kine after a Kill and returns when it takes connections.
func (k *Kine) Restart(t testing.TB) {
	t.Helper()
	k.process.start(t)
}

// build returns the program, which it builds if it is not there yet, in the project's .cache.
func build(t testing.TB) string {
	t.Helper()
	testneed.Tools(t, "go")
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var module string
	for ; ; root = filepath.Dir(root) {
		module = filepath.Join(root, "internal", "kinetest", "kine")
		if _, err := os.Stat(module); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			t.Fatal("kinetest: the directory internal/kinetest/kine is nowhere above")
		}
	}
	sum := sha256.New()
	fmt.Fprint(sum, runtime.Version())
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(text)
	}
	program := filepath.Join(root, ".cache", fmt.Sprintf("kine-%x", sum.Sum(nil)[:8]))
	if _, err := os.Stat(program); err == nil {
		return program
	}
	part := fmt.Sprintf("%s.%d", program, os.Getpid())
	cmd := exec.Command("go", "build", "-C", module, "-o", part, "github.com/k3s-io/kine")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kinetest: building kine: %v\n%s", err, out)
	}
	if err := os.Rename(part, program); err != nil {
		t.Fatal(err)
	}
	return program
}
