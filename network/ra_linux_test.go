package network_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
	"github.com/dewpoint-cloud/dewpoint/network/ra"
)

// MOD-09: behind a port that was allocated and plugged, Linux by itself makes of what a node advertises the IPv6 address that the record has, and no
// other; and of a network with Route6 it reaches the outside by it, through the node, which routes until the port goes.
func TestAGuestMakesTheAddressOfItsRecord(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "ip")
	s := newStage(t)
	node, guest, outside := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	m, err := linux.New(linux.Config{NetNS: node.Path()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	routers, err := ra.New(ra.Config{NetNS: node.Path()})
	require.NoError(t, err)
	n := lan()
	n.Name, n.Bridge, n.CIDR, n.CIDRv6 = "six", "br6", netip.MustParsePrefix("10.6.0.0/24"), netip.MustParsePrefix("fd00:6::/64")
	n.Route6 = true
	n = create(t, s.service, n)
	p := mustAllocate(t, s.store, &s.service.Addresses, n.ID)
	a, err := network.NewAgent(network.AgentConfig{Store: s.store, HostID: "h1", Manager: m, Servers: []network.Server{routers}})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() { stop(); require.NoError(t, <-ended) }()
	_, err = a.Plug(t.Context(), p.ID)
	require.NoError(t, err)

	netnstest.Cable(t, node, p.TapName(), guest, "eth0")
	in := func(ns *netnstest.NS, args string) (out string) {
		require.NoError(t, ns.Do(func() error {
			b, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
			out = string(b)
			return err
		}))
		return out
	}
	ip := func(args string) string { return in(guest, args) }
	ip("link set eth0 address " + p.MAC + " up")
	var have []string
	require.Eventually(t, func() bool {
		have = nil
		for line := range strings.Lines(ip("-6 -o addr show dev eth0 scope global -tentative")) {
			have = append(have, strings.Fields(line)[3])
		}
		return len(have) > 0
	}, time.Minute, 50*time.Millisecond)
	require.Len(t, p.Addrs, 2)
	require.Equal(t, []string{p.Addrs[1].String() + "/64"}, have)

	in(node, "link add card type veth peer name eth0 netns "+outside.Path())
	in(node, "link set card up")
	in(node, "addr add 2001:db8::1/64 dev card nodad")
	in(outside, "link set eth0 up")
	in(outside, "addr add 2001:db8::2/64 dev eth0 nodad")
	in(outside, "route add fd00:6::/64 via 2001:db8::1")
	var l net.Listener
	require.NoError(t, outside.Do(func() (err error) { l, err = net.Listen("tcp6", "[2001:db8::2]:7"); return err }))
	defer l.Close()
	require.Eventually(t, func() bool {
		return guest.Do(func() error {
			c, err := net.DialTimeout("tcp6", l.Addr().String(), 3*time.Second)
			if err == nil {
				err = c.Close()
			}
			return err
		}) == nil
	}, time.Minute, 50*time.Millisecond)
	c, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, p.Addrs[1].String(), c.RemoteAddr().(*net.TCPAddr).IP.String(), "with its own address")
	require.NoError(t, c.Close())

	s.unplug(p)
	require.NoError(t, a.Unplug(t.Context(), p.ID))
	require.NoError(t, node.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding")
		require.Equal(t, "0\n", string(text))
		return err
	}))
}
