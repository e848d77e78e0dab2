package etcdserver

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/state/etcd/internal/zaplog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func ready(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, s.Ready(ctx))
}

func client(t *testing.T, s *Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), Logger: zaplog.New(nil, "", slog.LevelError, nil)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestAMemberKeepsWhatItHas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	for round := range 2 {
		s := start(t, Config{Dir: dir, Client: "127.0.0.1:0"})
		ready(t, s)
		c := client(t, s)
		got, err := c.Get(t.Context(), "a")
		require.NoError(t, err)
		require.Len(t, got.Kvs, round)
		_, err = c.Put(t.Context(), "a", "1")
		require.NoError(t, err)
		require.NoError(t, c.Close())
		ended := make(chan error, 1)
		go func() { ended <- s.Wait() }()
		require.NoError(t, s.Close())
		require.NoError(t, <-ended)
		require.NoError(t, s.Close())
		require.Error(t, s.Ready(t.Context()))
	}
}

// A member says nothing of what is so on purpose, and that what was closed is closed. That a disk is slow is news.
func TestAMemberThatIsWellIsSilent(t *testing.T) {
	var said bytes.Buffer // which etcd has ended to write to when Close returns
	s := start(t, Config{Dir: filepath.Join(t.TempDir(), "etcd"), Client: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(&said, nil))})
	ready(t, s)
	c := client(t, s)
	_, err := c.Put(t.Context(), "a", "1")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
	for _, words := range []string{"recommended", "default name", "token", "closed"} {
		require.NotContains(t, said.String(), words)
	}
}

func TestTwoMembersInOneProcessAreApart(t *testing.T) {
	a := start(t, Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	b := start(t, Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	ready(t, a)
	ready(t, b)
	_, err := client(t, a).Put(t.Context(), "a", "1")
	require.NoError(t, err)
	got, err := client(t, b).Get(t.Context(), "a")
	require.NoError(t, err)
	require.Empty(t, got.Kvs)
}

func TestADirectoryOrAddressInUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{Dir: dir, Client: "127.0.0.1:0"})
	ready(t, s)
	_, err := Start(Config{Dir: dir, Client: "127.0.0.1:0"})
	require.True(t, errdefs.IsUnavailable(err), err)
	require.ErrorContains(t, err, "in use")

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	other := t.TempDir()
	_, err = Start(Config{Dir: other, Client: taken.Addr().String()})
	require.True(t, errdefs.IsUnavailable(err), err)
	require.ErrorContains(t, err, taken.Addr().String())
	ready(t, start(t, Config{Dir: other, Client: "127.0.0.1:0"})) // and leaves nothing in the way
}

// A member that finds no majority says nothing and waits; Ready ends with its context, Close at once.
func TestAMemberWithoutTheOthersIsNotReady(t *testing.T) {
	var text bytes.Buffer
	s, err := Start(Config{Dir: t.TempDir(), Name: "a", Client: "127.0.0.1:0", Peer: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(&text, nil)),
		Cluster: map[string]string{"a": "http://127.0.0.1:1", "b": "http://127.0.0.1:2", "c": "http://127.0.0.1:3"}})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.ErrorIs(t, s.Ready(ctx), context.DeadlineExceeded)
	require.NoError(t, s.Close())
	require.Contains(t, text.String(), "level=WARN msg=\"etcd: ")
}

func TestConfigsThatAreRefused(t *testing.T) {
	good := Config{Dir: t.TempDir(), Client: "127.0.0.1:0"}
	for want, change := range map[string]func(*Config){
		"Dir is required":                      func(c *Config) { c.Dir = "" },
		"Client is required":                   func(c *Config) { c.Client = "" },
		`Client is "localhost", must be`:       func(c *Config) { c.Client = "localhost" },
		"ClientTLS; or set Config.Plaintext":   func(c *Config) { c.Client = "0.0.0.0:0" },
		"PeerTLS; or set Config.Plaintext":     func(c *Config) { c.Peer = "10.0.0.1:0" },
		"ClientTLS has no Cert":                func(c *Config) { c.ClientTLS = &TLS{Cert: "a", Key: "b"} },
		"Name is \"a=b\"":                      func(c *Config) { c.Name = "a=b" },
		"Cluster has no member \"dewpoint\"":   func(c *Config) { c.Cluster = map[string]string{"x": "http://127.0.0.1:1"} },
		"Join is set":                          func(c *Config) { c.Join = true },
		"must be a URL":                        func(c *Config) { c.Cluster = map[string]string{"dewpoint": "127.0.0.1:1"} },
		"ClientURL is \"nothing\"":             func(c *Config) { c.ClientURL = "nothing" },
		"KeepHistory is 1s":                    func(c *Config) { c.KeepHistory = time.Second },
		"Quota, MaxOps and MaxBytes are 0, -1": func(c *Config) { c.MaxOps = -1 },
		"Peer is required": func(c *Config) {
			c.Cluster = map[string]string{"dewpoint": "http://127.0.0.1:1", "b": "http://127.0.0.1:2"}
		},
	} {
		cfg := good
		change(&cfg)
		_, err := Start(cfg)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", want, err)
		require.ErrorContains(t, err, want)
	}
	bad := good
	bad.ClientTLS = &TLS{Cert: "/none/cert", Key: "/none/key", CA: "/none/ca"}
	_, err := Start(bad)
	require.True(t, errdefs.IsNotFound(err), err)
	require.ErrorContains(t, err, "ClientTLS: open /none/cert")
}
