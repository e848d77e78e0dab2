package network_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

func vlan(id int) network.Network {
	return network.Network{Name: fmt.Sprint("vlan ", id), Mode: network.VLAN, VLAN: id, Uplink: "eth1", CIDR: netip.MustParsePrefix("10.9.0.0/24")}
}

// allocateOn makes a port on a node.
func allocateOn(t *testing.T, store *state.Store, a *network.Addresses, networkID, hostID string) network.Port {
	t.Helper()
	var p network.Port
	require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) (err error) {
		p, err = a.Allocate(tx, network.PortRequest{NetworkID: networkID, ProjectID: "p", InstanceID: uuid.NewString(), HostID: hostID})
		return err
	}))
	return p
}

func plan(t *testing.T, store *state.Store, hostID string) (d network.Desired) {
	t.Helper()
	require.NoError(t, store.View(func(v *state.View) error { d = network.Plan(v, hostID); return nil }))
	require.NoError(t, d.Validate())
	return d
}

// MOD-01, MOD-03, MOD-06, MOD-10: networks of all modes live on one node, each with what its mode has there.
func TestModesSideBySide(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	flat := network.Network{Name: "flat", Mode: network.Flat, Bridge: "br-admin", CIDR: netip.MustParsePrefix("192.0.2.0/24"), MTU: 9000}
	central, every := vlan(100), vlan(101)
	central.NodeID = "h2"
	every.MultiHost, every.CIDR = true, netip.MustParsePrefix("10.8.0.0/24")
	for _, n := range []network.Network{lan(), flat, central, every} {
		n = create(t, s, n)
		p := allocateOn(t, store, &s.Addresses, n.ID, "h1")
		require.True(t, n.CIDR.Contains(p.Addrs[0]), "MOD-02: the fixed IP is of the subnet")
	}
	d := plan(t, store, "h1")
	require.Len(t, d.Taps, 4)
	require.Len(t, d.Bridges, 4)
	require.Equal(t, network.Bridge{Name: "br-admin", External: true, NoServer: true}, d.Bridges[0])
	here, there, dhcp := d.Bridges[2], d.Bridges[1], d.Bridges[3]
	require.Equal(t, "br-vlan100", there.Name)
	require.Equal(t, "eth1", there.Uplink)
	require.Equal(t, 100, there.VLAN)
	require.False(t, there.Gateway.IsValid(), "MOD-06: the network node alone has an address")
	require.True(t, there.NoServer)
	require.Equal(t, "br-vlan101", here.Name)
	require.Equal(t, netip.MustParsePrefix("10.8.0.2/24"), here.Gateway, "NET-07: an address of the node's own")
	require.Equal(t, netip.MustParseAddr("10.8.0.2"), here.Router)
	require.False(t, here.NoServer)
	require.Equal(t, "br100", dhcp.Name)
	require.Equal(t, netip.MustParsePrefix("10.0.0.1/24"), dhcp.Gateway)

	// MOD-03: the network node has the bridge and gateway of a network without a port of its own there, while there is a port anywhere.
	d = plan(t, store, "h2")
	require.Empty(t, d.Taps)
	require.Len(t, d.Bridges, 1)
	require.Equal(t, "br-vlan100", d.Bridges[0].Name)
	require.Equal(t, netip.MustParsePrefix("10.9.0.1/24"), d.Bridges[0].Gateway)
	require.Equal(t, netip.MustParseAddr("10.9.0.1"), d.Bridges[0].Router)
	require.False(t, d.Bridges[0].NoServer)
	require.Equal(t, network.Desired{}, plan(t, store, "h3"))
}

// MOD-09: the nodes that are gateways have an IPv6 address of their own too where the network has Route6, and no others.
func TestGatewaysRouteIPv6(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	central, every, plain := vlan(100), vlan(101), lan()
	central.NodeID = "h2"
	every.MultiHost, every.CIDR = true, netip.MustParsePrefix("10.8.0.0/24")
	six := map[string]string{}
	for i, n := range []network.Network{central, every, plain} {
		n.CIDRv6, n.Route6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 7: byte(i)}), 64), i < 2
		n = create(t, s, n)
		for _, host := range []string{"h1", "h3"} {
			p := allocateOn(t, store, &s.Addresses, n.ID, host)
			require.True(t, n.CIDRv6.Contains(p.Addrs[1]))
		}
		for _, host := range []string{"h1", "h2", "h3"} {
			for _, b := range plan(t, store, host).Bridges {
				if b.Name == n.Bridge && b.Gateway6.IsValid() {
					six[host+" "+b.Name] = b.Gateway6.String()
				}
			}
		}
	}
	require.Equal(t, map[string]string{"h2 br-vlan100": "fd00::a09:1/64", "h1 br-vlan101": "fd00::1:0:0:a08:2/64", "h3 br-vlan101": "fd00::1:0:0:a08:4/64"}, six)

	again := vlan(102)
	again.MultiHost, again.CIDR, again.CIDRv6, again.Route6 = true, netip.MustParsePrefix("10.7.0.0/24"), netip.MustParsePrefix("fd00::/64"), true
	_, err := s.Create(as("p"), again)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, `CIDRv6 fd00::/64 belongs to network "vlan 100" already`)
	again.Route6 = false
	create(t, s, again) // nobody routes it
}

