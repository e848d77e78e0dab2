package nats_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	a := &authority{pool: x509.NewCertPool()}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a certificate for this machine.
func (a *authority) sign(t testing.TB) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// refusal is a bus that a server does not want, or that does not want the server.
type refusal struct {
	name   string
	server natsserver.Config
	bus    nats.Config
	class  error
	text   string
}

const secret = "hunter-2/%?"

func refusals(t *testing.T) []refusal {
	ours, others := newAuthority(t), newAuthority(t)
	encrypted := natsserver.Config{TLS: &tls.Config{Certificates: []tls.Certificate{ours.sign(t)}}}
	both := natsserver.Config{TLS: &tls.Config{Certificates: []tls.Certificate{ours.sign(t)}, ClientCAs: ours.pool, ClientAuth: tls.RequireAndVerifyClientCert}}
	return []refusal{
		{"wrong password", natsserver.Config{User: "cloud", Password: "right"}, nats.Config{User: "cloud", Password: secret},
			errdefs.ErrUnauthenticated, "Authorization Violation"},
		{"no password", natsserver.Config{User: "cloud", Password: "right"}, nats.Config{}, errdefs.ErrUnauthenticated, "Authorization Violation"},
		{"wrong token", natsserver.Config{Token: "right"}, nats.Config{Token: secret}, errdefs.ErrUnauthenticated, "Authorization Violation"},
		{"certificate of another authority", encrypted, nats.Config{TLS: &tls.Config{RootCAs: others.pool}},
			errdefs.ErrFailedPrecondition, "certificate signed by unknown authority"},
		{"certificate for another name", encrypted, nats.Config{TLS: &tls.Config{RootCAs: ours.pool, ServerName: "elsewhere"}},
			errdefs.ErrFailedPrecondition, "not elsewhere"},
		{"no certificate of the client", both, nats.Config{TLS: &tls.Config{RootCAs: ours.pool}}, errdefs.ErrUnauthenticated, "certificate required"},
		{"client of another authority", both, nats.Config{TLS: &tls.Config{RootCAs: ours.pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := others.sign(t)
			return &cert, nil
		}}}, errdefs.ErrUnauthenticated, "tls: "},
		{"server without TLS", natsserver.Config{}, nats.Config{TLS: &tls.Config{RootCAs: ours.pool}}, errdefs.ErrFailedPrecondition, "secure connection not available"},
		{"small messages", natsserver.Config{MaxPayload: 4096}, nats.Config{}, errdefs.ErrFailedPrecondition, "at most 4096 bytes"},
	}
}

// TestRefused opens buses that can't be: Open says why at once, or in the background logs it and tries again with back-off.
func TestRefused(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	for _, r := range refusals(t) {
		t.Run(r.name, func(t *testing.T) {
			r.server.Listen = "127.0.0.1:0"
			var serverLog, log book
			r.server.Logger, r.bus.Logger = serverLog.logger(), log.logger()
			r.bus.URLs = []string{start(t, r.server).URL()}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := nats.Open(ctx, r.bus)
			require.ErrorIs(t, err, r.class)
			require.False(t, errdefs.IsUnavailable(err))
			require.ErrorContains(t, err, r.text)
			require.NotContains(t, err.Error(), secret)

			r.bus.Background, r.bus.MaxWait, r.bus.CallWait = true, 400*time.Millisecond, time.Millisecond
			before, begin := log.count("trying again"), time.Now()
			bus := open(t, r.bus)
			_, err = bus.Serve("a", echo)
			require.NoError(t, err)
			until(t, "it tries again", func() bool { return log.count("trying again") >= before+4 })
			// Between them were waits of at least 50, 100 and 200 ms.
			require.GreaterOrEqual(t, time.Since(begin), 350*time.Millisecond, "it spins")
			require.False(t, bus.Connected())
			_, err = call(t, bus, "a", "")
			require.ErrorIs(t, err, nats.ErrDisconnected)
			require.NoError(t, bus.Close())
			require.Contains(t, log.String(), "level=ERROR")
			require.Contains(t, log.String(), r.text)
			require.NotContains(t, log.String()+serverLog.String(), secret)
		})
	}
}

