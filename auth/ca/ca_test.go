package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func open(t *testing.T) *CA {
	t.Helper()
	c, err := Open(Config{Dir: filepath.Join(t.TempDir(), "ca")})
	require.NoError(t, err)
	return c
}

func keyPair(t *testing.T, p Pair) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	require.NoError(t, err)
	return pair
}

// handshake has a client meet a server, and returns what each says of it.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			s := tls.Server(conn, server)
			err = s.HandshakeContext(ctx)
			_ = s.Close()
		}
		ended <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	c := tls.Client(conn, client)
	clientErr = c.HandshakeContext(ctx)
	if clientErr == nil {
		_, _ = c.Read(make([]byte, 1)) // TLS 1.3: the server's verdict on the client comes later
	}
	_ = c.Close()
	return clientErr, <-ended
}

func TestTwoProcessesOfOneCloudTrustEachOther(t *testing.T) {
	ours, theirs := open(t), open(t)
	config := func(c *CA, trust *CA, r Request) *tls.Config {
		pair, err := c.Issue(r)
		require.NoError(t, err)
		return &tls.Config{Certificates: []tls.Certificate{keyPair(t, pair)}, RootCAs: trust.Pool(), ClientCAs: trust.Pool(),
			ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "127.0.0.1"}
	}
	server := config(ours, ours, Request{Name: "controller", Hosts: []string{"127.0.0.1", "controller.example"}})
	c, s := handshake(t, config(ours, ours, Request{Name: "node/1"}), server)
	require.NoError(t, c)
	require.NoError(t, s)

	c, s = handshake(t, config(theirs, ours, Request{Name: "node/1"}), server)
	require.True(t, c != nil || s != nil)
	require.ErrorContains(t, s, "unknown authority")

	c, _ = handshake(t, config(ours, theirs, Request{Name: "node/1"}), server)
	require.ErrorContains(t, c, "unknown authority")

	// A certificate that is for a client does not make a server.
	c, _ = handshake(t, config(ours, ours, Request{Name: "node/1"}), config(ours, ours, Request{Name: "node/2"}))
	require.Error(t, c)

	other := config(ours, ours, Request{Name: "controller", Hosts: []string{"127.0.0.2"}})
	c, _ = handshake(t, config(ours, ours, Request{Name: "node/1"}), other)
	require.ErrorContains(t, c, "127.0.0.1")
}

func TestAnAuthorityIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := Open(Config{Dir: dir, Name: "mine"})
	require.NoError(t, err)
	require.Equal(t, "mine", first.cert.Subject.CommonName)
	again, err := Open(Config{Dir: dir, Name: "other"})
	require.NoError(t, err)
	require.Equal(t, first.PEM(), again.PEM())
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	// Killed between the key and the certificate.
	require.NoError(t, os.Remove(filepath.Join(dir, "ca.crt")))
	again, err = Open(Config{Dir: dir})
	require.NoError(t, err)
	require.True(t, again.key.Equal(first.key))
}

