package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/network"
)

func TestNewServiceNeedsAStore(t *testing.T) {
	_, err := network.NewService(network.ServiceConfig{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "ServiceConfig.Store")
}

func TestCreateFillsIn(t *testing.T) {
	s := newService(t, stores(t, 1)[0])
	n := lan()
	n.CIDR = netip.MustParsePrefix("10.0.0.77/24")
	n.Deleting = true
	n = create(t, s, n)
	require.NotEmpty(t, n.ID)
	require.WithinDuration(t, time.Now(), n.Created, time.Minute)
	n.ID, n.Created = "", time.Time{}
	gateway := netip.MustParseAddr("10.0.0.1")
	require.Equal(t, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24"), Gateway: gateway, Router: gateway,
		Domain: "novalocal", Lease: 24 * time.Hour, Bridge: "br100", MTU: 1500}, n)
}

func TestCreateNamesTheFieldThatIsWrong(t *testing.T) {
	s := newService(t, stores(t, 1)[0])
	six := netip.MustParseAddr("2001:db8::1")
	for _, row := range []struct {
		says  string
		spoil func(n *network.Network)
	}{
		{"Name", func(n *network.Network) { n.Name = "" }},
		{"Name", func(n *network.Network) { n.Name = "a\nb" }},
		{"Name", func(n *network.Network) { n.Name = strings.Repeat("n", 256) }},
		{"Mode", func(n *network.Network) { n.Mode = "" }},
		{"Mode", func(n *network.Network) { n.Mode = "token-ring" }},
		{"CIDR", func(n *network.Network) { n.CIDR = netip.Prefix{} }},
		{"CIDR", func(n *network.Network) { n.CIDR = netip.MustParsePrefix("2001:db8::/64") }},
		{"CIDR 10.0.0.0/30 must be between /8 and /29", func(n *network.Network) { n.CIDR = netip.MustParsePrefix("10.0.0.0/30") }},
		{"CIDR 8.0.0.0/7", func(n *network.Network) { n.CIDR = netip.MustParsePrefix("8.0.0.0/7") }},
		{"CIDR", func(n *network.Network) { n.CIDR = netip.MustParsePrefix("224.0.0.0/24") }},
		{"CIDR", func(n *network.Network) { n.CIDR = netip.MustParsePrefix("127.0.0.0/24") }},
		{"CIDR", func(n *network.Network) { n.CIDR = netip.MustParsePrefix("169.254.1.0/24") }},
		{"Gateway", func(n *network.Network) { n.Gateway = netip.MustParseAddr("10.0.1.1") }},
		{"Gateway", func(n *network.Network) { n.Gateway = netip.MustParseAddr("10.0.0.0") }},
		{"Gateway", func(n *network.Network) { n.Gateway = netip.MustParseAddr("10.0.0.255") }},
		{"Gateway", func(n *network.Network) { n.Gateway = six }},
		{"Router", func(n *network.Network) { n.Router = netip.MustParseAddr("10.0.1.1") }},
		{"CIDRv6", func(n *network.Network) { n.CIDRv6 = netip.MustParsePrefix("fd00::/48") }},
		{"CIDRv6", func(n *network.Network) { n.CIDRv6 = netip.MustParsePrefix("fe80::/64") }},
		{"CIDRv6", func(n *network.Network) { n.CIDRv6 = netip.MustParsePrefix("ff00::/64") }},
		{"DNS", func(n *network.Network) {
			n.CIDRv6, n.DNS = netip.MustParsePrefix("fd00::/64"), []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}
		}},
		{"NAT is set, and guests don't route through a node", func(n *network.Network) { n.NAT, n.Router = true, netip.MustParseAddr("10.0.0.9") }},
		{"Route6 is set, and there is no CIDRv6", func(n *network.Network) { n.Route6 = true }},
		{"Route6 is set, and there is no CIDRv6, or no node is the gateway", func(n *network.Network) {
			n.Mode, n.Bridge, n.CIDRv6, n.Route6 = network.Flat, "br-admin", netip.MustParsePrefix("fd00::/64"), true
		}},
		{"MTU 1279 must be at least 1280 with Route6", func(n *network.Network) { n.MTU, n.CIDRv6, n.Route6 = 1279, netip.MustParsePrefix("fd00::/64"), true }},
		{"DNS has 9", func(n *network.Network) { n.DNS = make([]netip.Addr, 9) }},
		{"DNS", func(n *network.Network) { n.DNS = []netip.Addr{six} }},
		{"DNS", func(n *network.Network) { n.DNS = []netip.Addr{{}} }},
		{"Routes has 17", func(n *network.Network) { n.Routes = make([]network.Route, 17) }},
		{"Routes", func(n *network.Network) { n.Routes = []network.Route{{}} }},
		{"Routes", func(n *network.Network) {
			n.Routes = []network.Route{{To: netip.MustParsePrefix("10.0.0.0/8"), Via: six}}
		}},
		{"Bridge", func(n *network.Network) { n.Bridge = "a/b" }},
		{"Bridge", func(n *network.Network) { n.Bridge = "sixteen-letters-" }},
		{"Uplink", func(n *network.Network) { n.Uplink = "eth 0" }},
		{"Uplink", func(n *network.Network) { n.Uplink = "br100" }},
		{"MTU 575 must be between 576 and 9216", func(n *network.Network) { n.MTU = 575 }},
		{"MTU", func(n *network.Network) { n.MTU = 9217 }},
		{"Lease", func(n *network.Network) { n.Lease = time.Second }},
		{"Lease", func(n *network.Network) { n.Lease = -1 }},
		{"Domain", func(n *network.Network) { n.Domain = "a;b" }},
		{"Domain", func(n *network.Network) { n.Domain = "-a" }},
		{"VLAN 7 must be 0", func(n *network.Network) { n.VLAN = 7 }},
		{"NodeID", func(n *network.Network) { n.NodeID, n.MultiHost = "h1", true }},
		{"Bridge must name the bridge", func(n *network.Network) { n.Mode = network.Flat }},
		{"Uplink", func(n *network.Network) { n.Mode, n.Bridge, n.Uplink = network.Flat, "br-admin", "eth1" }},
		{"NodeID", func(n *network.Network) { n.Mode, n.Bridge, n.NodeID = network.Flat, "br-admin", "h1" }},
		{"NodeID and MultiHost", func(n *network.Network) { n.Mode, n.Bridge, n.MultiHost = network.Flat, "br-admin", true }},
		{"VLAN 0 must be between 1 and 4094", func(n *network.Network) { n.Mode, n.Uplink = network.VLAN, "eth1" }},
		{"VLAN 4095 must be between 1 and 4094", func(n *network.Network) { n.Mode, n.Uplink, n.VLAN = network.VLAN, "eth1", 4095 }},
		{"Uplink must name", func(n *network.Network) { n.Mode, n.VLAN = network.VLAN, 100 }},
	} {
		n := lan()
		row.spoil(&n)
		_, err := s.Create(as("p"), n)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, row.says)
		require.ErrorContains(t, err, "network: "+row.says)
	}
	all, err := s.List(as("p"))
	require.NoError(t, err)
	require.Empty(t, all, "nothing was left behind")
}

