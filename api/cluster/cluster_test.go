package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/auth/ca"
	"github.com/dewpoint-cloud/dewpoint/image"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hostID = "6f0f66a2-5a1d-4b7a-9d53-0f5d3d2c1b0a"

// blob is one in memory; it breaks off where its size says that there is more.
type blob struct {
	*bytes.Reader
	size int64
}

func (b blob) Size() int64  { return b.size }
func (b blob) Close() error { return nil }

// controller serves a handler on loopback.
type controller struct {
	ca      *ca.CA
	address string
	admit   error
	put     []string // the contents that arrived, whole or not
}

func newCA(t *testing.T) *ca.CA {
	t.Helper()
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")})
	require.NoError(t, err)
	return authority
}

func newController(t *testing.T, host string) *controller {
	t.Helper()
	c := &controller{ca: newCA(t)}
	h, err := NewHandler(HandlerConfig{CA: c.ca,
		Settings: func(context.Context) (json.RawMessage, error) { return json.RawMessage(`{"bus":"secret"}`), nil },
		Admit:    func(context.Context, string, string) error { return c.admit },
		Open: func(_ context.Context, id string, upload uint64) (image.Blob, error) {
			switch {
			case id == "good" && upload == 3:
				return blob{bytes.NewReader([]byte("content")), 7}, nil
			case id == "short":
				return blob{bytes.NewReader([]byte("content")), 1 << 20}, nil
			case id == "odd":
				return nil, fmt.Errorf("the disk says: secret")
			}
			return nil, fmt.Errorf("image %s: %w", id, errdefs.ErrNotFound)
		},
		Put: func(_ context.Context, host, id string, upload uint64, content io.Reader) (image.Stored, error) {
			switch {
			case id == "full":
				return image.Stored{}, fmt.Errorf("no space left: %w", errdefs.ErrResourceExhausted)
			case id != "mine" || upload != 2 || host != hostID:
				return image.Stored{}, fmt.Errorf("image %s is another host's to make than %s's: %w", id, host, errdefs.ErrPermissionDenied)
			}
			all, err := io.ReadAll(content)
			c.put = append(c.put, string(all))
			return image.Stored{Size: int64(len(all)), SHA256: "sum"}, err
		}})
	require.NoError(t, err)
	pair, err := c.ca.Issue(ca.Request{Name: "controller", Hosts: []string{host}})
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(h)
	s.TLS, err = TLS(c.ca, pair)
	require.NoError(t, err)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	c.address = s.Listener.Addr().String()
	return c
}

func (c *controller) token(t *testing.T) string {
	t.Helper()
	token, err := c.ca.Token(time.Hour)
	require.NoError(t, err)
	return token
}

func (c *controller) join(t *testing.T) (Credentials, error) {
	t.Helper()
	return Join(t.Context(), JoinConfig{Address: c.address, Token: c.token(t), HostID: hostID, Name: "n1"})
}

