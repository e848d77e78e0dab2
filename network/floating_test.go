package network_test

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

func pool(t *testing.T, s *network.Service, cidr string) {
	t.Helper()
	require.NoError(t, s.CreateFloatingPool(as("p"), network.FloatingPool{Name: "outside", CIDR: netip.MustParsePrefix(cidr), Link: "eth1"}))
}

// FW-07.
func TestAFloatingIPsLife(t *testing.T) {
	s := newStage(t)
	pool(t, s.service, "203.0.113.0/30")
	p, q := s.port(), s.port()
	f, err := s.service.AllocateFloatingIP(as("p"), "outside")
	require.NoError(t, err)
	require.Equal(t, "203.0.113.0", f.Addr.String())
	got, err := s.service.AssociateFloatingIP(as("p"), f.Addr, p.ID, netip.Addr{})
	require.NoError(t, err)
	require.Equal(t, p.Addrs[0], got.Fixed)
	on := func() (all []network.Floating) {
		require.NoError(t, s.store.View(func(v *state.View) error { all = network.Plan(v, "h1").Floating; return nil }))
		return all
	}
	require.Equal(t, []network.Floating{{Addr: f.Addr, Fixed: p.Addrs[0], Link: "eth1"}}, on())
	_, err = s.service.AssociateFloatingIP(as("p"), f.Addr, q.ID, q.Addrs[0]) // moves
	require.NoError(t, err)
	require.Equal(t, []network.Floating{{Addr: f.Addr, Fixed: q.Addrs[0], Link: "eth1"}}, on())
	err = s.service.ReleaseFloatingIP(as("p"), f.Addr)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, q.ID)
	more, err := s.service.AllocateFloatingIP(as("p"), "")
	require.NoError(t, err)
	_, err = s.service.AssociateFloatingIP(as("p"), more.Addr, q.ID, netip.Addr{})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, f.Addr.String())
	_, err = s.service.AssociateFloatingIP(as("p"), more.Addr, q.ID, p.Addrs[0])
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.NoError(t, s.service.DisassociateFloatingIP(as("p"), f.Addr))
	require.NoError(t, s.service.DisassociateFloatingIP(as("p"), f.Addr))
	require.Empty(t, on())
	require.NoError(t, s.service.ReleaseFloatingIP(as("p"), f.Addr))
	require.ErrorIs(t, s.service.ReleaseFloatingIP(as("p"), f.Addr), errdefs.ErrNotFound)

	// With its port, an address leads nowhere, and stays the project's.
	_, err = s.service.AssociateFloatingIP(as("p"), more.Addr, q.ID, netip.Addr{})
	require.NoError(t, err)
	s.unplug(q)
	require.Empty(t, on())
	release(t, s.store, &s.service.Addresses, q.ID)
	all, err := s.service.FloatingIPs(as("p"))
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Empty(t, all[0].PortID)
}

func TestFloatingIPsOfOthers(t *testing.T) {
	s := newStage(t)
	pool(t, s.service, "203.0.113.0/24")
	f, err := s.service.AllocateFloatingIP(as("q"), "outside")
	require.NoError(t, err)
	mine, err := s.service.AllocateFloatingIP(as("p"), "outside")
	require.NoError(t, err)
	p := s.port()
	ctx := auth.NewContext(t.Context(), auth.Caller{UserID: "u", ProjectID: "p", Roles: []string{auth.NetAdmin}})
	_, err = s.service.AssociateFloatingIP(ctx, f.Addr, p.ID, netip.Addr{})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.ErrorIs(t, s.service.DisassociateFloatingIP(ctx, f.Addr), errdefs.ErrNotFound)
	require.ErrorIs(t, s.service.ReleaseFloatingIP(ctx, f.Addr), errdefs.ErrNotFound)
	_, err = s.service.AssociateFloatingIP(as("p"), f.Addr, p.ID, netip.Addr{})
	require.ErrorIs(t, err, errdefs.ErrNotFound, "an administrator can't lead one project's address to another's port either")
	var other network.Port
	require.NoError(t, s.store.Update(t.Context(), func(tx *state.Tx) (err error) {
		other, err = s.service.Addresses.Allocate(tx, network.PortRequest{NetworkID: s.lan.ID, ProjectID: "q", HostID: "h1"})
		return err
	}))
	_, err = s.service.AssociateFloatingIP(ctx, mine.Addr, other.ID, netip.Addr{})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = s.service.AssociateFloatingIP(ctx, mine.Addr, p.ID, netip.Addr{})
	require.NoError(t, err)
	plain := auth.NewContext(t.Context(), auth.Caller{UserID: "u", ProjectID: "p"})
	_, err = s.service.AllocateFloatingIP(plain, "outside")
	require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
	require.ErrorIs(t, s.service.ReleaseFloatingIP(plain, mine.Addr), errdefs.ErrPermissionDenied)
}

