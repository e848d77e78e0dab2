package network_test

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// MD-02: bridge, address and hardware address together say whose a connection is; none of them alone does.
func TestFindPort(t *testing.T) {
	store := stores(t, 1)[0]
	s := newService(t, store)
	one := create(t, s, lan())
	other := lan()
	other.Name, other.Bridge, other.Mode, other.VLAN, other.Uplink = "other", "br200", network.VLAN, 200, "eth1"
	two := create(t, s, other)
	p, err := allocate(t, store, &s.Addresses, one.ID)
	require.NoError(t, err)
	q, err := allocate(t, store, &s.Addresses, two.ID)
	require.NoError(t, err)
	require.Equal(t, p.Addrs, q.Addrs, "two networks with one range")
	find := func(bridge string, addr netip.Addr, of network.Port) (found network.Port, err error) {
		err = store.View(func(v *state.View) error {
			found, err = network.FindPort(v, network.Peer{Bridge: bridge, Addr: addr, MAC: of.HardwareAddr()})
			return err
		})
		return found, err
	}
	found, err := find("br100", p.Addrs[0], p)
	require.NoError(t, err)
	require.Equal(t, p.ID, found.ID)
	found, err = find("br200", netip.AddrFrom16(q.Addrs[0].As16()), q)
	require.NoError(t, err)
	require.Equal(t, q.ID, found.ID)
	for _, bad := range []struct {
		bridge string
		addr   netip.Addr
		mac    network.Port
	}{{"br100", p.Addrs[0], q}, {"br200", p.Addrs[0], p}, {"br300", p.Addrs[0], p}, {"br100", p.Addrs[0].Next(), p}, {"br100", netip.Addr{}, p},
		{"br100", p.Addrs[0], network.Port{}}} {
		_, err := find(bad.bridge, bad.addr, bad.mac)
		require.ErrorIs(t, err, errdefs.ErrNotFound)
	}
	require.NoError(t, store.Update(t.Context(), func(tx *state.Tx) error { return s.Addresses.Unplug(tx, p.ID) }))
	_, err = find("br100", p.Addrs[0], p)
	require.ErrorIs(t, err, errdefs.ErrNotFound, "an address that is being given back")
}
