package kinetest

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// Postgres is a PostgreSQL server. Its methods must not be used at the same time.
type Postgres struct {
	port     int
	password string
	process  process
}

// StartPostgres starts a server, with options, which ends with the test. It does not wait for the disk, unless an option is fsync=on: it
// survives that it is killed, and not that its machine fails.
func StartPostgres(t testing.TB, options ...string) *Postgres {
	t.Helper()
	testneed.Slow(t)
	dir, err := os.MkdirTemp("", "kinetest-*") // which PostgreSQL's own user can enter, unlike a test's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var uid, gid uint32
	if os.Geteuid() == 0 { // PostgreSQL does not run as root
		uid, gid = postgresUser(t)
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	p := &Postgres{port: freePort(t), password: rand.Text()}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(postgresProgram(t, name), args...)
		cmd.Dir, cmd.Env, cmd.SysProcAttr = dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}, attributes(uid, gid)
		return cmd
	}
	data, secret := filepath.Join(dir, "data"), filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(p.password), 0o644); err != nil {
		t.Fatal(err)
	}
	init := command("initdb", "--no-sync", "--username=postgres", "--auth=scram-sha-256", "--pwfile="+secret, "--encoding=UTF8", "--pgdata="+data)
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("kinetest: initdb: %v\n%s", err, out)
	}
	args := []string{"-D", data, "-h", "127.0.0.1", "-p", strconv.Itoa(p.port), "-k", dir, "-c", "max_connections=400", "-c", "fsync=off"}
	for _, option := range options {
		args = append(args, "-c", option)
	}
	p.process = process{log: filepath.Join(dir, "log"), answers: func() bool { return listens(p.port) }, command: func() *exec.Cmd {
		return command("postgres", args...)
	}}
	p.Restart(t)
	t.Cleanup(p.Kill)
	return p
}

// DSN is how kine reaches a database, which it makes if it is not there.
func (p *Postgres) DSN(database string) string {
	return fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/%s?sslmode=disable", p.password, p.port, database)
}

// Kill ends the server without its leave: it has to recover when [Postgres.Restart] starts it again.
func (p *Postgres) Kill() { p.process.end(syscall.SIGQUIT) }

// Restart starts the server after a Kill and returns when it takes connections.
func (p *Postgres) Restart(t testing.TB) {
	t.Helper()
	p.process.start(t)
}

// postgresProgram finds a program of PostgreSQL, of the newest version there is; Debian has most of them outside PATH.
func postgresProgram(t testing.TB, name string) string {
	t.Helper()
	all, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err == nil && len(all) > 0 {
		return all[len(all)-1]
	}
	testneed.Tools(t, name)
	return name
}

func postgresUser(t testing.TB) (uid, gid uint32) {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		testneed.Missing(t, "needs PostgreSQL's user postgres: "+err.Error())
	}
	var ids [2]uint32
	for i, text := range []string{u.Uid, u.Gid} {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = uint32(n)
	}
	return ids[0], ids[1]
}
