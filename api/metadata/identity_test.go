package metadata

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// MD-02: who asks is known by the connection. What a request says of itself is ignored (OSSN-0074).
func TestNoHeaderSaysWhoAsks(t *testing.T) {
	s := newServer(t, nil)
	for _, header := range []string{"X-Forwarded-For: 10.0.0.6", "Forwarded: for=10.0.0.6", "X-Real-IP: 10.0.0.6", "X-Instance-ID: b",
		"X-Instance-ID-Signature: 00", "X-Tenant-ID: p", "X-Metadata-Provider: b", "X-Metadata-Provider-Signature: 00", "Host: beta",
		"X-Remote-Addr: 10.0.0.6", "X-LB-Network-ID: b"} {
		require.Equal(t, "10.0.0.5", get(t, s, "a", "/latest/meta-data/local-ipv4", header), header)
		require.Equal(t, http.StatusNotFound, status(t, s, "", "/latest/meta-data/local-ipv4", header), header)
	}
	require.Equal(t, "10.0.0.6", get(t, s, "b", "/latest/meta-data/local-ipv4"))
}

// An unknown port hears the same whatever it asks, and nothing of what there is.
func TestAnUnknownPortLearnsNothing(t *testing.T) {
	s := newServer(t, nil)
	var said []string
	for _, path := range []string{"/", "/latest/meta-data/", "/openstack", "/nothing", "/latest/api/token"} {
		for _, port := range []string{"", "c"} {
			if port == "c" && path == "/latest/api/token" {
				continue // asked for with GET
			}
			w := ask(t, s, &fakeConn{port: port}, http.MethodGet, path)
			require.Equal(t, http.StatusNotFound, w.Code, path)
			said = append(said, fmt.Sprint(w.Header(), w.Body))
		}
	}
	for _, one := range said {
		require.Equal(t, said[0], one)
	}
	require.Equal(t, http.StatusNotFound, ask(t, s, &fakeConn{}, http.MethodPut, "/latest/api/token", ttlHeader+": 60").Code)
	r := httptest.NewRequest(http.MethodGet, "/latest/meta-data/", nil) // by nobody's ConnContext
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	require.Equal(t, http.StatusNotFound, w.Code)
}

func token(t *testing.T, s *Server, port, ttl string) string {
	t.Helper()
	w := ask(t, s, &fakeConn{port: port}, http.MethodPut, "/latest/api/token", ttlHeader+": "+ttl)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, ttl, w.Header().Get(ttlHeader))
	return w.Body.String()
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, func(c *Config) { c.RequireToken = true })
		of := token(t, s, "a", "60")
		asks := func(port string, tokens ...string) int {
			var headers []string
			for _, one := range tokens {
				headers = append(headers, tokenHeader+": "+one)
			}
			return status(t, s, port, "/latest/meta-data/", headers...)
		}
		require.Equal(t, http.StatusOK, asks("a", of))
		require.Equal(t, http.StatusUnauthorized, asks("a"))
		require.Equal(t, http.StatusUnauthorized, status(t, s, "a", "/openstack/latest/user_data"), "not a way around")
		require.Equal(t, http.StatusUnauthorized, asks("b", of), "a token is its port's")
		require.Equal(t, http.StatusUnauthorized, asks("a", of, of))
		require.Equal(t, http.StatusUnauthorized, asks("a", of+"A"))
		require.Equal(t, http.StatusUnauthorized, asks("a", ""))
		for i := range of { // whatever is changed of it
			other := []byte(of)
			other[i] ^= 1
			require.NotEqual(t, http.StatusOK, asks("a", string(other)), i)
		}
		require.NotEqual(t, of, token(t, s, "a", "60"))
		restarted := newServer(t, nil)
		require.Equal(t, http.StatusUnauthorized, status(t, restarted, "a", "/latest/meta-data/", tokenHeader+": "+of))
		require.Equal(t, http.StatusOK, status(t, restarted, "a", "/latest/meta-data/"), "none is required here")

		time.Sleep(59 * time.Second)
		require.Equal(t, http.StatusOK, asks("a", of))
		time.Sleep(time.Second)
		require.Equal(t, http.StatusUnauthorized, asks("a", of), "after its time")
	})
}