func TestFloatingPools(t *testing.T) {
	s := newStage(t)
	good := network.FloatingPool{Name: "outside", CIDR: netip.MustParsePrefix("203.0.113.0/31"), Link: "eth1"}
	for says, spoil := range map[string]func(p *network.FloatingPool){
		"Name":                    func(p *network.FloatingPool) { p.Name = "" },
		"CIDR fd00::/64":          func(p *network.FloatingPool) { p.CIDR = netip.MustParsePrefix("fd00::/64") },
		"CIDR 203.0.0.0/15":       func(p *network.FloatingPool) { p.CIDR = netip.MustParsePrefix("203.0.0.0/15") },
		"CIDR 203.0.113.1/24 has": func(p *network.FloatingPool) { p.CIDR = netip.MustParsePrefix("203.0.113.1/24") },
		"CIDR 127.0.0.0/24":       func(p *network.FloatingPool) { p.CIDR = netip.MustParsePrefix("127.0.0.0/24") },
		`of network "lan"`:        func(p *network.FloatingPool) { p.CIDR = netip.MustParsePrefix("10.0.0.128/25") },
		"Link":                    func(p *network.FloatingPool) { p.Link = "" },
	} {
		p := good
		spoil(&p)
		err := s.service.CreateFloatingPool(as("p"), p)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, says)
		require.ErrorContains(t, err, says)
	}
	require.NoError(t, s.service.CreateFloatingPool(as("p"), good))
	require.ErrorIs(t, s.service.CreateFloatingPool(as("p"), good), errdefs.ErrAlreadyExists)
	overlapping := good
	overlapping.Name = "another"
	require.ErrorContains(t, s.service.CreateFloatingPool(as("p"), overlapping), `of pool "outside"`)
	pools, err := s.service.FloatingPools(as("q"))
	require.NoError(t, err)
	require.Equal(t, []network.FloatingPool{good}, pools)

	// Many at once get each its own, and there are no more than there are.
	var wait sync.WaitGroup
	var mu sync.Mutex
	addrs, refused := map[netip.Addr]bool{}, 0
	for range 5 {
		wait.Go(func() {
			f, err := s.service.AllocateFloatingIP(as("p"), "outside")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
				refused++
				return
			}
			addrs[f.Addr] = true
		})
	}
	wait.Wait()
	require.Len(t, addrs, 2)
	require.Equal(t, 3, refused)
	err = s.service.DeleteFloatingPool(as("p"), "outside")
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	for a := range addrs {
		require.NoError(t, s.service.ReleaseFloatingIP(as("p"), a))
	}
	require.NoError(t, s.service.DeleteFloatingPool(as("p"), "outside"))
	require.ErrorIs(t, s.service.DeleteFloatingPool(as("p"), "outside"), errdefs.ErrNotFound)
	_, err = s.service.AllocateFloatingIP(as("p"), "outside")
	require.ErrorIs(t, err, errdefs.ErrNotFound)

	require.NoError(t, s.service.CreateFloatingPool(as("p"), network.FloatingPool{Name: "large", CIDR: netip.MustParsePrefix("198.51.100.0/24"), Link: "eth1"}))
	for range auth.DefaultLimits().FloatingIPs {
		_, err = s.service.AllocateFloatingIP(as("p"), "large")
		require.NoError(t, err)
	}
	_, err = s.service.AllocateFloatingIP(as("p"), "large")
	var over *auth.QuotaError
	require.ErrorAs(t, err, &over)
}

// An address is moved within a second, without anybody looking for drift.
func TestFloatingIPsMoveLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		defer func() { require.NoError(t, s.store.Close()) }()
		s.node.AddLink("eth1")
		defer s.running()()
		pool(t, s.service, "203.0.113.0/24")
		p, q := s.port(), s.port()
		f, err := s.service.AllocateFloatingIP(as("p"), "outside")
		require.NoError(t, err)
		for _, to := range []network.Port{p, q} {
			_, err = s.service.AssociateFloatingIP(as("p"), f.Addr, to.ID, netip.Addr{})
			require.NoError(t, err)
			time.Sleep(time.Second)
			synctest.Wait()
			require.Equal(t, []network.Floating{{Addr: f.Addr, Fixed: to.Addrs[0], Link: "eth1"}}, s.node.Desired().Floating)
		}
		s.unplug(q)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, s.node.Desired().Floating)
	})
}