func TestFilesThatAreWrong(t *testing.T) {
	_, err := Open(Config{})
	require.ErrorContains(t, err, "Config.Dir")
	_, err = Open(Config{Dir: filepath.Join(t.TempDir(), "no", "parent")})
	require.ErrorIs(t, err, os.ErrNotExist)
	for name, c := range map[string]struct {
		damage func(dir string) error
		is     func(error) bool
		says   string
	}{
		"a key that all can read": {func(dir string) error { return os.Chmod(filepath.Join(dir, "ca.key"), 0o644) }, errdefs.IsFailedPrecondition, "0600"},
		"no key":                  {func(dir string) error { return os.Remove(filepath.Join(dir, "ca.key")) }, errdefs.IsDataLoss, "ca.key"},
		"a key that is none":      {func(dir string) error { return os.WriteFile(filepath.Join(dir, "ca.key"), []byte("x"), 0o600) }, errdefs.IsDataLoss, "ca.key"},
		"a certificate that is none": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "ca.crt"), encode(typeCert, []byte("x")), 0o600)
		},
			errdefs.IsDataLoss, "ca.crt"},
		"somebody else's certificate": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "ca.crt"), open(t).PEM(), 0o600)
		}, errdefs.IsDataLoss, "is not the certificate of"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ca")
			_, err := Open(Config{Dir: dir})
			require.NoError(t, err)
			require.NoError(t, c.damage(dir))
			_, err = Open(Config{Dir: dir})
			require.True(t, c.is(err), err)
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestSigningRequests(t *testing.T) {
	c := open(t)
	key, request, err := NewSigningRequest()
	require.NoError(t, err)
	cert, err := c.Sign(request, Request{Name: "node/1", Hosts: []string{"::1"}, Life: time.Hour})
	require.NoError(t, err)
	_, err = tls.X509KeyPair(cert, key)
	require.NoError(t, err)
	block, _ := pem.Decode(cert)
	parsed, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	require.Equal(t, "node/1", parsed.Subject.CommonName)
	require.False(t, parsed.IsCA)
	require.WithinDuration(t, time.Now().Add(time.Hour), parsed.NotAfter, time.Minute)

	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	other, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, large)
	require.NoError(t, err)
	broken := append([]byte(nil), request...)
	b, _ := pem.Decode(broken)
	b.Bytes[len(b.Bytes)-1] ^= 1
	for name, bad := range map[string]struct {
		request []byte
		r       Request
		says    string
	}{
		"no PEM":          {[]byte("x"), Request{Name: "n"}, "PEM"},
		"another kind":    {cert, Request{Name: "n"}, "CERTIFICATE REQUEST"},
		"rubbish":         {encode(typeRequest, []byte("x")), Request{Name: "n"}, "signing request"},
		"a bad signature": {pem.EncodeToMemory(b), Request{Name: "n"}, "signing request"},
		"another curve":   {encode(typeRequest, other), Request{Name: "n"}, "P-256"},
		"no name":         {request, Request{}, "Request.Name has 0"},
		"a long name":     {request, Request{Name: strings.Repeat("n", 65)}, "Request.Name has 65"},
		"a long life":     {request, Request{Name: "n", Life: MaxLife + 1}, "Request.Life"},
		"a host of none":  {request, Request{Name: "n", Hosts: []string{""}}, "Request.Hosts"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Sign(bad.request, bad.r)
			require.True(t, errdefs.IsInvalidArgument(err), err)
			require.ErrorContains(t, err, bad.says)
		})
	}
}

func TestTokens(t *testing.T) {
	ours, theirs := open(t), open(t)
	synctest.Test(t, func(t *testing.T) {
		token, err := ours.Token(time.Hour)
		require.NoError(t, err)
		require.NoError(t, ours.CheckToken(token))
		of, err := TokenAuthority(token)
		require.NoError(t, err)
		require.Equal(t, ours.Fingerprint(), of)
		denied := func(c *CA, token, says string) {
			t.Helper()
			err := c.CheckToken(token)
			require.True(t, errdefs.IsPermissionDenied(err), err)
			require.ErrorContains(t, err, says)
			if len(token) > 10 {
				require.NotContains(t, err.Error(), token)
			}
		}
		denied(theirs, token, "none of this authority")
		for i := range token { // whatever character is changed
			b := []byte(token)
			b[i] ^= 1
			denied(ours, string(b), "none of this authority")
		}
		for _, bad := range []string{"", "dp1.", token + "x", token[:len(token)-1], "dp1.zz." + token[69:]} {
			denied(ours, bad, "none of this authority")
			_, err := TokenAuthority(bad)
			require.True(t, errdefs.IsInvalidArgument(err), bad)
		}
		time.Sleep(time.Hour)
		denied(ours, token, "the token ended at")
	})
	for _, life := range []time.Duration{0, -1, MaxTokenLife + 1} {
		_, err := ours.Token(life)
		require.True(t, errdefs.IsInvalidArgument(err), err)
	}
}
