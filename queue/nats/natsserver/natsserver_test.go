package natsserver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// book is a log that a test reads.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func start(t *testing.T, cfg natsserver.Config) *natsserver.Server {
	t.Helper()
	s, err := natsserver.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), what)
	}
}

// TestTwo runs two servers in one process that know nothing of each other, and ends them twice.
func TestTwo(t *testing.T) {
	first, second := start(t, natsserver.Config{}), start(t, natsserver.Config{Listen: "127.0.0.1:0"})
	require.Empty(t, first.URL())
	require.Empty(t, first.ClusterAddr())
	inside, err := nats.Connect("", nats.InProcessServer(first), nats.NoReconnect())
	require.NoError(t, err)
	outside, err := nats.Connect(second.URL(), nats.NoReconnect())
	require.NoError(t, err)
	_, err = inside.Request("a", nil, patience)
	require.ErrorIs(t, err, nats.ErrNoResponders)
	sub, err := outside.SubscribeSync("a")
	require.NoError(t, err)
	require.NoError(t, outside.Publish("a", []byte("x")))
	m, err := sub.NextMsg(patience)
	require.NoError(t, err)
	require.Equal(t, "x", string(m.Data))
	require.Equal(t, 1, first.Clients())

	require.NoError(t, first.Close())
	require.NoError(t, first.Close())
	until(t, "the end of the server ends its connections", inside.IsClosed)
	_, err = first.InProcessConn()
	require.Error(t, err)
	require.True(t, outside.IsConnected())
	outside.Close()
	until(t, "the client has gone", func() bool { return second.Clients() == 0 })
}

// TestSameAddress starts a server where one listens already.
func TestSameAddress(t *testing.T) {
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0"})
	_, err := natsserver.Start(t.Context(), natsserver.Config{Listen: strings.TrimPrefix(s.URL(), "nats://")})
	require.True(t, errdefs.IsUnavailable(err), err)
	require.ErrorContains(t, err, "address already in use")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = natsserver.Start(t.Context(), natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "c", Listen: l.Addr().String()}})
	require.True(t, errdefs.IsUnavailable(err), err)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = natsserver.Start(ended, natsserver.Config{})
	require.ErrorIs(t, err, context.Canceled)
}

// TestCredentials are asked for in the process too, and in no log.
func TestCredentials(t *testing.T) {
	const secret = "hunter-2"
	var log book
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	byName := start(t, natsserver.Config{Listen: "[::1]:0", User: "cloud", Password: secret, Logger: logger})
	byToken := start(t, natsserver.Config{Token: secret, Logger: logger})
	for _, c := range []struct {
		s    *natsserver.Server
		opts []nats.Option
		ok   bool
	}{{byName, nil, false}, {byName, []nats.Option{nats.UserInfo("cloud", "wrong")}, false}, {byName, []nats.Option{nats.UserInfo("cloud", secret)}, true},
		{byToken, nil, false}, {byToken, []nats.Option{nats.Token("wrong")}, false}, {byToken, []nats.Option{nats.Token(secret)}, true}} {
		nc, err := nats.Connect("", append(c.opts, nats.InProcessServer(c.s))...)
		if c.ok {
			require.NoError(t, err)
			nc.Close()
		} else {
			require.ErrorIs(t, err, nats.ErrAuthorization)
		}
	}
	require.Contains(t, log.String(), "authentication error")
	require.Contains(t, log.String(), "natsserver: ready")
	require.NotContains(t, log.String(), secret)
	require.NotContains(t, log.String(), "Plaintext")
}

// TestStranger wants to join a cluster without its password.
func TestStranger(t *testing.T) {
	var log book
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Cluster: &natsserver.Cluster{Name: "cloud", Listen: "127.0.0.1:0", User: "route", Password: "right"}})
	start(t, natsserver.Config{Listen: "127.0.0.1:0",
		Cluster: &natsserver.Cluster{Name: "cloud", Listen: "127.0.0.1:0", User: "route", Password: "hunter-2", Routes: []string{s.ClusterAddr()}}})
	until(t, "it is refused", func() bool { return strings.Contains(log.String(), "authentication error") })
	require.Zero(t, s.Peers())
	friend := start(t, natsserver.Config{Listen: "127.0.0.1:0",
		Cluster: &natsserver.Cluster{Name: "cloud", Listen: "127.0.0.1:0", User: "route", Password: "right", Routes: []string{s.ClusterAddr()}}})
	until(t, "a friend is not", func() bool { return friend.Peers() > 0 && s.Peers() > 0 })
	require.NotContains(t, log.String(), "hunter-2")
}