// TestRefusedInProcess is told why as clearly.
func TestRefusedInProcess(t *testing.T) {
	t.Parallel()
	for _, cfg := range []natsserver.Config{{Token: "right"}, {User: "cloud", Password: "right"}} {
		_, err := nats.Open(t.Context(), nats.Config{InProcess: start(t, cfg), Token: secret})
		require.True(t, errdefs.IsUnauthorized(err), err)
	}
}

// TestAccepted connects in all ways that there are.
func TestAccepted(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	client := &tls.Config{RootCAs: ours.pool, Certificates: []tls.Certificate{ours.sign(t)}}
	for name, c := range map[string]struct {
		server natsserver.Config
		bus    nats.Config
	}{
		"password": {natsserver.Config{User: "cloud", Password: secret}, nats.Config{User: "cloud", Password: secret}},
		"token":    {natsserver.Config{Token: secret}, nats.Config{Token: secret}},
		"TLS":      {natsserver.Config{TLS: &tls.Config{Certificates: []tls.Certificate{ours.sign(t)}}}, nats.Config{TLS: client}},
		"both sides' certificates": {natsserver.Config{TLS: &tls.Config{Certificates: []tls.Certificate{ours.sign(t)}, ClientCAs: ours.pool,
			ClientAuth: tls.RequireAndVerifyClientCert}}, nats.Config{TLS: client}},
	} {
		t.Run(name, func(t *testing.T) {
			c.server.Listen = "127.0.0.1:0"
			s := start(t, c.server)
			inside := nats.Config{InProcess: s, User: c.bus.User, Password: c.bus.Password, Token: c.bus.Token}
			c.bus.URLs = []string{s.URL()}
			near, far := open(t, c.bus), open(t, inside)
			_, err := far.Serve("a", echo)
			require.NoError(t, err)
			answer, err := call(t, near, "a", "x")
			require.NoError(t, err)
			require.Equal(t, "x", answer)
		})
	}
}

// TestServerComesLate opens buses before there is a server.
func TestServerComesLate(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())

	var log book
	cfg := again(nats.Config{URLs: []string{"nats://" + address}, Logger: log.logger()})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = nats.Open(ctx, cfg)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, errdefs.IsUnavailable(err))
	require.Contains(t, log.String(), "no connection, trying again")

	waits := make(chan *nats.Bus)
	go func() {
		bus, err := nats.Open(t.Context(), cfg)
		if err != nil {
			t.Error(err)
		}
		waits <- bus
	}()
	background := cfg
	background.Background = true
	far := open(t, background)
	_, err = far.Serve("late", echo)
	require.NoError(t, err)
	require.ErrorIs(t, far.Cast(t.Context(), queue.Message{Topic: "late"}), nats.ErrDisconnected)
	start(t, natsserver.Config{Listen: address})
	near := <-waits
	require.NotNil(t, near)
	defer near.Close()
	until(t, "calls are answered", answers(t, near, "late"))
}

