package libvirt

import (
	"path/filepath"
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/computetest"
)

// fakeWirePair is two drivers over pretended libvirtds, between which machines can move.
func fakeWirePair(t *testing.T) (computetest.MigrateEnv, *fakeDaemon, *fakeDaemon) {
	from, first := fakeWireEnv(t)
	to, second := fakeWireEnv(t)
	peers := map[string]*fakeDaemon{"qemu+tls://192.0.2.1/system": first, "qemu+tls://192.0.2.2/system": second}
	first.peers, second.peers = peers, peers
	from.Driver.(*Hypervisor).cfg.Peer, to.Driver.(*Hypervisor).cfg.Peer = "qemu+tls://192.0.2.1/system", "qemu+tls://192.0.2.2/system"
	dir := func(dir string) func(compute.Machine) (compute.Machine, error) {
		return func(m compute.Machine) (compute.Machine, error) {
			m.ConsoleLog = filepath.Join(dir, m.ID)
			return m, nil
		}
	}
	return computetest.MigrateEnv{Env: from, To: to, There: dir(to.Dir), Back: dir(from.Dir), Nowhere: `{"Libvirtd":"qemu+tls://192.0.2.3/system"}`}, first, second
}

func TestMigratorOverFakeWire(t *testing.T) {
	computetest.TestMigrator(t, func(t *testing.T) computetest.MigrateEnv { env, _, _ := fakeWirePair(t); return env })
}

// Secrets of disks are in the destination's libvirtd from when it expects the machine until that goes on, or is not to come. The machine has there what the
// destination has: its paths, its initiator.
func TestSecretsOfAMachineThatMoves(t *testing.T) {
	for _, arrives := range []bool{true, false} {
		env, first, second := fakeWirePair(t)
		ctx := t.Context()
		from, to := env.Driver.(*Hypervisor), env.To.Driver.(*Hypervisor)
		m, err := env.Machine()
		require.NoError(t, err)
		disk := func(initiator string) compute.Disk {
			return compute.Disk{Format: "raw", Serial: "volume", ISCSI: &compute.ISCSI{Portal: "192.0.2.9:3260", IQN: "iqn.2026-01.example:v", Initiator: initiator,
				User: "u", Secret: "a secret"}}
		}
		m.Disks = []compute.Disk{disk("iqn.2026-01.example:first")}
		require.NoError(t, from.Create(ctx, m))
		there, err := env.There(m)
		require.NoError(t, err)
		there.Disks = []compute.Disk{disk("iqn.2026-01.example:second"), {Path: "/new", Format: "qcow2", Device: "vdb"}}
		address, err := to.Prepare(ctx, there)
		require.NoError(t, err)
		require.Len(t, second.secrets, 1)
		require.Empty(t, first.secrets)
		if !arrives {
			require.NoError(t, to.Destroy(ctx, m.ID, m.Epoch))
			require.Empty(t, second.secrets)
			continue
		}
		there.Disks[0].ISCSI.Secret = "" // the source need not know it
		require.NoError(t, from.Migrate(ctx, there, address))
		for _, d := range second.domains {
			require.Contains(t, d.xml, "iqn.2026-01.example:second")
			require.NotContains(t, d.xml, "iqn.2026-01.example:first")
			require.Contains(t, d.xml, there.ConsoleLog)
			require.NotContains(t, d.xml, "a secret")
		}
		require.Len(t, second.secrets, 1)
		there.Disks[0].ISCSI.Secret = "a secret"
		require.NoError(t, to.Create(ctx, there))
		require.Empty(t, second.secrets)
	}
}

// A libvirtd that ended in the last moment of a migration leaves the machine paused, and an earlier process may have left one that goes on.
func TestAbortSettlesWhatADeadLibvirtdLeft(t *testing.T) {
	env, f, _ := fakeWirePair(t)
	h := env.Driver.(*Hypervisor)
	m, err := env.Machine()
	require.NoError(t, err)
	require.NoError(t, h.Create(t.Context(), m))
	f.mu.Lock()
	for _, d := range f.domains {
		d.state, d.reason = int32(golibvirt.DomainPaused), int32(golibvirt.DomainPausedMigration)
	}
	f.job = int32(golibvirt.DomainJobUnbounded)
	f.mu.Unlock()
	left, err := h.Abort(t.Context(), m.ID)
	require.NoError(t, err)
	require.False(t, left)
	require.Equal(t, 1, f.calls["DomainAbortJob"])
	all, err := h.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, compute.PowerRunning, all[0].Power)
}

func TestPeersThatCanNotBe(t *testing.T) {
	for _, peer := range []string{"192.0.2.1", "qemu:///system", "qemu+tls:///system", "%"} {
		_, err := New(Config{Peer: peer})
		require.ErrorContains(t, err, "Config.Peer", peer)
	}
	for peer, want := range map[string]string{
		"qemu+tls://192.0.2.1/system":               `"Memory":"tcp://192.0.2.1","Disks":""`,
		"qemu+unix:///system?socket=/run/x/libvirt": `"Memory":"unix:///run/x/m-00000000-0000","Disks":"unix:///run/x/d-00000000-0000"`,
	} {
		env, _ := fakeWireEnv(t)
		h := env.Driver.(*Hypervisor)
		h.cfg.Peer, h.cfg.HostAddress, h.cfg.Socket = peer, "192.0.2.1", "/run/x/libvirt"
		m, err := env.Machine()
		require.NoError(t, err)
		m.ID = "00000000-0000-4000-8000-000000000001"
		address, err := h.Prepare(t.Context(), m)
		require.NoError(t, err)
		require.Contains(t, address, want)
	}
	require.Equal(t, "[2001:db8::1]", hostOf("2001:db8::1"))
}
