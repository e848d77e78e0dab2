package etcd

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/dewpoint-cloud/dewpoint/internal/freeport"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/etcdserver"
)

func TestMain(m *testing.M) {
	// Every commit is flushed to the disk by an etcd, twice over: fewer random plans than of logs in memory.
	if err := flag.Set("rapid.checks", "15"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen; nothing waits for it unless something is broken.
const patience = 3 * time.Minute

// embedded starts a member in this process and returns its endpoints.
func embedded(t testing.TB, cfg etcdserver.Config) []string {
	t.Helper()
	cfg.Dir, cfg.Client = t.TempDir(), "127.0.0.1:0"
	s, err := etcdserver.Start(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, s.Ready(ctx))
	return s.Endpoints()
}

// loopback returns an address of the loopback interface that nobody else is likely to use, so that ports on it stay free.
func loopback() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 64+rand.N(128), rand.N(256), 1+rand.N(254))
}

// freePort returns host and a port of it that is free.
func freePort(t testing.TB, host string) string {
	t.Helper()
	ports, err := freeport.Find(host, 1)
	require.NoError(t, err)
	return net.JoinHostPort(host, strconv.Itoa(ports[0]))
}

// process is a member as a process of its own, of the program etcd.
type process struct {
	args   []string
	client string // URL
	cmd    *exec.Cmd
	ended  chan struct{}
}

// processes starts a cluster of n members.
func processes(t testing.TB, n int, options ...string) []*process {
	t.Helper()
	testneed.Slow(t)
	testneed.Tools(t, "etcd")
	host, dir := loopback(), t.TempDir()
	var all []*process
	var members []string
	for i := range n {
		client, peer := "http://"+freePort(t, host), "http://"+freePort(t, host)
		name := fmt.Sprint("m", i)
		members = append(members, name+"="+peer)
		all = append(all, &process{client: client, args: append([]string{"--name", name, "--data-dir", filepath.Join(dir, name),
			"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster-token", dir, "--log-level", "error", "--logger", "zap"}, options...)})
	}
	for _, p := range all {
		p.args = append(p.args, "--initial-cluster", strings.Join(members, ","))
		p.start(t)
		t.Cleanup(p.kill)
	}
	return all
}

func (p *process) start(t testing.TB) {
	t.Helper()
	p.cmd = exec.Command("etcd", p.args...)
	p.cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH="+runtime.GOARCH)
	require.NoError(t, p.cmd.Start())
	p.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(p.cmd, p.ended)
}

// kill ends the process at once. It may be called twice.
func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.ended
}

func endpoints(all []*process) (urls []string) {
	for _, p := range all {
		urls = append(urls, p.client)
	}
	return urls
}

// bare is a client beside the log.
func bare(t testing.TB, urls ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: urls, Logger: zap.NewNop(), DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := Open(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func set(key, value string) state.Op { return state.Op{Key: key, Value: []byte(value)} }

func put(t testing.TB, l *Log, ops ...state.Op) state.Revision {
	t.Helper()
	rev, err := l.Commit(t.Context(), state.Batch{Ops: ops})
	require.NoError(t, err)
	return rev
}

// rows returns what a new follower is given first.
func rows(t testing.TB, l *Log) (map[string]string, state.Revision) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for b, err := range l.Follow(ctx, 0) {
		require.NoError(t, err)
		require.True(t, b.Snapshot)
		m := map[string]string{}
		for _, op := range b.Ops {
			m[op.Key] = string(op.Value)
		}
		return m, b.Rev
	}
	t.Fatal("no snapshot")
	return nil, 0
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("it did not come to this within %v: %s", patience, what)
		}
	}
}

// notes are a logger's output.
type notes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *notes) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *notes) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *notes) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func (j *notes) count(what string) int { return strings.Count(j.String(), what) }

// relay is a proxy between a client and a member, which can be cut.
type relay struct {
	to       string
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	mute   bool // what the member answers is lost
	down   bool // new connections are refused
	closed bool
}

func newRelay(t testing.TB, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{to: strings.TrimPrefix(to, "http://"), listener: l, conns: map[net.Conn]bool{}}
	r.done.Go(r.accept)
	t.Cleanup(func() {
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		_ = l.Close()
		r.cut()
		r.done.Wait()
	})
	return r
}

func (r *relay) url() string { return "http://" + r.listener.Addr().String() }

func (r *relay) accept() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		r.mu.Lock()
		refuse := r.down || r.closed
		if !refuse {
			r.conns[in], r.conns[out] = true, true
		}
		r.mu.Unlock()
		if refuse {
			_ = in.Close()
			_ = out.Close()
			continue
		}
		r.done.Go(func() { r.pass(out, in, false) })
		r.done.Go(func() { r.pass(in, out, true) })
	}
}

// pass carries bytes until either end is gone.
func (r *relay) pass(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		lost := answers && r.mute
		r.mu.Unlock()
		if lost {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// set changes what the relay does.
func (r *relay) set(mute, down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mute, r.down = mute, down
}

// cut ends all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
	clear(r.conns)
}
