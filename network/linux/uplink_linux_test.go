package linux

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// ip runs the program ip in a namespace and returns what it says.
func ipIn(t *testing.T, ns *netnstest.NS, args string) string {
	t.Helper()
	testneed.Tools(t, "ip")
	var said []byte
	require.NoError(t, ns.Do(func() (err error) {
		if said, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, said)
		}
		return nil
	}))
	return string(said)
}

// withCard is a namespace with a card that has addresses and the default route.
func withCard(t *testing.T) (*netnstest.NS, *Manager) {
	t.Helper()
	ns, m := live(t)
	for _, args := range []string{"link add card type veth peer name far", "link set far up", "link set card up",
		"addr add 192.0.2.2/24 dev card", "addr add 192.0.2.3/24 dev card", "addr add 2001:db8::2/64 dev card nodad",
		"route add default via 192.0.2.1 metric 7", "route add 198.51.100.0/24 via 192.0.2.9", "-6 route add default via 2001:db8::1"} {
		ipIn(t, ns, args)
	}
	return ns, m
}

// requireNetworkOn checks that everything of the card is on dev, and nothing on other.
func requireNetworkOn(t *testing.T, ns *netnstest.NS, dev, other string) {
	t.Helper()
	addresses := ipIn(t, ns, "-o addr show dev "+dev)
	for _, a := range []string{"192.0.2.2/24", "192.0.2.3/24", "2001:db8::2/64"} {
		require.Contains(t, addresses, a, "on "+dev)
	}
	routes := ipIn(t, ns, "route") + ipIn(t, ns, "-6 route")
	require.Regexp(t, `default via 192\.0\.2\.1 dev `+dev+` .*metric 7`, routes)
	require.Contains(t, routes, "198.51.100.0/24 via 192.0.2.9 dev "+dev)
	require.Contains(t, routes, "default via 2001:db8::1 dev "+dev)
	if other != "" {
		require.NotContains(t, ipIn(t, ns, "-o addr show dev "+other+" scope global"), "192.0.2.")
	}
}

func withUplink(taps ...int) network.Desired {
	d := desired(taps...)
	d.Bridges[0].Uplink = "card"
	return d
}

// The addresses and routes of an uplink, the default route included, live on its bridge while it is a port of it, and come back
// when the bridge goes.
func TestAnUplinksNetworkMovesAndComesBack(t *testing.T) {
	ns, m := withCard(t)
	requireNetworkOn(t, ns, "card", "")
	for range 2 {
		_, err := m.Apply(t.Context(), withUplink(1))
		require.NoError(t, err)
		requireNetworkOn(t, ns, "br100", "card")
		require.Contains(t, ipIn(t, ns, "link show dev card"), "master br100")
		report, err := m.Apply(t.Context(), withUplink(1))
		require.NoError(t, err)
		require.Empty(t, report.Changes)

		_, err = m.Apply(t.Context(), network.Desired{})
		require.NoError(t, err)
		requireNetworkOn(t, ns, "card", "")
		require.NotContains(t, ipIn(t, ns, "link show dev card"), "master")
		require.NotContains(t, ipIn(t, ns, "link"), "br100")
	}
}

// A link that is not ours is never touched: one with the name of a bridge or a tap makes an error that names it.
func TestAForeignLinkIsNotTouched(t *testing.T) {
	ns, m := live(t)
	ipIn(t, ns, "link add br100 type veth peer name "+tapName(1))
	before := ipIn(t, ns, "-d link show dev br100")
	_, err := m.Apply(t.Context(), desired(1))
	require.Error(t, err)
	require.ErrorContains(t, err, "br100")
	require.Equal(t, before, ipIn(t, ns, "-d link show dev br100"))
	_, err = m.Apply(t.Context(), network.Desired{})
	require.NoError(t, err)
	require.Equal(t, before, ipIn(t, ns, "-d link show dev br100"))
}

// What somebody else breaks is mended, and reported.
func TestDriftIsMended(t *testing.T) {
	ns, m := live(t)
	d := desired(1, 2)
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	for _, breakIt := range [][]string{
		{"nft", "delete", "table", "bridge", tableName},
		{"nft", "flush", "set", "bridge", tableName, macs},
		{"nft", "flush", "chain", "bridge", tableName, "from_guest"},
		{"ip", "link", "del", tapName(1)},
		{"ip", "link", "set", tapName(2), "nomaster"},
		{"ip", "link", "set", tapName(2), "down"},
		{"ip", "link", "set", tapName(2), "mtu", "1400"},
		{"ip", "addr", "flush", "dev", "br100"},
		{"ip", "link", "del", "br100"},
	} {
		require.NoError(t, ns.Do(func() error {
			out, err := exec.Command(breakIt[0], breakIt[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%v: %w: %s", breakIt, err, out)
			}
			return nil
		}))
		report, err := m.Apply(t.Context(), d)
		require.NoError(t, err, "%v", breakIt)
		require.NotEmpty(t, report.Changes, "%v", breakIt)
		got, err := m.Inspect(t.Context())
		require.NoError(t, err)
		require.Equal(t, d, got, "%v", breakIt)
		report, err = m.Apply(t.Context(), d)
		require.NoError(t, err)
		require.Empty(t, report.Changes, "%v", breakIt)
	}
}