// MOD-01: the network node's bridge goes when the last port of the network does, wherever that was.
func TestTheNetworkNodesBridgeGoesWithTheLastPort(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	n := vlan(100)
	n.NodeID = "h2"
	n = create(t, s, n)
	require.Equal(t, network.Desired{}, plan(t, store, "h2"))
	a, b := allocateOn(t, store, &s.Addresses, n.ID, "h1"), allocateOn(t, store, &s.Addresses, n.ID, "h3")
	release(t, store, &s.Addresses, a.ID)
	require.Len(t, plan(t, store, "h2").Bridges, 1)
	release(t, store, &s.Addresses, b.ID)
	require.Equal(t, network.Desired{}, plan(t, store, "h2"))
}

// MOD-02: the DHCP server of the network node answers the guests of all nodes.
func TestTheNetworkNodeAnswersForAllNodes(t *testing.T) {
	s := newStage(t)
	n := vlan(100)
	n.NodeID = "h1"
	s.node.AddLink("eth1")
	n = create(t, s.service, n)
	far := allocateOn(t, s.store, &s.service.Addresses, n.ID, "h2")
	_, err := s.agent.Sync(t.Context())
	require.NoError(t, err)
	require.Empty(t, s.node.Desired().Taps)
	require.Contains(t, s.dhcp.taps, far.TapName())
	release(t, s.store, &s.service.Addresses, far.ID)
	_, err = s.agent.Sync(t.Context())
	require.NoError(t, err)
	require.Empty(t, s.dhcp.taps)
	require.Empty(t, s.node.Desired().Bridges)
}

// NET-07: with multi-host each node has an address of its own on the network, which no port gets, from its first port to its last.
func TestMultiHostGivesEachNodeAnAddress(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	n := vlan(100)
	n.MultiHost = true
	n = create(t, s, n)
	seen := map[netip.Addr]string{}
	take := func(a netip.Addr, who string) {
		require.Empty(t, seen[a], "%v twice", a)
		seen[a] = who
	}
	var ports []network.Port
	for _, host := range []string{"h1", "h2", "h1"} {
		p := allocateOn(t, store, &s.Addresses, n.ID, host)
		take(p.Addrs[0], "port")
		ports = append(ports, p)
	}
	for _, host := range []string{"h1", "h2"} {
		b := plan(t, store, host).Bridges[0]
		take(b.Gateway.Addr(), host)
		require.Equal(t, b.Gateway.Addr(), b.Router)
	}
	gateway := plan(t, store, "h1").Bridges[0].Gateway
	release(t, store, &s.Addresses, ports[0].ID)
	require.Equal(t, gateway, plan(t, store, "h1").Bridges[0].Gateway, "it stays while the node has ports")
	release(t, store, &s.Addresses, ports[2].ID)
	release(t, store, &s.Addresses, ports[1].ID)
	require.NoError(t, store.View(func(v *state.View) error {
		for f := range network.FixedIPs.All(v) {
			return fmt.Errorf("%v is left", f.Addr)
		}
		return nil
	}))
	require.NoError(t, s.Delete(as("p"), n.ID))
}

// Subnets conflict where nodes route both; networks that no node routes may have the same (issue: bad input, a clear error at the call).
func TestSubnetsAndVLANsThatConflict(t *testing.T) {
	s := newService(t, stores(t, 1)[0])
	n := vlan(100)
	n.NodeID = "h1"
	create(t, s, n)
	for _, c := range []struct {
		says  string
		spoil func(*network.Network)
	}{
		{`VLAN 100 belongs to network "vlan 100" already`, func(n *network.Network) { n.VLAN, n.Bridge = 100, "other" }},
		{`CIDR 10.9.0.0/24 overlaps 10.9.0.0/24 of network "vlan 100", and nodes are gateways of both`, func(n *network.Network) { n.MultiHost = true }},
		{`CIDR 10.0.0.0/8 overlaps`, func(n *network.Network) { n.NodeID, n.CIDR = "h2", netip.MustParsePrefix("10.0.0.0/8") }},
		{`CIDR 10.9.0.128/25 overlaps`, func(n *network.Network) {
			n.Mode, n.VLAN, n.Uplink, n.Bridge, n.CIDR = network.FlatDHCP, 0, "", "br7", netip.MustParsePrefix("10.9.0.128/25")
		}},
	} {
		n := vlan(101)
		c.spoil(&n)
		_, err := s.Create(as("p"), n)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, c.says)
		require.ErrorContains(t, err, "network: "+c.says)
	}
	create(t, s, vlan(101)) // the same subnet and uplink, and nobody routes it
	create(t, s, vlan(102))
}
