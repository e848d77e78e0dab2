package metadata_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/api/metadata"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/linklocal"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// guest is a namespace that plays a machine: its card is joined to the port's tap.
type guest struct {
	*netnstest.NS
	t        *testing.T
	instance compute.Instance
	port     network.Port
}

func (g guest) ip(args ...string) {
	g.t.Helper()
	require.NoError(g.t, g.Do(func() error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			return errors.New(strings.Join(args, " ") + ": " + string(out))
		}
		return nil
	}))
}

// be gives the guest an identity: a hardware address and an IP address.
func (g guest) be(mac string, addr netip.Addr) {
	g.t.Helper()
	g.ip("link", "set", "eth0", "down")
	g.ip("addr", "flush", "dev", "eth0")
	g.ip("link", "set", "eth0", "address", mac)
	g.ip("addr", "add", addr.String()+"/24", "dev", "eth0")
	g.ip("link", "set", "eth0", "up")
	g.ip("route", "add", "default", "via", "10.0.0.1")
}

// ask makes a request from within the guest. It waits at most as long as it is told.
func (g guest) ask(patience time.Duration, method, path string, headers ...string) (int, string, error) {
	var c net.Conn
	if err := g.Do(func() (err error) { c, err = net.DialTimeout("tcp4", "169.254.169.254:80", patience); return err }); err != nil {
		return 0, "", err
	}
	defer c.Close()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
	r, err := http.NewRequest(method, "http://169.254.169.254"+path, nil)
	if err != nil {
		return 0, "", err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	res, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// awaits repeats a request until it is answered with 200.
func (g guest) awaits(path string) (body string) {
	g.t.Helper()
	require.Eventually(g.t, func() bool {
		var status int
		var err error
		status, body, err = g.ask(2*time.Second, http.MethodGet, path)
		return err == nil && status == http.StatusOK
	}, time.Minute, 50*time.Millisecond)
	return body
}

// A cloud with a real data path and two machines on one network. MD-01, MD-02: each hears of itself, and whoever takes the
// other's address hears nothing of it.
func TestEachMachineHearsOfItself(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "ip")
	node := netnstest.New(t)
	manager, err := linux.New(linux.Config{NetNS: node.Path()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, manager.Close()) })
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	cloud, err := dewpoint.New(dewpoint.Config{
		Hypervisor: fakecompute.New(fakecompute.Config{Host: fakecompute.NewHost()}), NetworkManager: manager, Disks: fakecompute.NewDisks(),
		Dir: filepath.Join(t.TempDir(), "cloud"), Logger: logger,
		Metadata: func(s *dewpoint.Services) (network.Server, error) {
			known := metadata.Records{Store: s.Store}
			face, err := metadata.New(metadata.Config{Source: known, Resolve: known.Resolve, Logger: logger})
			if err != nil {
				return nil, err
			}
			return linklocal.New(linklocal.Config{Serve: face.Serve, NetNS: node.Path(), Logger: logger})
		},
	})
	require.NoError(t, err)
	life, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cloud.Run(life) }()
	t.Cleanup(func() { end(); require.NoError(t, <-ended) })
	s, err := cloud.Services(t.Context())
	require.NoError(t, err)
	ctx := auth.NewContext(t.Context(), auth.Admin("p"))
	lan, err := s.Networks.Create(ctx, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24")})
	require.NoError(t, err)
	disk, err := s.Images.Create(ctx, image.Spec{Name: "empty", Format: image.Raw}, bytes.NewReader(make([]byte, 1<<20)))
	require.NoError(t, err)
	_, _, err = s.Auth.CreateKeyPair(ctx, auth.KeyPairSpec{Name: "mine"})
	require.NoError(t, err)
	launch := func(name string) guest {
		made, err := s.Compute.Run(ctx, compute.RunRequest{Name: name, Image: disk.ID, Flavor: "m1.tiny", KeyName: "mine", UserData: []byte("of " + name)})
		require.NoError(t, err)
		i, err := s.Compute.WaitActive(ctx, made[0].ID)
		require.NoError(t, err)
		g := guest{NS: netnstest.New(t), t: t, instance: i}
		require.NoError(t, s.Store.View(func(v *state.View) error { g.port, err = network.Ports.Get(v, i.Ports[0]); return err }))
		netnstest.Cable(t, node, g.port.TapName(), g.NS, "eth0")
		g.be(g.port.MAC, g.port.Addrs[0])
		return g
	}
	a, b := launch("alpha"), launch("beta")
	for _, g := range []guest{a, b} {
		require.Equal(t, g.instance.Name+".novalocal", g.awaits("/latest/meta-data/hostname"))
		require.Equal(t, "of "+g.instance.Name, g.awaits("/2009-04-04/user-data"))
		require.Equal(t, g.port.Addrs[0].String(), g.awaits("/1.0/meta-data/local-ipv4"))
		require.Equal(t, strings.TrimSpace(g.instance.PublicKey), strings.TrimSpace(g.awaits("/latest/meta-data/public-keys/0/openssh-key")))
		require.Contains(t, g.awaits("/openstack/latest/meta_data.json"), g.instance.ID)
		require.Contains(t, g.awaits("/openstack/latest/network_data.json"), g.port.MAC)
		require.Equal(t, "default", g.awaits("/latest/meta-data/security-groups"))
		require.ElementsMatch(t, []string{a.port.Addrs[0].String() + " slots=1", b.port.Addrs[0].String() + " slots=1"},
			strings.Split(g.awaits("/latest/meta-data/mpi/mine"), "\n"))
	}
	status, token, err := a.ask(5*time.Second, http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	for g, want := range map[*guest]int{&a: http.StatusOK, &b: http.StatusUnauthorized} {
		status, _, err = g.ask(5*time.Second, http.MethodGet, "/latest/meta-data/", "X-aws-ec2-metadata-token: "+token)
		require.NoError(t, err)
		require.Equal(t, want, status)
	}
	status, body, err := b.ask(5*time.Second, http.MethodGet, "/latest/user-data", "X-Forwarded-For: "+a.port.Addrs[0].String())
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "of beta", body)

	// A thief, with the other's address, with its card's address too, and with one that is nobody's: the filter lets none of them
	// through, while the owner is still served.
	for _, as := range []struct {
		mac  string
		addr netip.Addr
	}{{b.port.MAC, a.port.Addrs[0]}, {a.port.MAC, a.port.Addrs[0]}, {b.port.MAC, netip.MustParseAddr("10.0.0.77")}} {
		b.be(as.mac, as.addr)
		_, body, err := b.ask(700*time.Millisecond, http.MethodGet, "/latest/user-data")
		require.Error(t, err, body)
		require.Equal(t, "of alpha", a.awaits("/latest/user-data"))
	}
	b.be(b.port.MAC, b.port.Addrs[0])
	require.Equal(t, "of beta", b.awaits("/latest/user-data"))

	// Who has no port, on the same bridge and with an address that no port has or one has, learns nothing.
	stranger := guest{NS: netnstest.New(t), t: t}
	require.NoError(t, node.Do(func() error {
		return exec.Command("ip", "link", "add", "stranger", "type", "veth", "peer", "name", "eth0", "netns", stranger.Path()).Run()
	}))
	require.NoError(t, node.Do(func() error { return exec.Command("ip", "link", "set", "stranger", "master", lan.Bridge, "up").Run() }))
	for _, addr := range []netip.Addr{netip.MustParseAddr("10.0.0.77"), b.port.Addrs[0]} {
		if addr == b.port.Addrs[0] {
			b.ip("link", "set", "eth0", "down")
		}
		stranger.be("52:54:00:99:99:99", addr)
		var status int
		require.Eventually(t, func() bool {
			status, body, err = stranger.ask(2*time.Second, http.MethodGet, "/latest/meta-data/")
			return err == nil
		}, time.Minute, 50*time.Millisecond)
		require.Equal(t, http.StatusNotFound, status)
		require.Equal(t, "Not Found\n", body)
	}
}