func TestANodeJoinsAndGetsImages(t *testing.T) {
	c := newController(t, "127.0.0.1")
	cred, err := c.join(t)
	require.NoError(t, err)
	require.JSONEq(t, `{"bus":"secret"}`, string(cred.Settings))
	file := filepath.Join(t.TempDir(), "cluster.json")
	require.NoError(t, cred.Save(file))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	cred, err = Load(file)
	require.NoError(t, err)
	require.Equal(t, hostID, cred.HostID)
	end, err := cred.Expires()
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(ca.DefaultLife), end, time.Hour)

	client, err := NewNode(NodeConfig{Credentials: cred, File: file})
	require.NoError(t, err)
	defer client.http.CloseIdleConnections()
	r, err := client.OpenImage(t.Context(), image.Image{ID: "good", Upload: 3})
	require.NoError(t, err)
	content, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "content", string(content))
	require.NoError(t, r.Close())
	_, err = client.OpenImage(t.Context(), image.Image{ID: "good", Upload: 2})
	require.True(t, errdefs.IsNotFound(err), err)
	r, err = client.OpenImage(t.Context(), image.Image{ID: "short"})
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.Error(t, err, "what breaks off must not look whole")
	require.NoError(t, r.Close())
	_, err = client.OpenImage(t.Context(), image.Image{ID: "odd"})
	require.True(t, errdefs.IsInternal(err), err)
	require.NotContains(t, err.Error(), "secret")

	stored, err := client.PutImage(t.Context(), image.Image{ID: "mine", Upload: 2}, strings.NewReader("made here"))
	require.NoError(t, err)
	require.Equal(t, image.Stored{Size: 9, SHA256: "sum"}, stored)
	_, err = client.PutImage(t.Context(), image.Image{ID: "mine", Upload: 2}, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrNoProgress)))
	require.Error(t, err, "what breaks off here must not look whole there")
	_, err = client.PutImage(t.Context(), image.Image{ID: "full", Upload: 2}, strings.NewReader("x"))
	require.True(t, errdefs.IsResourceExhausted(err), err)
	_, err = client.PutImage(t.Context(), image.Image{ID: "good", Upload: 2}, strings.NewReader("x"))
	require.True(t, errdefs.IsPermissionDenied(err), err)
	defer client.put.CloseIdleConnections()

	require.NoError(t, client.Renew(t.Context()))
	next := client.Credentials()
	require.NotEqual(t, cred.Key, next.Key)
	saved, err := Load(file)
	require.NoError(t, err)
	require.Equal(t, next.Key, saved.Key)
	client.http.CloseIdleConnections() // the next connection is made with the new one
	r, err = client.OpenImage(t.Context(), image.Image{ID: "good", Upload: 3})
	require.NoError(t, err)
	require.NoError(t, r.Close())

	c.admit = fmt.Errorf("host n1 was taken out of the cloud: %w", errdefs.ErrPermissionDenied)
	err = client.Renew(t.Context())
	require.True(t, errdefs.IsPermissionDenied(err), err)
	require.ErrorContains(t, err, "was taken out")
	require.Equal(t, next, client.Credentials())
	_, err = c.join(t)
	require.True(t, errdefs.IsPermissionDenied(err), err)
}

