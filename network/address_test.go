package network_test

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

func release(t *testing.T, store *state.Store, a *network.Addresses, id string) {
	t.Helper()
	require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error { return a.Release(tx, id) }))
}

func TestAllocateGivesTheLowestFreeAddress(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	n := lan()
	n.Router = netip.MustParseAddr("10.0.0.2")
	n.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.4")}
	n.Routes = []network.Route{{To: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("10.0.0.6")}}
	n = create(t, s, n)
	var ports []network.Port
	for _, want := range []string{"10.0.0.3", "10.0.0.5", "10.0.0.7", "10.0.0.8"} {
		p := mustAllocate(t, store, &s.Addresses, n.ID)
		require.Equal(t, want, p.Addrs[0].String(), "addresses of others on the network are nobody's")
		require.True(t, p.Plugged)
		require.Equal(t, byte(0), p.HardwareAddr()[0]&1)
		require.Len(t, p.TapName(), 14)
		ports = append(ports, p)
	}
	release(t, store, &s.Addresses, ports[2].ID)
	release(t, store, &s.Addresses, ports[0].ID)
	release(t, store, &s.Addresses, ports[0].ID) // done already
	require.Equal(t, "10.0.0.3", mustAllocate(t, store, &s.Addresses, n.ID).Addrs[0].String())
	require.Equal(t, "10.0.0.7", mustAllocate(t, store, &s.Addresses, n.ID).Addrs[0].String())
	require.Equal(t, "10.0.0.9", mustAllocate(t, store, &s.Addresses, n.ID).Addrs[0].String())
	audit(t, store)
}

func TestAnAbortedAllocationTakesNothing(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	n := lan()
	n.CIDR = netip.MustParsePrefix("10.0.0.0/29")
	n = create(t, s, n)
	boom := errors.New("boom")
	for range 20 {
		require.ErrorIs(t, store.Update(t.Context(), func(tx *state.Tx) error {
			_, err := s.Addresses.Allocate(tx, network.PortRequest{NetworkID: n.ID, ProjectID: "p"})
			return errors.Join(err, boom)
		}), boom)
	}
	for range 5 {
		mustAllocate(t, store, &s.Addresses, n.ID)
	}
	ports, addresses := audit(t, store)
	require.Equal(t, 5, ports)
	require.Equal(t, 5, addresses)
	_, err := allocate(t, store, &s.Addresses, n.ID)
	require.ErrorIs(t, err, network.ErrNoMoreAddresses)
	require.True(t, errdefs.IsResourceExhausted(err))
	require.ErrorContains(t, err, `network "lan", 10.0.0.0/29`)
}

func TestANetworkOfAnotherProjectIsNotThere(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	n := lan()
	n.ProjectID = "q"
	n = create(t, s, n)
	for _, id := range []string{n.ID, "no-such-network"} {
		_, err := allocate(t, store, &s.Addresses, id)
		require.True(t, errdefs.IsNotFound(err), err)
	}
}

// TestEachAddressIsGivenOnce has two processes and many goroutines take and give back the addresses of one network, which has
// fewer than they want, with the hints of either process wrong most of the time.
func TestEachAddressIsGivenOnce(t *testing.T) {
	two := stores(t, 2)
	s := newService(t, two[0])
	n := lan()
	n.CIDR = netip.MustParsePrefix("10.0.0.0/27") // 29 for ports
	n = create(t, s, n)
	await(t, two[1], n.ID, true)
	hints := []*network.Addresses{{}, {}}
	var mu sync.Mutex
	held := map[netip.Addr]bool{}
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			store, a := two[g%2], hints[g%2]
			for range 30 {
				p, err := allocate(t, store, a, n.ID)
				if errdefs.IsResourceExhausted(err) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if held[p.Addrs[0]] {
					t.Errorf("%v was given twice", p.Addrs[0])
				}
				held[p.Addrs[0]] = true
				mu.Unlock()
				if p.ID[0] < 'c' {
					mu.Lock()
					delete(held, p.Addrs[0]) // before others can get it
					mu.Unlock()
					if err := store.Update(t.Context(), func(tx *state.Tx) error { return a.Release(tx, p.ID) }); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	later := lan()
	later.Name, later.Bridge, later.CIDR = "later", "br101", netip.MustParsePrefix("10.1.0.0/24")
	await(t, two[1], create(t, s, later).ID, true) // both stores have seen all that came before it
	ports, addresses := audit(t, two[0])
	require.Equal(t, len(held), ports)
	require.Equal(t, ports, addresses)
	for ports < 29 { // every one that is free can be had, whatever the hints say
		require.NoError(t, two[1].Update(t.Context(), func(tx *state.Tx) error {
			_, err := hints[1].Allocate(tx, network.PortRequest{NetworkID: n.ID, ProjectID: "p"})
			return err
		}))
		ports++
	}
	_, err := allocate(t, two[1], hints[0], n.ID)
	require.ErrorIs(t, err, network.ErrNoMoreAddresses)
}

func TestUnplugMarksThePortAlone(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	p := mustAllocate(t, store, &s.Addresses, create(t, s, lan()).ID)
	for range 2 {
		require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error {
			return errors.Join(s.Addresses.Unplug(tx, p.ID), s.Addresses.Unplug(tx, "unknown"))
		}))
		require.NoError(t, store.View(func(v *state.View) error {
			now, err := network.Ports.Get(v, p.ID)
			require.NoError(t, err)
			require.False(t, now.Plugged)
			require.Equal(t, p.Addrs, now.Addrs, "its address stays its own")
			require.Empty(t, network.Plan(v, "h1").Taps)
			return nil
		}))
	}
}

// A port of a network with IPv6 has the address that its guest makes of its hardware address: RFC 4291 appendix A has the example.
func TestIPv6IsMadeOfTheHardwareAddress(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	n := lan()
	n.CIDRv6, n.DNS = netip.MustParsePrefix("fd00:1::77/64"), []netip.Addr{netip.MustParseAddr("fd00:1::53")}
	n = create(t, s, n)
	require.Equal(t, "fd00:1::/64", n.CIDRv6.String())
	p := mustAllocate(t, store, &s.Addresses, n.ID)
	require.Len(t, p.Addrs, 2)
	require.True(t, p.Addrs[0].Is4())
	mac := p.HardwareAddr()
	want := netip.MustParseAddr(fmt.Sprintf("fd00:1::%02x%02x:%02xff:fe%02x:%02x%02x", mac[0]^2, mac[1], mac[2], mac[3], mac[4], mac[5]))
	require.Equal(t, want, p.Addrs[1])
	fixed := func() (all []netip.Addr) {
		_ = store.View(func(v *state.View) error {
			for f := range network.FixedIPs.By(v, "network", n.ID) {
				require.Equal(t, p.ID, f.PortID)
				all = append(all, f.Addr)
			}
			d := network.Plan(v, p.HostID)
			require.Equal(t, n.CIDRv6, d.Bridges[0].Prefix6)
			require.Equal(t, p.Addrs, d.Taps[0].IPs)
			require.NoError(t, d.Validate())
			return nil
		})
		return all
	}
	require.ElementsMatch(t, p.Addrs, fixed())
	require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error { return s.Addresses.Release(tx, p.ID) }))
	require.NoError(t, store.View(func(v *state.View) error {
		for f := range network.FixedIPs.By(v, "network", n.ID) {
			t.Errorf("%v is still taken", f.Addr)
		}
		return nil
	}))
	again := mustAllocate(t, store, &s.Addresses, n.ID)
	require.Equal(t, p.Addrs[0], again.Addrs[0])
}