func TestTokenRequests(t *testing.T) {
	s := newServer(t, nil)
	put := func(headers ...string) int {
		return ask(t, s, &fakeConn{port: "a"}, http.MethodPut, "/latest/api/token", headers...).Code
	}
	for _, ttl := range []string{"", "0", "-1", "21601", "1h", "99999999999999999999"} {
		require.Equal(t, http.StatusBadRequest, put(ttlHeader+": "+ttl), ttl)
	}
	require.Equal(t, http.StatusBadRequest, put())
	require.Equal(t, http.StatusOK, put(ttlHeader+": 21600"))
	require.Equal(t, http.StatusForbidden, put(ttlHeader+": 60", "X-Forwarded-For: 10.0.0.9"), "through a proxy")
	w := ask(t, s, &fakeConn{port: "a"}, http.MethodGet, "/latest/api/token")
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "PUT", w.Header().Get("Allow"))

	c := &fakeConn{port: "a"}
	w = ask(t, s, c, http.MethodPut, "/latest/api/token", ttlHeader+": 60")
	require.Equal(t, []int{1}, c.hops)
	require.Equal(t, "close", w.Header().Get("Connection"), "the limit is not for what comes after")
	_ = ask(t, s, c, http.MethodGet, "/latest/meta-data/")
	require.Len(t, c.hops, 1)
}

func TestMethodsAndBodies(t *testing.T) {
	s := newServer(t, nil)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		w := ask(t, s, &fakeConn{port: "a"}, method, "/latest/meta-data/")
		require.Equal(t, http.StatusMethodNotAllowed, w.Code, method)
		require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	}
	r := httptest.NewRequestWithContext(s.ConnContext(t.Context(), &fakeConn{port: "a"}), http.MethodGet, "/latest/", strings.NewReader("x"))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
}

func TestBadConfigs(t *testing.T) {
	good := Config{Source: twoGuests(), Resolve: byFake}
	for field, change := range map[string]func(*Config){
		"Source":   func(c *Config) { c.Source = nil },
		"Resolve":  func(c *Config) { c.Resolve = nil },
		"HopLimit": func(c *Config) { c.HopLimit = 256 },
		"PerPort":  func(c *Config) { c.PerPort = -1 },
		"Vendor":   func(c *Config) { c.Vendor = []byte("{") },
	} {
		cfg := good
		change(&cfg)
		_, err := New(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, field)
	}
}

// serving is a Server on the loopback; each connection is of the port that next is at that moment.
func serving(t *testing.T, perPort int) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(t, func(c *Config) {
		c.PerPort = perPort
		c.Resolve = func(net.Conn) (string, error) { return "a", nil }
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		s.count.mu.Lock()
		defer s.count.mu.Unlock()
		require.Empty(t, s.count.has, "every connection is given back")
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

func TestServe(t *testing.T) {
	addr := serving(t, 0)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range 20 { // more than a port may have at once
		res, err := client.Get("http://" + addr + "/latest/meta-data/hostname")
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, errors.Join(err, res.Body.Close()))
		require.Equal(t, "alpha.novalocal", string(body))
	}
}

// A guest that opens many connections and says nothing takes its own away, and those end by themselves.
func TestConnectionsPerPort(t *testing.T) {
	addr := serving(t, 2)
	first, second := dial(t, addr), dial(t, addr)
	for _, c := range []net.Conn{first, second} { // both are taken in
		_, err := io.WriteString(c, "GET /latest/meta-data/hostname HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.NoError(t, res.Body.Close())
	}
	third := dial(t, addr)
	_, err := third.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "one too many is closed")
	require.NoError(t, first.Close())
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	}, time.Minute, 10*time.Millisecond)
}

func TestWhatIsTooLongIsRefused(t *testing.T) {
	addr := serving(t, 0)
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		c := dial(t, addr)
		go func() { _, _ = io.Copy(c, bytes.NewReader([]byte(request))) }()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)
		require.NoError(t, res.Body.Close())
	}
	c := dial(t, addr)
	_, err := io.WriteString(c, "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
	require.NoError(t, err)
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(all), "413 ")
}