func TestAMistakeInJoining(t *testing.T) {
	c, other := newController(t, "127.0.0.1"), newController(t, "127.0.0.1")
	elsewhere := newController(t, "192.0.2.1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := l.Addr().String()
	require.NoError(t, l.Close())
	for name, m := range map[string]struct {
		change func(*JoinConfig)
		is     func(error) bool
		says   string
	}{
		"no token":                {func(j *JoinConfig) { j.Token = "" }, errdefs.IsInvalidArgument, "token"},
		"an address that is none": {func(j *JoinConfig) { j.Address = "x" }, errdefs.IsInvalidArgument, "host:port"},
		"another cloud's token":   {func(j *JoinConfig) { j.Token = other.token(t) }, errdefs.IsPermissionDenied, "another authority than the token"},
		"another name":            {func(j *JoinConfig) { j.Address, j.Token = elsewhere.address, elsewhere.token(t) }, errdefs.IsPermissionDenied, "127.0.0.1"},
		"nobody there":            {func(j *JoinConfig) { j.Address = closed }, errdefs.IsUnavailable, closed},
		"a changed token": {func(j *JoinConfig) { j.Token = j.Token[:90] + "AAAA" + j.Token[94:] }, errdefs.IsPermissionDenied,
			"none of this authority"},
		"no host id": {func(j *JoinConfig) { j.HostID = "n1" }, errdefs.IsInvalidArgument, "host_id"},
		"no name":    {func(j *JoinConfig) { j.Name = "" }, errdefs.IsInvalidArgument, "name has 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := JoinConfig{Address: c.address, Token: c.token(t), HostID: hostID, Name: "n1"}
			m.change(&cfg)
			cred, err := Join(t.Context(), cfg)
			require.True(t, m.is(err), err)
			require.ErrorContains(t, err, m.says)
			require.Empty(t, cred.Certificate)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Join(ctx, JoinConfig{Address: c.address, Token: c.token(t), HostID: hostID, Name: "n1"})
	require.ErrorIs(t, err, context.Canceled)
}

// What nobody may do without a node's certificate, by whatever client.
func TestStrangers(t *testing.T) {
	c, other := newController(t, "127.0.0.1"), newController(t, "127.0.0.1")
	pairOf := func(authority *ca.CA, name string) []tls.Certificate {
		pair, err := authority.Issue(ca.Request{Name: name})
		require.NoError(t, err)
		cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
		require.NoError(t, err)
		return []tls.Certificate{cert}
	}
	ask := func(certs []tls.Certificate, method, path, body string) (int, string, error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.ca.Pool(), Certificates: certs}}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+c.address+path, strings.NewReader(body))
		require.NoError(t, err)
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text), nil
	}
	for _, x := range []struct {
		certs        []tls.Certificate
		method, path string
		body         string
		status       int
	}{
		{nil, "GET", "/v1/images/good/3", "", 401},
		{nil, "POST", "/v1/renew", "{}", 401},
		{nil, "PUT", "/v1/images/mine/2", "x", 401},
		{pairOf(c.ca, "controller"), "PUT", "/v1/images/mine/2", "x", 403},
		{pairOf(c.ca, "node/1"), "PUT", "/v1/images/mine/2", "x", 403},
		{pairOf(c.ca, "node/"+hostID), "PUT", "/v1/images/mine/2", "x", 200},
		{pairOf(c.ca, "node/"+hostID), "PUT", "/v1/images/mine/x", "x", 400},
		{pairOf(c.ca, "controller"), "GET", "/v1/images/good/3", "", 403},
		{pairOf(c.ca, "node/1"), "GET", "/v1/images/good/3", "", 200},
		{pairOf(c.ca, "node/1"), "GET", "/v1/images/good/x", "", 400},
		{nil, "POST", "/v1/join", "{}", 403},
		{nil, "POST", "/v1/join", "{", 400},
		{nil, "POST", "/v1/join", `{"more":1}`, 400},
		{nil, "POST", "/v1/join", `{"token":"` + strings.Repeat("x", maxRequest) + `"}`, 400},
		{nil, "GET", "/v1/join", "", 405},
		{nil, "GET", "/", "", 404},
	} {
		status, text, err := ask(x.certs, x.method, x.path, x.body)
		require.NoError(t, err)
		require.Equal(t, x.status, status, "%s %s: %s", x.method, x.path, text)
		require.Less(t, len(text), 1000)
	}
	_, _, err := ask(pairOf(other.ca, "node/1"), "GET", "/v1/images/good/3", "")
	require.Error(t, err, "a certificate of another authority")
}

func TestCredentialsThatAreNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.json")
	_, err := Load(file)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, text := range []string{"", "{", "{}", `{"Certificate":"eA==","Key":"eA=="}`} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err = Load(file)
		require.True(t, errdefs.IsDataLoss(err), err)
		require.ErrorContains(t, err, file)
	}
	_, err = NewNode(NodeConfig{})
	require.True(t, errdefs.IsDataLoss(err), err)
	_, err = NewHandler(HandlerConfig{})
	require.ErrorContains(t, err, "HandlerConfig.CA")
	_, err = TLS(newCA(t), ca.Pair{})
	require.True(t, errdefs.IsInvalidArgument(err), err)
}

// A certificate of which a third or less is left is renewed at once; a fresh one is not.
func TestANodeKeepsItsCertificateFresh(t *testing.T) {
	c := newController(t, "127.0.0.1")
	cred, err := c.join(t)
	require.NoError(t, err)
	short, err := c.ca.Issue(ca.Request{Name: certPrefix + hostID, Life: 10 * time.Minute}) // and an hour has gone
	require.NoError(t, err)
	old := cred
	old.Certificate, old.Key = short.Cert, short.Key
	for _, x := range []struct {
		cred    Credentials
		renewed bool
	}{{cred, false}, {old, true}} {
		n, err := NewNode(NodeConfig{Credentials: x.cred})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		if x.renewed {
			require.Eventually(t, func() bool { return !bytes.Equal(n.Credentials().Key, x.cred.Key) }, time.Minute, time.Millisecond)
		}
		cancel()
		require.NoError(t, <-ended)
		require.Equal(t, x.renewed, !bytes.Equal(n.Credentials().Key, x.cred.Key))
	}
}
