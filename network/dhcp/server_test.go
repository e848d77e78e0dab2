package dhcp

import (
	"context"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

var _ network.DHCPServer = (*Server)(nil)

func TestNewNamesWhatIsWrong(t *testing.T) {
	_, err := New(Config{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "Config.Dir")
}

func TestApplyRefusesContradictions(t *testing.T) {
	for rule, spoil := range map[string]func(d *network.Desired){
		"Bridges has":    func(d *network.Desired) { d.Bridges = append(d.Bridges, d.Bridges[0]) },
		"Taps has":       func(d *network.Desired) { d.Taps[1].Name = d.Taps[0].Name },
		"is not there":   func(d *network.Desired) { d.Taps[1].Bridge = "br7" },
		"MAC 52:54":      func(d *network.Desired) { d.Taps[1].MAC = d.Taps[0].MAC },
		"address 10.0.0": func(d *network.Desired) { d.Taps[1].IPs = d.Taps[0].IPs },
		"has 3 bytes":    func(d *network.Desired) { d.Taps[1].MAC = d.Taps[1].MAC[:3] },
		"1 to 15 bytes":  func(d *network.Desired) { d.Taps[1].Name = "a-name-too-long-for-a-tap" },
		"Name is empty":  func(d *network.Desired) { d.Bridges[0].Name = "" },
		"Lease":          func(d *network.Desired) { d.Bridges[0].Lease = -1 },
	} {
		s := deskServer(t)
		d := deskDesired()
		spoil(&d)
		err := s.Apply(t.Context(), d)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, rule)
		require.ErrorContains(t, err, rule)
		_, reply := ask1(t, s, clientMessage{options: opts(opt(optKind, discover))})
		require.NotNil(t, reply, "what was there stays: %s", rule)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := deskServer(t)
	require.ErrorIs(t, s.Apply(ctx, deskDesired()), context.Canceled)
	require.ErrorIs(t, s.Plug(ctx, deskDesired().Bridges[0], deskDesired().Taps[0]), context.Canceled)
	require.ErrorIs(t, s.Unplug(ctx, "dpa"), context.Canceled)
}

func TestPlugAndUnplugChangeOneTap(t *testing.T) {
	s := deskServer(t)
	d := deskDesired()
	hears := func() string {
		_, reply := ask1(t, s, clientMessage{options: opts(opt(optKind, discover))})
		if reply == nil {
			return ""
		}
		return reply.YourIPAddr.String() + " " + reply.DomainName()
	}
	require.Equal(t, "10.0.0.17 novalocal", hears())
	require.NoError(t, s.Unplug(t.Context(), "dpb"))
	require.Empty(t, hears())
	require.NoError(t, s.Plug(t.Context(), d.Bridges[0], d.Taps[1]))
	require.Equal(t, "10.0.0.17 novalocal", hears())
	same := s.taps["dpb"]
	require.NoError(t, s.Plug(t.Context(), d.Bridges[0], d.Taps[1]))
	require.Same(t, same, s.taps["dpb"], "nothing to notice")
	require.NoError(t, s.Apply(t.Context(), d))
	require.Same(t, same, s.taps["dpb"])

	moved := d.Taps[1]
	moved.IPs = []netip.Addr{netip.MustParseAddr("10.0.9.9")}
	require.NoError(t, s.Plug(t.Context(), d.Bridges[0], moved))
	require.Equal(t, "10.0.9.9 novalocal", hears())
	b := d.Bridges[0]
	b.Domain = "other"
	require.NoError(t, s.Plug(t.Context(), b, d.Taps[3]))
	require.Equal(t, "10.0.9.9 other", hears(), "the bridge's other clients hear of its change too")
	taken := d.Taps[3]
	taken.IPs = moved.IPs
	require.ErrorIs(t, s.Plug(t.Context(), b, taken), errdefs.ErrInvalidArgument)
	require.ErrorIs(t, s.Plug(t.Context(), b, network.Tap{Name: "x", Bridge: "br1"}), errdefs.ErrInvalidArgument)

	second := network.Bridge{Name: "br1", Gateway: netip.MustParsePrefix("10.0.0.1/16")}
	away := d.Taps[1]
	away.Bridge = "br1"
	require.NoError(t, s.Plug(t.Context(), second, away))
	require.Empty(t, hears(), "it is on another bridge now")
	require.Len(t, s.bridges["br0"].clients, 3)
	require.Len(t, s.bridges["br0"].addrs, 3)
	require.Len(t, s.bridges["br1"].clients, 1)
}

func TestSilentBridges(t *testing.T) {
	for what, spoil := range map[string]func(d *network.Desired){
		"NoServer":                  func(d *network.Desired) { d.Bridges[0].NoServer = true },
		"no address of the node":    func(d *network.Desired) { d.Bridges[0].Gateway = netip.Prefix{} },
		"an address of IPv6 alone":  func(d *network.Desired) { d.Taps[1].IPs = []netip.Addr{netip.MustParseAddr("2001:db8::1")} },
		"an address of another net": func(d *network.Desired) { d.Taps[1].IPs = []netip.Addr{netip.MustParseAddr("192.168.0.1")} },
		"no address":                func(d *network.Desired) { d.Taps[1].IPs = nil },
	} {
		s := deskServer(t)
		d := deskDesired()
		spoil(&d)
		require.NoError(t, s.Apply(t.Context(), d), what)
		_, reply := ask1(t, s, clientMessage{options: opts(opt(optKind, discover))})
		require.Nil(t, reply, what)
	}
}
