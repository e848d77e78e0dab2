//go:build linux

package ra

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/ndp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bridge() network.Bridge {
	return network.Bridge{Name: "br0", MTU: 1400, Prefix6: netip.MustParsePrefix("fd00:1::/64"), Domain: "novalocal",
		DNS: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00:1::53")}}
}

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// MOD-09: what radvd said, as bytes and back.
func TestAdvertisement(t *testing.T) {
	b, err := ndp.MarshalMessage(advertisement(bridge(), mac, true))
	require.NoError(t, err)
	m, err := ndp.ParseMessage(b)
	require.NoError(t, err)
	ra := m.(*ndp.RouterAdvertisement)
	require.Zero(t, ra.RouterLifetime, "the node is no router")
	require.False(t, ra.ManagedConfiguration)
	require.True(t, ra.OtherConfiguration)
	require.Equal(t, []ndp.Option{
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac},
		&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true, ValidLifetime: 720 * time.Hour,
			PreferredLifetime: 168 * time.Hour, Prefix: netip.MustParseAddr("fd00:1::")},
		ndp.NewMTU(1400),
		&ndp.RecursiveDNSServer{Lifetime: 30 * time.Minute, Servers: []netip.Addr{netip.MustParseAddr("fd00:1::53")}},
		&ndp.DNSSearchList{Lifetime: 30 * time.Minute, DomainNames: []string{"novalocal"}},
	}, ra.Options)
	require.Len(t, advertisement(network.Bridge{Prefix6: bridge().Prefix6, MTU: 576}, mac, false).Options, 2, "with nothing more to say")
	routed := bridge()
	routed.Gateway6 = netip.MustParsePrefix("fd00:1::1/64")
	require.Zero(t, advertisement(routed, mac, false).RouterLifetime, "it does not forward")
	require.Equal(t, 30*time.Minute, advertisement(routed, mac, true).RouterLifetime)
}

// request is an Information-request with options.
func request(t testing.TB, options ...dhcpv6.Option) []byte {
	t.Helper()
	m, err := dhcpv6.NewMessage()
	require.NoError(t, err)
	m.MessageType = dhcpv6.MessageTypeInformationRequest
	for _, o := range options {
		m.AddOption(o)
	}
	return m.ToBytes()
}

func TestReply(t *testing.T) {
	client := &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}
	asked := request(t, dhcpv6.OptClientID(client), dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer))
	m, err := dhcpv6.MessageFromBytes(reply(bridge(), mac, asked))
	require.NoError(t, err)
	require.Equal(t, dhcpv6.MessageTypeReply, m.MessageType)
	require.Equal(t, asked[1:4], m.TransactionID[:])
	require.True(t, m.Options.ClientID().Equal(client))
	own := &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: mac}
	require.True(t, m.Options.ServerID().Equal(own))
	require.Equal(t, "fd00:1::53", m.Options.DNS()[0].String())
	require.Len(t, m.Options.DNS(), 1)
	require.Equal(t, []string{"novalocal"}, m.Options.DomainSearchList().Labels)
	require.NotNil(t, reply(bridge(), mac, request(t)), "a client may be without an id (RFC 8415 §18.2.6)")
	require.NotNil(t, reply(bridge(), mac, request(t, dhcpv6.OptServerID(own))))

	for why, packet := range map[string][]byte{
		"for another server": request(t, dhcpv6.OptServerID(client)),
		"wants an address":   request(t, &dhcpv6.OptIANA{}),
		"a solicit":          append([]byte{1}, asked[1:]...),
		"a reply":            append([]byte{7}, asked[1:]...),
		"a relay":            append([]byte{12}, make([]byte, 60)...),
		"cut off":            asked[:len(asked)-1],
		"too short":          asked[:3],
		"nothing":            nil,
		"too long":           append(asked, make([]byte, 2000)...),
	} {
		require.Nil(t, reply(bridge(), mac, packet), why)
	}
}

// Whatever a guest sends, it is answered shortly or not at all.
func FuzzReply(f *testing.F) {
	f.Add(request(f))
	f.Add(request(f, &dhcpv6.OptIANA{}, dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: mac})))
	f.Fuzz(func(t *testing.T, packet []byte) {
		answer := reply(bridge(), mac, packet)
		require.LessOrEqual(t, len(answer), len(packet)+200)
		if answer != nil {
			require.Equal(t, packet[1:4], answer[1:4])
		}
	})
}

func TestBudget(t *testing.T) {
	var b budget
	now := time.Unix(1000, 0)
	for range perSecond {
		require.False(t, b.spent(now))
	}
	require.True(t, b.spent(now))
	require.False(t, b.spent(now.Add(time.Second)))
}

func TestBadInput(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, time.Hour, -1} {
		_, err := New(Config{Interval: interval})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, "Config.Interval")
	}
	s, err := New(Config{})
	require.NoError(t, err)
	wide := bridge()
	wide.Prefix6 = netip.MustParsePrefix("fd00::/48")
	for _, b := range []network.Bridge{{}, wide} {
		require.ErrorIs(t, s.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{bridge(), b}}), errdefs.ErrInvalidArgument)
		require.ErrorIs(t, s.Plug(t.Context(), b, network.Tap{Bridge: b.Name}), errdefs.ErrInvalidArgument)
	}
	require.ErrorIs(t, s.Plug(t.Context(), bridge(), network.Tap{Bridge: "other"}), errdefs.ErrInvalidArgument)
	require.Empty(t, s.bridges, "nothing was changed")
	require.NoError(t, s.Unplug(t.Context(), "unknown"))
}
