package network_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// three has room for three projects.
func three() network.Range {
	return network.Range{Name: "projects", First: 100, Last: 102, CIDR: netip.MustParsePrefix("10.16.0.0/20"), Bits: 26,
		CIDRv6: netip.MustParsePrefix("2001:db8:0:fffe::/56"), Route6: true, Uplink: "eth1", NodeID: "h1"}
}

// run allocates a port on the project's own network, as a launch does that names none.
func run(ctx context.Context, store *state.Store, a *network.Addresses, project string) (p network.Port, n network.Network, err error) {
	err = store.Update(ctx, func(tx *state.Tx) (err error) {
		var found bool
		if n, found, err = a.ProjectNetwork(tx, project); err != nil {
			return err
		}
		if !found {
			return errors.New("no ranges")
		}
		p, err = a.Allocate(tx, network.PortRequest{NetworkID: n.ID, ProjectID: project, InstanceID: uuid.NewString(), HostID: "h1"})
		return err
	})
	return p, n, err
}

// MOD-07: a project's first port on its own network allots VLAN and subnet, its last one gives them back.
func TestProjectsGetNetworksOnDemand(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	_, err := s.CreateRange(as("p"), three())
	require.NoError(t, err)
	var ports []network.Port
	for i, project := range []string{"a", "b", "c"} {
		first, n, err := run(t.Context(), store, &s.Addresses, project)
		require.NoError(t, err)
		require.Equal(t, network.VLAN, n.Mode)
		require.Equal(t, 100+i, n.VLAN)
		require.Equal(t, fmt.Sprintf("10.16.0.%d/26", 64*i), n.CIDR.String())
		require.Equal(t, fmt.Sprintf("2001:db8:0:ff0%d::/64", i), n.CIDRv6.String())
		require.True(t, n.Route6)
		require.Equal(t, project, n.ProjectID)
		again, same, err := run(t.Context(), store, &s.Addresses, project)
		require.NoError(t, err)
		require.Equal(t, n.ID, same.ID)
		ports = append(ports, first, again)
	}
	_, _, err = run(t.Context(), store, &s.Addresses, "d")
	require.ErrorIs(t, err, network.ErrNoMoreNetworks)
	require.True(t, errdefs.IsResourceExhausted(err))

	release(t, store, &s.Addresses, ports[2].ID)
	_, _, err = run(t.Context(), store, &s.Addresses, "d")
	require.ErrorIs(t, err, network.ErrNoMoreNetworks, "b has a port still")
	release(t, store, &s.Addresses, ports[3].ID)
	_, n, err := run(t.Context(), store, &s.Addresses, "d")
	require.NoError(t, err)
	require.Equal(t, 101, n.VLAN, "b's is free again")
}

// The last port that goes and the next one that comes don't pass each other: no port is on a network that is gone, no network is left
// without ports, and no two have one VLAN.
func TestTheLastPortAndTheNextOne(t *testing.T) {
	two := stores(t, 2)
	a, b := newService(t, two[0]), newService(t, two[1])
	r := three()
	r.NodeID, r.MultiHost = "", true
	_, err := a.CreateRange(as("p"), r)
	require.NoError(t, err)
	_, _, err = run(t.Context(), two[0], &a.Addresses, "warm-up")
	require.NoError(t, err)
	for range 50 {
		p, _, err := run(t.Context(), two[0], &a.Addresses, "a")
		require.NoError(t, err)
		var q network.Port
		var released, ran error
		var both sync.WaitGroup
		both.Go(func() {
			released = two[0].Update(t.Context(), func(tx *state.Tx) error { return a.Addresses.Release(tx, p.ID) })
		})
		both.Go(func() {
			for {
				if q, _, ran = run(t.Context(), two[1], &b.Addresses, "a"); ran == nil || ran.Error() != "no ranges" {
					return // it has seen the range now
				}
			}
		})
		both.Wait()
		require.NoError(t, released)
		require.NoError(t, ran)
		audit(t, two[0])
		require.NoError(t, two[1].Update(t.Context(), func(tx *state.Tx) error { return b.Addresses.Release(tx, q.ID) }))
		require.NoError(t, two[1].View(func(v *state.View) error {
			for n := range network.Networks.All(v) {
				if n.ProjectID == "a" {
					return fmt.Errorf("network %s is left without ports", n.Name)
				}
			}
			return nil
		}))
		await(t, two[0], q.NetworkID, false)
	}
}