func TestABridgeAnUplinkAndANameAreOfOneNetwork(t *testing.T) {
	two := stores(t, 2)
	a, b := newService(t, two[0]), newService(t, two[1])
	first := lan()
	first.Uplink = "eth1"
	create(t, a, first)
	other := lan()
	other.Name, other.CIDR = "other", netip.MustParsePrefix("10.1.0.0/24")
	_, err := a.Create(as("p"), other)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, `Bridge br100 belongs to network "lan"`)
	other.Bridge, other.Uplink = "br101", "eth1"
	_, err = a.Create(as("p"), other)
	require.ErrorContains(t, err, `Uplink eth1 belongs to network "lan"`)
	other.Uplink, other.Name = "", "lan"
	_, err = a.Create(as("p"), other)
	require.True(t, errdefs.IsAlreadyExists(err), err)

	// Two processes at once: one gets the bridge.
	var won, lost int
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			n := lan()
			n.Name, n.Bridge, n.CIDR = fmt.Sprint("race", i), "br200", netip.MustParsePrefix("10.2.0.0/24")
			_, err := []*network.Service{a, b}[i%2].Create(as("p"), n)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if errdefs.IsInvalidArgument(err) {
				lost++
			} else {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, won)
	require.Equal(t, 15, lost)
}

func TestCallersSeeWhatTheyMay(t *testing.T) {
	s := newService(t, stores(t, 1)[0])
	shared := create(t, s, lan())
	own := lan()
	own.Name, own.ProjectID, own.Bridge, own.CIDR = "own", "p", "br101", netip.MustParsePrefix("10.1.0.0/24")
	own = create(t, s, own)
	member := func(project string) context.Context {
		return auth.NewContext(context.Background(), auth.Caller{UserID: "u", ProjectID: project})
	}
	for _, project := range []string{"p", "q"} {
		all, err := s.List(member(project))
		require.NoError(t, err)
		require.Len(t, all, map[string]int{"p": 2, "q": 1}[project])
	}
	for _, key := range []string{own.ID, own.Name} {
		n, err := s.Get(member("p"), key)
		require.NoError(t, err)
		require.Equal(t, own, n)
		_, err = s.Get(member("q"), key)
		require.True(t, errdefs.IsNotFound(err))
		_, err = s.Get(member("q"), shared.Name)
		require.NoError(t, err)
	}
	_, err := s.Create(member("p"), lan())
	require.True(t, errdefs.IsPermissionDenied(err), err)
	require.True(t, errdefs.IsPermissionDenied(s.Delete(member("p"), own.ID)))
	require.True(t, errdefs.IsNotFound(s.Delete(member("q"), own.ID)))
	_, err = s.List(context.Background())
	require.True(t, errdefs.IsUnauthorized(err), err)
}

