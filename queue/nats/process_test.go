package nats_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"context"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/queue/queuetest"
)

// process is a NATS server as a distribution has it.
type process struct {
	cmd  *exec.Cmd
	addr string
}

// run starts one: at an address or at one that is free, with lines of configuration.
func run(t *testing.T, addr string, config string) *process {
	t.Helper()
	testneed.Tools(t, "nats-server")
	dir := t.TempDir()
	if addr == "" {
		addr = "127.0.0.1:-1"
	}
	conf := filepath.Join(dir, "nats.conf")
	require.NoError(t, os.WriteFile(conf, []byte(fmt.Sprintf("listen: %q\nports_file_dir: %q\n%s", addr, dir, config)), 0o600))
	p := &process{cmd: exec.Command("nats-server", "-c", conf)}
	require.NoError(t, p.cmd.Start())
	t.Cleanup(p.kill)
	var ports struct {
		Nats []string `json:"nats"`
	}
	until(t, "the server says where it listens", func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*.ports"))
		if len(files) == 0 {
			return false
		}
		text, err := os.ReadFile(files[0])
		return err == nil && json.Unmarshal(text, &ports) == nil && len(ports.Nats) > 0
	})
	p.addr = strings.TrimPrefix(ports.Nats[0], "nats://")
	return p
}

func (p *process) url() string { return "nats://" + p.addr }

// kill ends it at once. It may be called again.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// TestContractOfDistribution runs the suite over the server that a distribution has, which is older.
func TestContractOfDistribution(t *testing.T) {
	t.Parallel()
	url := run(t, "", `authorization { users: [ { user: "cloud", password: "secret" }
		{ user: "guest", password: "secret", permissions: { publish: "dewpoint.re.>", subscribe: "dewpoint.re.>" } } ] }`).url()
	queuetest.TestBus(t, func(t *testing.T) queuetest.Env {
		cfg := small(nats.Config{URLs: []string{url}, User: "cloud", Password: "secret"})
		env := envOf(open(t, cfg), open(t, cfg))
		env.Barred = func() queue.Bus {
			cfg.User = "guest"
			return open(t, cfg)
		}
		return env
	})
}

// TestServerIsKilled kills the server 20 times while calls are made without pause.
func TestServerIsKilled(t *testing.T) {
	t.Parallel()
	p := run(t, "", "")
	near, far := open(t, again(nats.Config{URLs: []string{p.url()}})), open(t, again(nats.Config{URLs: []string{p.url()}}))
	books := &load{handled: map[string]int{}, failed: map[string]int{}}
	_, err := far.Serve("work", books.handle)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var callers sync.WaitGroup
	var answered atomic.Int64
	for n := range 4 {
		callers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if books.call(t, near, fmt.Sprintf("%d/%d", n, i)) {
					answered.Add(1)
				} else {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	more := func() {
		before := answered.Load()
		until(t, "calls are answered", func() bool { return answered.Load() > before+100 })
	}
	for range 20 {
		more()
		p.kill()
		p = run(t, p.addr, "")
	}
	more()
	cancel()
	callers.Wait()
	require.Empty(t, books.wrong)
	require.NotZero(t, books.failed["disconnected"])
	for body, times := range books.handled {
		require.Equal(t, 1, times, body)
	}
	t.Logf("%d calls answered, failed: %v", books.answered, books.failed)
}

// TestNKey gives no password, but signs what the server asks.
func TestNKey(t *testing.T) {
	t.Parallel()
	// A pair from NATS's documentation.
	const public, seed = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4", "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
	file := filepath.Join(t.TempDir(), "seed")
	require.NoError(t, os.WriteFile(file, []byte(seed), 0o600))
	p := run(t, "", "authorization { users: [ { nkey: "+public+" } ] }")
	bus := open(t, nats.Config{URLs: []string{p.url()}, NKeyFile: file})
	_, err := bus.Serve("a", echo)
	require.NoError(t, err)
	answer, err := call(t, bus, "a", "x")
	require.NoError(t, err)
	require.Equal(t, "x", answer)
	_, err = nats.Open(t.Context(), nats.Config{URLs: []string{p.url()}})
	require.True(t, errdefs.IsUnauthorized(err), err)
}

// TestPermissions has a user who may do what the package comment says, and one who may do less.
func TestPermissions(t *testing.T) {
	t.Parallel()
	p := run(t, "", `authorization { users: [
		{ user: "cloud", password: "secret", permissions: { publish: "cloud1.>", subscribe: "cloud1.>" } }
		{ user: "guest", password: "secret", permissions: { publish: "cloud1.one.a", subscribe: ["cloud1.re.>", "cloud1.one.a"] } } ] }`)
	cfg := nats.Config{URLs: []string{p.url()}, User: "cloud", Password: "secret", Prefix: "cloud1"}
	bus := open(t, cfg)
	for _, topic := range []string{"a", "b"} {
		_, err := bus.Serve(topic, echo)
		require.NoError(t, err)
		answer, err := call(t, bus, topic, "x")
		require.NoError(t, err)
		require.Equal(t, "x", answer)
	}

	var log book
	cfg.User, cfg.Logger = "guest", log.logger()
	guest := open(t, cfg)
	answer, err := call(t, guest, "a", "x")
	require.NoError(t, err)
	require.Equal(t, "x", answer)
	_, err = call(t, guest, "b", "x")
	require.True(t, errdefs.IsPermissionDenied(err), err)
	require.Equal(t, 1, log.count("the server reports an error"))
	for _, topic := range []string{"a", "b"} { // of a it may only be one of the group
		_, err = guest.Serve(topic, echo)
		require.True(t, errdefs.IsPermissionDenied(err), err)
	}
	answer, err = call(t, guest, "a", "x")
	require.NoError(t, err)
	require.Equal(t, "x", answer)

	cfg.Prefix = "cloud2"
	_, err = nats.Open(t.Context(), cfg)
	require.True(t, errdefs.IsPermissionDenied(err), err)
}
