package network_test

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func rule(t testing.TB, text string) network.Rule {
	t.Helper()
	r, err := network.ParseRule(text)
	require.NoError(t, err)
	return r
}

func TestRulesAreText(t *testing.T) {
	for text, want := range map[string]network.Rule{
		"ingress tcp 22-22 any":          {Direction: network.Ingress, Protocol: network.TCP, From: 22, To: 22},
		"ingress udp any 10.0.0.0/8":     {Direction: network.Ingress, Protocol: network.UDP, From: network.Any, To: network.Any, Remote: netip.MustParsePrefix("10.0.0.0/8")},
		"egress icmp 8/any any":          {Direction: network.Egress, Protocol: network.ICMP, From: 8, To: network.Any},
		"egress icmp 0/0 any":            {Direction: network.Egress, Protocol: network.ICMP},
		"ingress icmpv6 any fd00::/64":   {Direction: network.Ingress, Protocol: network.ICMPv6, From: network.Any, To: network.Any, Remote: netip.MustParsePrefix("fd00::/64")},
		"ingress any any group:g-1":      {Direction: network.Ingress, Protocol: network.AnyProtocol, From: network.Any, To: network.Any, RemoteGroup: "g-1"},
		"ingress any any 0.0.0.0/0":      {Direction: network.Ingress, Protocol: network.AnyProtocol, From: network.Any, To: network.Any, Remote: netip.MustParsePrefix("0.0.0.0/0")},
		"ingress tcp 1-65535 1.2.3.4/32": {Direction: network.Ingress, Protocol: network.TCP, From: 1, To: 65535, Remote: netip.MustParsePrefix("1.2.3.4/32")},
	} {
		require.Equal(t, text, want.String())
		require.Equal(t, want, rule(t, text))
	}
	for _, text := range []string{"", "ingress tcp 22-22", "ingress tcp 22 any", "ingress tcp 22-22 any ", "ingress TCP 22-22 any", "ingress icmp 8-0 any",
		"ingress tcp 022-22 any", "ingress tcp 22-22 10.0.0.1/8", "ingress tcp 22-22 group:", "ingress icmp any 0.0.0.0/0"} {
		_, err := network.ParseRule(text)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, text)
	}
}

// FW-02, and what Neutron let in: a protocol in capitals (OSSA 2012-007), a subnet with bits behind its length (2014-014), ports of protocols that have
// none (2019-001).
func TestABadRuleIsNamed(t *testing.T) {
	good := network.Rule{Direction: network.Ingress, Protocol: network.TCP, From: 22, To: 22}
	require.NoError(t, good.Validate())
	for _, row := range []struct {
		says  string
		spoil func(r *network.Rule)
	}{
		{"Direction", func(r *network.Rule) { r.Direction = "" }},
		{"Direction", func(r *network.Rule) { r.Direction = "Ingress" }},
		{`Protocol "TCP" is not one of`, func(r *network.Rule) { r.Protocol = "TCP" }},
		{"Protocol", func(r *network.Rule) { r.Protocol = "" }},
		{"Protocol", func(r *network.Rule) { r.Protocol = "vrrp" }},
		{"From is 0", func(r *network.Rule) { r.From, r.To = 0, 0 }},
		{"From is 65536", func(r *network.Rule) { r.From = 65536 }},
		{"From is -1", func(r *network.Rule) { r.From = -1 }},
		{"To is 21", func(r *network.Rule) { r.To = 21 }},
		{"To is 65536", func(r *network.Rule) { r.To = 65536 }},
		{"From and To are 22 and 22", func(r *network.Rule) { r.Protocol = network.AnyProtocol }},
		{"From is 256", func(r *network.Rule) { r.Protocol, r.From = network.ICMP, 256 }},
		{"To is 256", func(r *network.Rule) { r.Protocol, r.To = network.ICMPv6, 256 }},
		{"To is code 0 of any type", func(r *network.Rule) { r.Protocol, r.From, r.To = network.ICMP, -1, 0 }},
		{"Remote 10.0.0.1/8 has bits behind its length, the subnet is 10.0.0.0/8", func(r *network.Rule) { r.Remote = netip.MustParsePrefix("10.0.0.1/8") }},
		{"Remote", func(r *network.Rule) { r.Remote = netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 33) }},
		{"Remote", func(r *network.Rule) { r.Remote = netip.MustParsePrefix("::ffff:10.0.0.0/104") }},
		{"Remote", func(r *network.Rule) {
			r.Protocol, r.From, r.To, r.Remote = network.ICMP, -1, -1, netip.MustParsePrefix("fd00::/64")
		}},
		{"Remote", func(r *network.Rule) {
			r.Protocol, r.From, r.To, r.Remote = network.ICMPv6, -1, -1, netip.MustParsePrefix("10.0.0.0/8")
		}},
		{"RemoteGroup", func(r *network.Rule) { r.RemoteGroup, r.Remote = "g", netip.MustParsePrefix("10.0.0.0/8") }},
		{"RemoteGroup", func(r *network.Rule) { r.RemoteGroup = "a group" }},
		{"RemoteGroup", func(r *network.Rule) { r.RemoteGroup = "-g" }},
	} {
		r := good
		row.spoil(&r)
		err := r.Validate()
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, row.says)
		require.ErrorContains(t, err, row.says)
	}
}

func FuzzRuleText(f *testing.F) {
	for _, text := range []string{"ingress tcp 22-80 10.0.0.0/8", "egress icmpv6 128/0 fd00::/64", "ingress any any group:g"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := network.ParseRule(text); err == nil && r.String() != text {
			t.Errorf("%q became %q", text, r)
		}
	})
}