// Many projects at once, in two processes: each gets a VLAN of its own.
func TestManyProjectsAtOnce(t *testing.T) {
	two := stores(t, 2)
	a, b := newService(t, two[0]), newService(t, two[1])
	r := three()
	r.Last = 130
	made, err := a.CreateRange(as("p"), r)
	require.NoError(t, err)
	require.NoError(t, network.Ranges.Await(t.Context(), two[1], made.ID, func(_ network.Range, found bool) (bool, error) { return found, nil }))
	var all sync.WaitGroup
	var mu sync.Mutex
	vlans := map[int]string{}
	for i := range 20 {
		all.Go(func() {
			project := fmt.Sprint("project ", i/2) // two runs of each
			_, n, err := run(t.Context(), two[i%2], &[]*network.Service{a, b}[i%2].Addresses, project)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || (vlans[n.VLAN] != "" && vlans[n.VLAN] != project) {
				t.Errorf("%s: VLAN %d is of %q, %v", project, n.VLAN, vlans[n.VLAN], err)
			}
			vlans[n.VLAN] = project
		})
	}
	all.Wait()
	require.Len(t, vlans, 10)
}

func TestAProjectsOwnNetworkComesFirst(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	_, err := s.CreateRange(as("p"), three())
	require.NoError(t, err)
	own := lan()
	own.ProjectID = "a"
	own = create(t, s, own)
	_, n, err := run(t.Context(), store, &s.Addresses, "a")
	require.NoError(t, err)
	require.Equal(t, own.ID, n.ID)
	second := lan()
	second.Name, second.ProjectID, second.Bridge, second.CIDR = "second", "a", "br101", netip.MustParsePrefix("10.1.0.0/24")
	create(t, s, second)
	_, _, err = run(t.Context(), store, &s.Addresses, "a")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "the project has 2 networks, and must name one")
}

