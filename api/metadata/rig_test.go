package metadata

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// guests is a Source of two machines, whose ports are called "a" and "b".
type guests struct {
	all  map[string]guestdata.Guest
	fail error
}

func (s *guests) Guest(_ context.Context, port string) (guestdata.Guest, error) {
	if s.fail != nil {
		return guestdata.Guest{}, s.fail
	}
	g, ok := s.all[port]
	if !ok {
		return g, fmt.Errorf("port %q: %w", port, errdefs.ErrNotFound)
	}
	return g, nil
}

func (s *guests) Cluster(_ context.Context, project string) (map[string][]string, error) {
	if project != "p" {
		return nil, errors.New("another project's")
	}
	return map[string][]string{"mine": {"10.0.0.5 slots=2", "10.0.0.6 slots=4"}}, nil
}

func twoGuests() *guests {
	one := func(name, addr string) guestdata.Guest {
		return guestdata.Guest{ID: "4ff0b6c1-8c1b-4b52-a3f5-0f6d5f1f2a01", Name: name, Hostname: name, Domain: "novalocal", ProjectID: "p",
			ReservationID: "r-12345678", Zone: "nova", Flavor: "m1.tiny", ImageID: "11111111-2222-4333-8444-555555555555",
			KernelID: "21111111-2222-4333-8444-555555555555", RamdiskID: "31111111-2222-4333-8444-555555555555", KeyName: "mine",
			PublicKey: "ssh-ed25519 AAAA " + name, UserData: []byte("#!/bin/sh\necho " + name), SecurityGroups: []string{"default", "web"},
			PublicIPv4: netip.MustParseAddr("192.0.2.7"), Cards: []guestdata.Card{{PortID: "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
				MAC: "52:54:00:00:00:01", Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, DHCP: true}}}
	}
	return &guests{all: map[string]guestdata.Guest{"a": one("alpha", "10.0.0.5/24"), "b": one("beta", "10.0.0.6/24")}}
}

// fakeConn is a connection of a port.
type fakeConn struct {
	net.Conn
	port string
	hops []int
}

func (c *fakeConn) SetHopLimit(n int) error { c.hops = append(c.hops, n); return nil }

func byFake(c net.Conn) (string, error) {
	if f, ok := c.(*fakeConn); ok && f.port != "" {
		return f.port, nil
	}
	return "", fmt.Errorf("no port: %w", errdefs.ErrNotFound)
}

func newServer(t *testing.T, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{Source: twoGuests(), Resolve: byFake}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	require.NoError(t, err)
	return s
}

// ask makes one request over a connection of a port; headers are "Name: value".
func ask(t *testing.T, s *Server, c net.Conn, method, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(s.ConnContext(t.Context(), c), method, "http://169.254.169.254"+path, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func get(t *testing.T, s *Server, port, path string, headers ...string) string {
	t.Helper()
	w := ask(t, s, &fakeConn{port: port}, http.MethodGet, path, headers...)
	require.Equal(t, http.StatusOK, w.Code, "%s: %s", path, w.Body)
	return w.Body.String()
}

func status(t *testing.T, s *Server, port, path string, headers ...string) int {
	t.Helper()
	return ask(t, s, &fakeConn{port: port}, http.MethodGet, path, headers...).Code
}