// TestPasswordChanges at the server, and back. The bus goes on trying.
func TestPasswordChanges(t *testing.T) {
	t.Parallel()
	var log book
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0", User: "cloud", Password: secret})
	address := strings.TrimPrefix(s.URL(), "nats://")
	bus := open(t, again(nats.Config{URLs: []string{s.URL()}, User: "cloud", Password: secret, Logger: log.logger()}))
	_, err := bus.Serve("a", echo)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	s, err = natsserver.Start(t.Context(), natsserver.Config{Listen: address, User: "cloud", Password: "another"})
	require.NoError(t, err)
	until(t, "it is refused", func() bool { return log.count("Authorization Violation") >= 3 })
	require.NoError(t, s.Close())
	start(t, natsserver.Config{Listen: address, User: "cloud", Password: secret})
	until(t, "it is connected again", answers(t, bus, "a"))
	require.NotContains(t, log.String(), secret)
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for field, cfg := range map[string]nats.Config{
		"URLs or InProcess":                   {},
		"Workers":                             {URLs: []string{"nats://127.0.0.1"}, Workers: -1},
		"Backlog":                             {URLs: []string{"nats://127.0.0.1"}, Backlog: -1},
		"BacklogBytes":                        {URLs: []string{"nats://127.0.0.1"}, BacklogBytes: 1000},
		"Async":                               {URLs: []string{"nats://127.0.0.1"}, Async: -1},
		"CallTimeout":                         {URLs: []string{"nats://127.0.0.1"}, CallTimeout: -1},
		"CallWait":                            {URLs: []string{"nats://127.0.0.1"}, CallWait: -1},
		"DialTimeout":                         {URLs: []string{"nats://127.0.0.1"}, DialTimeout: 1},
		"PingInterval":                        {URLs: []string{"nats://127.0.0.1"}, PingInterval: -time.Hour},
		"MaxWait":                             {URLs: []string{"nats://127.0.0.1"}, MaxWait: -1},
		"Prefix":                              {URLs: []string{"nats://127.0.0.1"}, Prefix: "a.>"},
		"URLs[0] is not nats":                 {URLs: []string{"http://127.0.0.1"}},
		"URLs[1] is not nats":                 {URLs: []string{"nats://127.0.0.1", "127.0.0.1:4222"}},
		"URLs[0] is not nats://host:port or":  {URLs: []string{"nats://u:" + secret + "@%zz"}},
		"URLs[0] has credentials":             {URLs: []string{"nats://u:hunter-2@127.0.0.1"}},
		"URLs[0] is on another machine":       {URLs: []string{"nats://192.0.2.1:4222"}},
		"URLs[0] is on another machine and n": {URLs: []string{"nats://example.org"}, User: "u", Password: secret},
		"at most one":                         {URLs: []string{"nats://localhost"}, Token: secret, User: "u"},
	} {
		_, err := nats.Open(t.Context(), cfg)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", field, err)
		require.ErrorContains(t, err, field)
		require.NotContains(t, err.Error(), "hunter-2")
	}
	bus := open(t, nats.Config{InProcess: start(t, natsserver.Config{})})
	_, err := bus.Serve("a", nil)
	require.True(t, errdefs.IsInvalidArgument(err), err)
	err = bus.CallAsync(t.Context(), queue.Message{Topic: "a"}, nil)
	require.True(t, errdefs.IsInvalidArgument(err), err)
}

// TestMissingCredentials reads files that are not there.
func TestMissingCredentials(t *testing.T) {
	t.Parallel()
	url := start(t, natsserver.Config{Listen: "127.0.0.1:0"}).URL()
	missing := t.TempDir() + "/missing"
	for _, cfg := range []nats.Config{{URLs: []string{url}, NKeyFile: missing}, {URLs: []string{url}, CredentialsFile: missing}} {
		_, err := nats.Open(t.Context(), cfg)
		require.True(t, errdefs.IsUnauthorized(err), err)
		require.ErrorContains(t, err, missing)
	}
}

func TestConfigKeepsSecrets(t *testing.T) {
	t.Parallel()
	for _, cfg := range []nats.Config{{User: "cloud", Password: secret}, {Token: secret}} {
		var log book
		log.logger().Info("config", "config", cfg, "pointer", &cfg)
		for _, text := range []string{fmt.Sprint(cfg), fmt.Sprintf("%v %+v %#v %s", cfg, cfg, cfg, cfg), fmt.Sprintf("%+v", &cfg), log.String(),
			slog.AnyValue(cfg).Resolve().String()} {
			require.NotContains(t, text, secret)
			require.Contains(t, text, "credentials: ")
		}
	}
}