func TestCreateRangeNamesTheFieldThatIsWrong(t *testing.T) {
	s := newService(t, stores(t, 1)[0])
	fixed := vlan(200)
	fixed.NodeID, fixed.Route6, fixed.CIDRv6 = "h1", true, netip.MustParsePrefix("2001:db8:9::/64")
	create(t, s, fixed)
	before := three()
	before.Name, before.First, before.Last, before.CIDR = "before", 300, 310, netip.MustParsePrefix("10.32.0.0/16")
	before.CIDRv6 = netip.MustParsePrefix("2001:db8:32::/48")
	_, err := s.CreateRange(as("p"), before)
	require.NoError(t, err)
	for _, row := range []struct {
		says  string
		spoil func(r *network.Range)
	}{
		{"Name", func(r *network.Range) { r.Name = "" }},
		{"First 0 must be between 1 and 4094", func(r *network.Range) { r.First = 0 }},
		{"First 4095", func(r *network.Range) { r.First, r.Last = 4095, 4095 }},
		{"Last 4095 must be between First, 100, and 4094", func(r *network.Range) { r.Last = 4095 }},
		{"Last 99", func(r *network.Range) { r.Last = 99 }},
		{"CIDR", func(r *network.Range) { r.CIDR = netip.Prefix{} }},
		{"CIDR", func(r *network.Range) { r.CIDR = netip.MustParsePrefix("2001:db8::/64") }},
		{"CIDR 10.16.0.0/25 has 2 subnets of /26, fewer than the 3 VLANs from 100 to 102", func(r *network.Range) { r.CIDR = netip.MustParsePrefix("10.16.0.0/25") }},
		{"Bits 30 must be between 20, of CIDR, and 29", func(r *network.Range) { r.Bits = 30 }},
		{"Bits 19", func(r *network.Range) { r.Bits = 19 }},
		{"CIDRv6 10.16.0.0/20 is not an IPv6 prefix of at most 64 bits", func(r *network.Range) { r.CIDRv6 = r.CIDR }},
		{"CIDRv6 2001:db8::/80 is not", func(r *network.Range) { r.CIDRv6 = netip.MustParsePrefix("2001:db8::/80") }},
		{"CIDRv6 2001:db8::/63 has 2 subnets of /64, fewer than the 3 VLANs from 100 to 102", func(r *network.Range) { r.CIDRv6 = netip.MustParsePrefix("2001:db8::/63") }},
		{"CIDRv6 ff05::/64 must be a unicast", func(r *network.Range) { r.CIDRv6 = netip.MustParsePrefix("ff05::/48") }},
		{"Route6 is set, and there is no CIDRv6", func(r *network.Range) { r.CIDRv6 = netip.Prefix{} }},
		{"Uplink", func(r *network.Range) { r.Uplink = "" }},
		{"NodeID must name the node that is gateway, or MultiHost be set", func(r *network.Range) { r.NodeID = "" }},
		{"NodeID", func(r *network.Range) { r.MultiHost = true }},
		{"MTU", func(r *network.Range) { r.MTU = 100 }},
		{`First and Last: VLANs 100 to 300 overlap 300 to 310 of range "before"`, func(r *network.Range) { r.Last, r.CIDR = 300, netip.MustParsePrefix("10.64.0.0/16") }},
		{`First and Last: VLAN 200 belongs to network "vlan 200"`, func(r *network.Range) { r.First, r.Last = 200, 202 }},
		{`CIDR 10.32.0.0/20 overlaps 10.32.0.0/16 of range "before"`, func(r *network.Range) { r.CIDR = netip.MustParsePrefix("10.32.0.0/20") }},
		{`CIDR 10.9.0.0/16 overlaps 10.9.0.0/24 of network "vlan 200"`, func(r *network.Range) { r.CIDR = netip.MustParsePrefix("10.9.0.0/16") }},
		{`CIDRv6 2001:db8:32:ff00::/56 overlaps 2001:db8:32::/48 of range "before"`, func(r *network.Range) { r.CIDRv6 = netip.MustParsePrefix("2001:db8:32:ff00::/56") }},
		{`CIDRv6 2001:db8:9::/56 overlaps 2001:db8:9::/64 of network "vlan 200"`, func(r *network.Range) { r.CIDRv6 = netip.MustParsePrefix("2001:db8:9::/56") }},
	} {
		r := three()
		row.spoil(&r)
		_, err := s.CreateRange(as("p"), r)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, row.says)
		require.ErrorContains(t, err, "network: "+row.says)
	}
	for _, c := range []struct {
		says  string
		spoil func(*network.Network)
	}{
		{`VLAN 305 belongs to range "before", 300 to 310`, func(n *network.Network) { n.VLAN = 305 }},
		{`CIDR 10.32.7.0/24 overlaps 10.32.0.0/16 of range "before"`, func(n *network.Network) { n.NodeID, n.CIDR = "h1", netip.MustParsePrefix("10.32.7.0/24") }},
		{`CIDRv6 2001:db8:32:5::/64 overlaps 2001:db8:32::/48 of range "before"`, func(n *network.Network) {
			n.NodeID, n.Route6, n.CIDRv6, n.CIDR = "h1", true, netip.MustParsePrefix("2001:db8:32:5::/64"), netip.MustParsePrefix("10.10.0.0/24")
		}},
	} {
		n := vlan(201)
		c.spoil(&n)
		_, err := s.Create(as("p"), n)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, c.says)
		require.ErrorContains(t, err, "network: "+c.says)
	}
	_, err = s.CreateRange(as("p"), before)
	require.Error(t, err)
	all, err := s.ListRanges(as("p"))
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.NoError(t, s.DeleteRange(as("p"), all[0].ID))
	require.True(t, errdefs.IsNotFound(s.DeleteRange(as("p"), all[0].ID)))
	member := auth.NewContext(t.Context(), auth.Caller{UserID: "u", ProjectID: "p"})
	_, err = s.CreateRange(member, three())
	require.True(t, errdefs.IsPermissionDenied(err), err)
	_, err = s.ListRanges(member)
	require.True(t, errdefs.IsPermissionDenied(err), err)
	require.True(t, errdefs.IsPermissionDenied(s.DeleteRange(member, "x")))
}
