package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/etcdserver"
)

func TestConfigsThatAreRefused(t *testing.T) {
	for want, cfg := range map[string]Config{
		"Endpoints is required":        {},
		"Client is set":                {Client: &clientv3.Client{}, Endpoints: []string{"a"}},
		"one is set without the other": {Endpoints: []string{"a"}, Username: "u"},
		`Prefix is "cloud"`:            {Endpoints: []string{"a"}, Prefix: "cloud"},
		"Prefix has 1025 bytes":        {Endpoints: []string{"a"}, Prefix: strings.Repeat("p", 1024) + "/"},
		"MaxOps is 3":                  {Endpoints: []string{"a"}, MaxOps: 3},
		"MaxBytes is 1000":             {Endpoints: []string{"a"}, MaxBytes: 1000},
		"History is -1":                {Endpoints: []string{"a"}, History: -1},
		"Timeout is 1h":                {Endpoints: []string{"a"}, Timeout: time.Hour},
		"Compact is 1ms":               {Endpoints: []string{"a"}, Compact: time.Millisecond},
	} {
		_, err := Open(t.Context(), cfg)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", want, err)
		require.ErrorContains(t, err, want)
	}
}

// etcd is not there when the log is opened: it waits, says so, does not spin, and goes on when etcd comes. Later likewise.
func TestEtcdIsDown(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	r := newRelay(t, embedded(t, etcdserver.Config{})[0])
	r.set(false, true)
	var j notes
	cfg := Config{Endpoints: []string{r.url()}, Logger: j.logger(), Timeout: 2 * time.Second}
	short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	_, err := Open(short, cfg)
	cancel()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Contains(t, j.String(), "etcd does not answer")
	require.Less(t, j.count("again in"), 20)

	opened := make(chan *Log, 1)
	go func() {
		l, err := Open(context.Background(), cfg)
		if err != nil {
			t.Error(err)
		}
		opened <- l
	}()
	before := j.count("again in")
	eventually(t, "it waits", func() bool { return j.count("again in") >= before+3 })
	r.set(false, false)
	l := <-opened
	require.NotNil(t, l)
	defer l.Close()
	rev := put(t, l, set("a", "1"))

	r.set(false, true)
	r.cut()
	followed := make(chan error, 1)
	go func() {
		for b, err := range l.Follow(context.Background(), 0) {
			if err == nil && b.Rev != rev {
				err = fmt.Errorf("revision %d, want %d", b.Rev, rev)
			}
			followed <- err
			return
		}
	}()
	eventually(t, "the follower waits", func() bool { return strings.Contains(j.String(), "does not answer a request") })
	r.set(false, false)
	require.NoError(t, <-followed)

	// Close ends what waits, at once and with the right error.
	r.set(false, true)
	r.cut()
	go func() {
		for _, err := range l.Follow(context.Background(), 0) {
			followed <- err
		}
		close(followed)
	}()
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-followed, state.ErrClosed)
	_, more := <-followed
	require.False(t, more)
}

