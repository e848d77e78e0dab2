package network_test

import (
	"context"
	"net/netip"
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
// other.
func TestAGuestMakesTheAddressOfItsRecord(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "ip")
	s := newStage(t)
	node, guest := netnstest.New(t), netnstest.New(t)
	m, err := linux.New(linux.Config{NetNS: node.Path()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	routers, err := ra.New(ra.Config{NetNS: node.Path()})
	require.NoError(t, err)
	n := lan()
	n.Name, n.Bridge, n.CIDR, n.CIDRv6 = "six", "br6", netip.MustParsePrefix("10.6.0.0/24"), netip.MustParsePrefix("fd00:6::/64")
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
	ip := func(args string) (out string) {
		require.NoError(t, guest.Do(func() error {
			b, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
			out = string(b)
			return err
		}))
		return out
	}
	ip("link set eth0 address " + p.MAC + " up")
	var have []string
	require.Eventually(t, func() bool {
		have = nil
		for line := range strings.Lines(ip("-6 -o addr show dev eth0 scope global -tentative")) {
			have = append(have, strings.Fields(line)[3])
		}
		return len(have) > 0
	}, 30*time.Second, 50*time.Millisecond)
	require.Len(t, p.Addrs, 2)
	require.Equal(t, []string{p.Addrs[1].String() + "/64"}, have)
}