func TestConfigIsChecked(t *testing.T) {
	own := certificate(t)
	encrypted := &tls.Config{Certificates: own}
	mutual := &tls.Config{Certificates: own, ClientAuth: tls.RequireAndVerifyClientCert}
	for _, c := range []struct {
		cfg  natsserver.Config
		what string // "": it is fine
	}{
		{natsserver.Config{Listen: "example.org:4222"}, "Config.Listen"},
		{natsserver.Config{Listen: "127.0.0.1"}, "Config.Listen"},
		{natsserver.Config{Listen: "127.0.0.1:65536"}, "Config.Listen"},
		{natsserver.Config{Listen: ":0"}, "Config.Listen"},
		{natsserver.Config{Listen: "0.0.0.0:0"}, "needs TLS and credentials"},
		{natsserver.Config{Listen: "[::]:0", User: "u", Password: "p"}, "needs TLS and credentials"},
		{natsserver.Config{Listen: "192.0.2.1:0", TLS: encrypted}, "needs TLS and credentials"},
		{natsserver.Config{Listen: "127.0.0.1:0", TLS: &tls.Config{}}, "no certificate"},
		{natsserver.Config{User: "u"}, "both or neither"},
		{natsserver.Config{User: "u", Password: "p", Token: "t"}, "not both"},
		{natsserver.Config{MaxPayload: -1}, "MaxPayload"},
		{natsserver.Config{MaxPayload: 9 << 20}, "MaxPayload"},
		{natsserver.Config{MaxConnections: -1}, "MaxConnections"},
		{natsserver.Config{Cluster: &natsserver.Cluster{Name: "a", Listen: "127.0.0.1:0"}}, "needs Config.Listen"},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Listen: "127.0.0.1:0"}}, "Cluster.Name"},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "a b", Listen: "127.0.0.1:0"}}, "Cluster.Name"},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "a"}}, "Cluster.Listen"},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "a", Listen: "0.0.0.0:0"}}, "needs TLS"},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "a", Listen: "127.0.0.1:0", Password: "p"}}, "both or neither"},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "a", Listen: "127.0.0.1:0", TLS: encrypted}}, "RootCAs and ClientCAs"},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "a", Listen: "127.0.0.1:0", Routes: []string{"u:p@127.0.0.1:1"}}}, "Routes[0]"},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "a", Listen: "127.0.0.1:0", Routes: []string{"127.0.0.1:1", "b"}}}, "Routes[1]"},
		{natsserver.Config{Listen: "0.0.0.0:0", TLS: encrypted, Token: "t"}, ""},
		{natsserver.Config{Listen: "0.0.0.0:0", TLS: mutual}, ""},
		{natsserver.Config{Listen: "0.0.0.0:0", Insecure: true}, ""},
		{natsserver.Config{Listen: "localhost:0", Advertise: "example.org:4222", MaxPayload: 2 << 20, MaxConnections: 10}, ""},
		{natsserver.Config{Listen: "127.0.0.1:0", Cluster: &natsserver.Cluster{Name: "a", Listen: "0.0.0.0:0", TLS: &tls.Config{Certificates: own,
			RootCAs: x509.NewCertPool(), ClientCAs: x509.NewCertPool()}}}, ""},
	} {
		s, err := natsserver.Start(t.Context(), c.cfg)
		if c.what == "" {
			require.NoError(t, err)
			require.NoError(t, s.Close())
			continue
		}
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", c.what, err)
		require.ErrorContains(t, err, c.what)
	}
}

// certificate is one that nobody has signed.
func certificate(t *testing.T) []tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
}

// TestLimits are the server's own.
func TestLimits(t *testing.T) {
	s := start(t, natsserver.Config{MaxPayload: 1000, MaxConnections: 1})
	nc, err := nats.Connect("", nats.InProcessServer(s))
	require.NoError(t, err)
	defer nc.Close()
	require.EqualValues(t, 1000, nc.MaxPayload())
	_, err = nats.Connect("", nats.InProcessServer(s))
	require.ErrorContains(t, err, "maximum connections exceeded")
}