func TestCredentialsAndRoles(t *testing.T) {
	t.Parallel()
	urls := embedded(t, etcdserver.Config{})
	root := bare(t, urls...)
	ctx := t.Context()
	must := func(_ any, err error) {
		t.Helper()
		require.NoError(t, err)
	}
	must(root.UserAdd(ctx, "root", "r"))
	must(root.RoleAdd(ctx, "root"))
	must(root.UserGrantRole(ctx, "root", "root"))
	must(root.UserAdd(ctx, "cloud", "c"))
	must(root.RoleAdd(ctx, "cloud"))
	must(root.RoleGrantPermission(ctx, "cloud", "dewpoint/", clientv3.GetPrefixRangeEnd("dewpoint/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(root.UserGrantRole(ctx, "cloud", "cloud"))
	must(root.AuthEnable(ctx))

	cfg := Config{Endpoints: urls, Username: "cloud", Password: "c"}
	l := open(t, cfg)
	rev := put(t, l, set("a", "1"))
	have, _ := rows(t, l)
	require.Equal(t, map[string]string{"a": "1"}, have)
	f := pull(t, l, rev)
	rev = put(t, l, set("a", "2"))
	require.Equal(t, rev, f().Rev)

	for what, c := range map[string]struct {
		change func(*Config)
		is     func(error) bool
	}{
		"password":       {func(c *Config) { c.Password = "x" }, errdefs.IsUnauthorized},
		"user":           {func(c *Config) { c.Username = "x" }, errdefs.IsUnauthorized},
		"no credentials": {func(c *Config) { c.Username, c.Password = "", "" }, errdefs.IsUnauthorized},
		"prefix":         {func(c *Config) { c.Prefix = "other/" }, errdefs.IsPermissionDenied},
	} {
		wrong := cfg
		c.change(&wrong)
		_, err := Open(ctx, wrong)
		require.True(t, c.is(err), "%s: %v", what, err)
	}

	// A permission that is taken away later.
	admin, err := clientv3.New(clientv3.Config{Endpoints: urls, Username: "root", Password: "r", Logger: root.GetLogger()})
	require.NoError(t, err)
	defer admin.Close()
	must(admin.UserRevokeRole(ctx, "cloud", "cloud"))
	_, err = l.Commit(ctx, state.Batch{Ops: []state.Op{set("a", "3")}})
	require.True(t, errdefs.IsPermissionDenied(err), err)
	for _, err := range l.Follow(ctx, 0) {
		require.True(t, errdefs.IsPermissionDenied(err), err)
	}
	must(admin.UserGrantRole(ctx, "cloud", "cloud"))
	put(t, l, set("a", "4"))
}

// Something else writes below the prefix.
func TestTheWrongPrefix(t *testing.T) {
	t.Parallel()
	urls := embedded(t, etcdserver.Config{})
	client := bare(t, urls...)
	_, err := client.Put(t.Context(), "theirs/head", "HEAD of something")
	require.NoError(t, err)
	_, err = Open(t.Context(), Config{Endpoints: urls, Prefix: "theirs/"})
	require.True(t, errdefs.IsInvalidArgument(err), err)
	require.ErrorContains(t, err, `"HEAD of something"`)

	l := open(t, Config{Endpoints: urls})
	f := pull(t, l, 0)
	f()
	next := pullErr(t, l)
	_, err = client.Put(t.Context(), "dewpoint/head", "2")
	require.NoError(t, err)
	require.True(t, errdefs.IsInvalidArgument(next()))
}

// pullErr follows from now on and returns the error that ends it.
func pullErr(t *testing.T, l *Log) func() error {
	ended := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		first := true
		for _, err := range l.Follow(context.Background(), 0) {
			if first {
				close(begun)
				first = false
			}
			if err != nil {
				ended <- err
			}
		}
	}()
	<-begun
	return func() error { return <-ended }
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string // file
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a := &authority{t: t, cert: cert, key: key, pem: filepath.Join(t.TempDir(), "ca.pem")}
	require.NoError(t, os.WriteFile(a.pem, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return a
}

// issue makes a certificate for 127.0.0.1, as files.
func (a *authority) issue() *etcdserver.TLS {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
		a.cert, &key.PublicKey, a.key)
	require.NoError(a.t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.t, err)
	dir := a.t.TempDir()
	files := &etcdserver.TLS{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), CA: a.pem}
	require.NoError(a.t, os.WriteFile(files.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(a.t, os.WriteFile(files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	return files
}

// client is a client's configuration: trusts this authority, and shows a certificate of another, or none.
func (a *authority) client(shows *authority) *tls.Config {
	a.t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	cfg.RootCAs.AddCert(a.cert)
	if shows != nil {
		files := shows.issue()
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		require.NoError(a.t, err)
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t), newAuthority(t)
	urls := embedded(t, etcdserver.Config{ClientTLS: ours.issue()})
	require.Contains(t, urls[0], "https://")
	l := open(t, Config{Endpoints: urls, TLS: ours.client(ours)})
	put(t, l, set("a", "1"))
	have, _ := rows(t, l)
	require.Equal(t, map[string]string{"a": "1"}, have)
	for what, cfg := range map[string]*tls.Config{
		"the server's is of another CA": others.client(ours),
		"ours is of another CA":         ours.client(others),
		"we have none":                  ours.client(nil),
	} {
		var j notes
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := Open(ctx, Config{Endpoints: urls, TLS: cfg, Logger: j.logger()})
		cancel()
		require.True(t, errdefs.IsUnauthorized(err), "%s: %v\n%s", what, err, &j)
		require.ErrorContains(t, err, "certificate")
	}

	// A server without TLS ends the connection without a word; it may be one that starts.
	plain := embedded(t, etcdserver.Config{})
	var j notes
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Open(ctx, Config{Endpoints: []string{strings.Replace(plain[0], "http:", "https:", 1)}, TLS: ours.client(ours), Logger: j.logger()})
		ended <- err
	}()
	eventually(t, "the log says why it waits", func() bool { return strings.Contains(j.String(), "handshake failed") })
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

// Limits are named, nothing is written, and a batch at the limit is taken.
func TestLimits(t *testing.T) {
	t.Parallel()
	small := embedded(t, etcdserver.Config{})
	large := embedded(t, etcdserver.Config{MaxOps: 1000, MaxBytes: 8 << 20})
	fill := func(ops, guards, bytes int) state.Batch {
		var b state.Batch
		for i := range ops {
			b.Ops = append(b.Ops, set(fmt.Sprintf("%04d", i), ""))
		}
		for i := range guards {
			b.Guards = append(b.Guards, state.Guard{Key: fmt.Sprintf("g%04d", i)})
		}
		b.Ops[0].Value = make([]byte, bytes)
		return b
	}
	for _, c := range []struct {
		cfg  Config
		ops  int
		room int
	}{{Config{Endpoints: small}, 126, 1_400_000}, {Config{Endpoints: large, MaxOps: 1000, MaxBytes: 8 << 20}, 998, 8_100_000}} {
		l := open(t, c.cfg)
		require.Equal(t, c.ops, l.Limits().Ops)
		_, err := l.Commit(t.Context(), fill(c.ops, c.ops+1, c.room))
		require.NoError(t, err)
		_, err = l.Commit(t.Context(), state.Batch{Ops: []state.Op{{Key: strings.Repeat("k", maxKey), Delete: true}}})
		require.NoError(t, err)
		before, rev := rows(t, l)
		for want, b := range map[string]state.Batch{
			fmt.Sprintf("%d operations, the limit is %d", c.ops+1, c.ops): fill(c.ops+1, 0, 0),
			fmt.Sprintf("%d guards, the limit is %d", c.ops+2, c.ops+1):   fill(1, c.ops+2, 0),
			"bytes, the limit is":             fill(1, 0, l.cfg.MaxBytes),
			"32769 bytes, the limit is 32768": {Ops: []state.Op{set(strings.Repeat("k", maxKey+1), "")}},
		} {
			_, err := l.Commit(t.Context(), b)
			require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", want, err)
			require.ErrorContains(t, err, want)
		}
		after, same := rows(t, l)
		require.Equal(t, rev, same)
		require.Equal(t, before, after)
	}
	// Servers that allow less than we were told say so themselves.
	l := open(t, Config{Endpoints: small, MaxOps: 1000, MaxBytes: 8 << 20})
	_, err := l.Commit(t.Context(), fill(500, 0, 0))
	require.True(t, errdefs.IsInvalidArgument(err), err)
	require.ErrorContains(t, err, "--max-txn-ops")
	_, err = l.Commit(t.Context(), fill(1, 0, 3<<20))
	require.True(t, errdefs.IsInvalidArgument(err), err)
	require.ErrorContains(t, err, "--max-request-bytes")
}

// What kine answers to a transaction of several keys is final.
func TestAServerThatIsNoCompleteEtcd(t *testing.T) {
	err := status.Error(codes.InvalidArgument, "etcdserver: unsupported operations in txn request")
	require.Equal(t, refused, kindOf(err))
	require.True(t, errdefs.IsNotImplemented(foreign(err)))
	require.Equal(t, unsure, kindOf(errors.New("anything")))
	require.Equal(t, unsure, kindOf(status.Error(codes.Unavailable, `connection error: desc = "error reading from server: remote error: tls: internal error"`)))
	require.Equal(t, unsure, kindOf(context.DeadlineExceeded))
}