func TestDeleteRefusesANetworkInUse(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	n := create(t, s, lan())
	p := mustAllocate(t, store, &s.Addresses, n.ID)
	err := s.Delete(as("p"), n.ID)
	require.True(t, errdefs.IsFailedPrecondition(err), err)
	require.ErrorContains(t, err, p.InstanceID)
	mustAllocate(t, store, &s.Addresses, n.ID) // it stays as it was
	same, err := s.Get(as("p"), n.ID)
	require.NoError(t, err)
	require.False(t, same.Deleting)
	n2 := lan()
	n2.Name, n2.Bridge, n2.CIDR = "empty", "br101", netip.MustParsePrefix("10.1.0.0/24")
	n2 = create(t, s, n2)
	require.NoError(t, s.Delete(as("p"), n2.Name))
	require.True(t, errdefs.IsNotFound(s.Delete(as("p"), n2.ID)))
}

// TestDeleteAndAllocateDontPassEachOther: whoever is first, no port is left on a network that is gone.
func TestDeleteAndAllocateDontPassEachOther(t *testing.T) {
	two := stores(t, 2)
	a, b := newService(t, two[0]), newService(t, two[1])
	for range 100 {
		n := create(t, a, lan())
		await(t, two[1], n.ID, true)
		var port network.Port
		var allocated, deleted error
		var both sync.WaitGroup
		both.Go(func() { port, allocated = allocate(t, two[0], &a.Addresses, n.ID) })
		both.Go(func() { deleted = b.Delete(as("p"), n.ID) })
		both.Wait()
		audit(t, two[0])
		switch {
		case allocated == nil:
			require.True(t, errdefs.IsFailedPrecondition(deleted), deleted)
			release(t, two[0], &a.Addresses, port.ID)
			require.NoError(t, a.Delete(as("p"), n.ID))
		default:
			require.True(t, errdefs.IsNotFound(allocated), allocated)
			require.NoError(t, deleted)
		}
		await(t, two[0], n.ID, false)
	}
}
