package compute_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// MD-03: what a machine hears of itself is what its records say, the lowest floating IP included.
func TestGuestData(t *testing.T) {
	c := newCloud(t, 1)
	defer func() { require.NoError(t, c.close()) }()
	c.enlist(t)
	req := one()
	req.UserData = []byte("hello")
	i := c.run(t, req)[0]
	var p network.Port
	require.NoError(t, c.store.View(func(v *state.View) (err error) { p, err = network.Ports.Get(v, i.Ports[0]); return err }))
	c.update(t, func(tx *state.Tx) error {
		put := func(addr, port string, fixed netip.Addr) error {
			return network.FloatingIPs.Put(tx, network.FloatingIP{Addr: netip.MustParseAddr(addr), Pool: "nova", ProjectID: project, PortID: port, Fixed: fixed})
		}
		return errors.Join(put("192.0.2.9", p.ID, p.Addrs[0]), put("192.0.2.7", p.ID, p.Addrs[0].Next()), put("192.0.2.3", "", netip.Addr{}))
	})
	var g guestdata.Guest
	require.NoError(t, c.store.View(func(v *state.View) (err error) { g, err = compute.GuestData(v, i.ID); return err }))
	require.Equal(t, i.ID, g.ID)
	require.Equal(t, i.Hostname, g.Hostname)
	require.Equal(t, "hello", string(g.UserData))
	require.Equal(t, "192.0.2.7", g.PublicIPv4.String())
	require.Equal(t, []string{"default"}, g.SecurityGroups)
	require.Len(t, g.Cards, 1)
	require.Equal(t, p.MAC, g.Cards[0].MAC)
	require.True(t, g.Cards[0].DHCP)
	require.Equal(t, []netip.Prefix{netip.PrefixFrom(p.Addrs[0], 8)}, g.Cards[0].Addrs)
	err := c.store.View(func(v *state.View) error { _, err := compute.GuestData(v, "none"); return err })
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}
