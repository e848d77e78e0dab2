package network_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
)

func shown(t *testing.T) network.Desired {
	rule := func(text string) network.Rule {
		r, err := network.ParseRule(text)
		require.NoError(t, err)
		return r
	}
	ip := netip.MustParseAddr
	return network.Desired{
		Bridges: []network.Bridge{
			{Name: "vlan100br", Uplink: "eth1", VLAN: 100, MTU: 1450, Gateway: netip.MustParsePrefix("10.0.0.1/24"), NAT: true, Domain: "x"},
			{Name: "adminbr", External: true, NoServer: true}, {Name: "br7", Uplink: "eth2"}},
		Taps: []network.Tap{
			{Name: "dp2", Bridge: "vlan100br", Port: "p2", MAC: []byte{0x52, 0x54, 0, 0, 0, 2}, IPs: []netip.Addr{ip("fd00::2"), ip("10.0.0.2")}, Guarded: true,
				Groups: []string{"db", "web"}, Hostname: "h"},
			{Name: "dp1", Bridge: "br7", MAC: []byte{0x52, 0x54, 0, 0, 0, 1}, Limits: network.Limits{In: network.Rate{Bytes: 1000}, Out: network.Rate{Bytes: 2000, Burst: 9000}}}},
		Groups: []network.Group{
			{ID: "web", Rules: []network.Rule{rule("ingress tcp 80-80 any"), rule("egress any any any")}, Members: []netip.Addr{ip("10.0.0.2")}}, {ID: "db"}},
		Floating: []network.Floating{{Addr: ip("192.0.2.7"), Fixed: ip("10.0.0.2"), Link: "eth0"}},
	}
}

func TestDataPathIsText(t *testing.T) {
	p := network.DataPath{Desired: shown(t), Actual: shown(t)}
	require.Empty(t, p.Difference())
	p.Actual.Bridges[2].MTU = network.DefaultMTU // what is said and what is the default are the same
	p.Actual.Bridges[0].Domain = ""              // only DHCP says it
	require.Empty(t, p.Difference())
	// A difference of each kind: lost, strange, changed.
	p.Actual.Bridges[0].Gateway = netip.Prefix{}
	p.Actual.Taps = append(p.Actual.Taps[:1], network.Tap{Name: "dp9", Bridge: "br7", MAC: []byte{0x52, 0x54, 0, 0, 0, 9}})
	p.Actual.Groups[0].Members, p.Actual.Groups[0].Rules = nil, p.Actual.Groups[0].Rules[:1]
	p.Actual.Floating[0].Link = "eth5"
	want, err := os.ReadFile("testdata/datapath.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), p.String())
	routed := network.Desired{Bridges: []network.Bridge{{Name: "br6", Gateway6: netip.MustParsePrefix("fd00::1/64")}}}
	require.Equal(t, []string{"bridge br6 mtu 1500 gateway6 fd00::1/64"}, routed.Lines())
	require.Equal(t, "desired:\n  nothing\nactual:\n  nothing\ndifference:\n  none\n", network.DataPath{}.String())
}

func TestDataPathOfANode(t *testing.T) {
	s := newStage(t)
	p, q := s.port(), s.port()
	read := func() network.DataPath {
		t.Helper()
		d, err := s.agent.DataPath(t.Context())
		require.NoError(t, err)
		return d
	}
	require.NotEmpty(t, read().Difference(), "nothing is made yet")
	_, err := s.agent.Sync(t.Context())
	require.NoError(t, err)
	require.Empty(t, read().Difference())
	require.Len(t, read().Actual.Taps, 2)

	s.node.RemoveTap(p.TapName())
	s.unplug(q)
	found := read().Difference()
	text := read().String()
	require.Contains(t, text, "  - tap "+p.TapName()+" bridge br100 ")
	require.Contains(t, text, "  + tap "+q.TapName()+" bridge br100 ")
	require.Equal(t, found, read().Difference(), "looking changes nothing")
	_, err = s.agent.Sync(t.Context())
	require.NoError(t, err)
	require.Empty(t, read().Difference())

	boom := errors.New("boom")
	fault := s.node.Inject(fakenetwork.Fault{Method: fakenetwork.MethodInspect, Err: boom})
	_, err = s.agent.DataPath(t.Context())
	require.ErrorIs(t, err, boom)
	require.ErrorContains(t, err, "node h1")
	fault.Remove()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.agent.DataPath(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
