package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stores opens n stores over one log, as so many processes would.
func stores(t *testing.T, n int) []*state.Store {
	t.Helper()
	log := memstate.New(memstate.Config{})
	all := make([]*state.Store, n)
	for i := range all {
		s, err := state.Open(t.Context(), state.Config{Log: log, Schema: slices.Concat(auth.Schema(), network.Schema())})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		all[i] = s
	}
	return all
}

func newService(t *testing.T, store *state.Store) *network.Service {
	t.Helper()
	s, err := network.NewService(network.ServiceConfig{Store: store, Policy: auth.DefaultPolicy()})
	require.NoError(t, err)
	return s
}

func as(project string) context.Context {
	return auth.NewContext(context.Background(), auth.Admin(project))
}

// lan is a network that is right.
func lan() network.Network {
	return network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24")}
}

func create(t *testing.T, s *network.Service, n network.Network) network.Network {
	t.Helper()
	n, err := s.Create(as("p"), n)
	require.NoError(t, err)
	return n
}

func allocate(t *testing.T, store *state.Store, a *network.Addresses, networkID string) (network.Port, error) {
	t.Helper()
	var p network.Port
	err := store.Update(t.Context(), func(tx *state.Tx) (err error) {
		p, err = a.Allocate(tx, network.PortRequest{NetworkID: networkID, ProjectID: "p", InstanceID: uuid.NewString(), HostID: "h1", Hostname: "vm"})
		return err
	})
	return p, err
}

func mustAllocate(t *testing.T, store *state.Store, a *network.Addresses, networkID string) network.Port {
	t.Helper()
	p, err := allocate(t, store, a, networkID)
	require.NoError(t, err)
	return p
}

// await waits until a store has seen that a network is there, or gone.
func await(t *testing.T, store *state.Store, networkID string, there bool) {
	t.Helper()
	require.NoError(t, network.Networks.Await(t.Context(), store, networkID, func(_ network.Network, found bool) (bool, error) { return found == there, nil }))
}

// audit is what must be true of the records at any time: each port has its addresses, and nobody else's.
func audit(t *testing.T, store *state.Store) (ports, addresses int) {
	t.Helper()
	require.NoError(t, store.View(func(v *state.View) error {
		owner := map[string]string{}
		for f := range network.FixedIPs.All(v) {
			if f.HostID != "" {
				continue // a node's own
			}
			addresses++
			owner[f.NetworkID+"/"+f.Addr.String()] = f.PortID
			if !network.Ports.Has(v, f.PortID) {
				return fmt.Errorf("%v belongs to a port that is not there", f.Addr)
			}
		}
		macs := map[string]bool{}
		for p := range network.Ports.All(v) {
			ports++
			if !network.Networks.Has(v, p.NetworkID) {
				return fmt.Errorf("port %s is on a network that is not there", p.ID)
			}
			if macs[p.MAC] {
				return fmt.Errorf("two ports have %s", p.MAC)
			}
			macs[p.MAC] = true
			for _, a := range p.Addrs {
				if owner[p.NetworkID+"/"+a.String()] != p.ID {
					return fmt.Errorf("%v is port %s's and of %q", a, p.ID, owner[p.NetworkID+"/"+a.String()])
				}
			}
		}
		return nil
	}))
	return ports, addresses
}
