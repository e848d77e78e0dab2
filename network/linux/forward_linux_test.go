package linux

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// twoSegments are two bridges with a gateway and a tap each.
func twoSegments() network.Desired {
	d := desired(1, 2)
	other := bridge()
	other.Name, other.Gateway = "br101", netip.MustParsePrefix("10.1.0.1/16")
	d.Bridges = append(d.Bridges, other)
	d.Taps[1].Bridge, d.Taps[1].IPs = "br101", []netip.Addr{netip.MustParseAddr("10.1.0.2")}
	return d
}

// routing makes a node with these two route between them, and returns the MAC address of the first one's gateway.
func routing(t *testing.T, ns *netnstest.NS, d network.Desired) net.HardwareAddr {
	t.Helper()
	sh(t, ns, "echo 1 > /proc/sys/net/ipv4/ip_forward; ip neigh replace "+d.Taps[1].IPs[0].String()+" lladdr "+d.Taps[1].MAC.String()+" dev br101")
	var mac net.HardwareAddr
	require.NoError(t, ns.Do(func() error {
		br, err := net.InterfaceByName("br100")
		if err == nil {
			mac = br.HardwareAddr
		}
		return err
	}))
	return mac
}

// MOD-07: the node routes nothing from the bridge of one project to that of another.
func TestBridgesAreApart(t *testing.T) {
	ns, m := live(t)
	d := twoSegments()
	_, err := m.Apply(t.Context(), network.Desired{Bridges: d.Bridges[:1], Taps: d.Taps[:1]})
	require.NoError(t, err)
	require.NoError(t, m.Plug(t.Context(), d.Bridges[1], d.Taps[1]))
	report, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Empty(t, report.Changes)
	gateway := routing(t, ns, d)
	a, b := openGuest(t, ns, d.Taps[0]), openGuest(t, ns, d.Taps[1])
	send := func(mark string) {
		a.send(t, ethernet(gateway, a.MAC, 0x0800, ipv4(a.IPs[0], b.IPs[0], 17, udp(1, 2, []byte(mark)))))
	}
	came := func(mark string) bool {
		_, came := b.until(t, []byte(mark), nil, 5*time.Second)
		return came
	}
	out := sniff(t, ns, "br101")
	send("refused")
	// What is sent behind it on the same way is through, so it would be. The table is away for that.
	sh(t, ns, "nft delete table inet "+forwardTable)
	require.Eventually(t, func() bool { send("routed!"); return out("routed!") }, time.Minute, time.Millisecond)
	require.True(t, came("routed!"))
	require.False(t, out("refused"))

	report, err = m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, []string{"table of forwarded packets made"}, report.Changes)

	// Frames from a bridge to itself are shown to the table on nodes with br_netfilter: it lets them be.
	require.Contains(t, sh(t, ns, "nft list table inet "+forwardTable), `elements = { "br100" . "br100",`)
}
