package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// TestAVolumeOfAnotherHost attaches a volume of one node to a machine on another one, which finds it at the address that the first was given. The
// machine is pretended; what its QEMU would read and write is done by qemu-io, with what the machine was told.
func TestAVolumeOfAnotherHost(t *testing.T) {
	testneed.Tools(t, "qemu-io")
	ctx := auth.NewContext(t.Context(), auth.Admin("project"))
	records, bus := memstate.New(memstate.Config{}), memqueue.New(memqueue.Config{})
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	cfg := func() dewpoint.Config {
		return dewpoint.Config{Log: records, MessageBus: bus, Dir: filepath.Join(t.TempDir(), "cloud")}
	}

	// Node a has volumes, at an address that is not the one of everybody's own loopback.
	a := cfg()
	disks, err := openStorage(ctx, options{dir: t.TempDir(), volumes: "127.0.0.2:0"}, &host{}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, disks.close()) })
	a.VolumeDriver, a.VolumeExporter, a.Host.Name = disks.driver, disks.exporter, "a"
	b := cfg()
	machines := fakecompute.NewHost()
	b.Hypervisor, b.NetworkManager = fakecompute.New(fakecompute.Config{Host: machines}), fakenetwork.New(fakenetwork.Config{})
	b.Disks, b.Host.Name = fakecompute.NewDisks(), "b"
	var s *dewpoint.Services
	for _, c := range []dewpoint.Config{a, b} {
		cloud, err := dewpoint.New(c)
		require.NoError(t, err)
		life, end := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- cloud.Run(life) }()
		t.Cleanup(func() { end(); require.NoError(t, <-ended) })
		s, err = cloud.Services(ctx)
		require.NoError(t, err)
	}

	_, err = s.Networks.Create(ctx, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24")})
	require.NoError(t, err)
	img, err := s.Images.Create(ctx, image.Spec{Name: "empty", Format: image.Raw}, bytes.NewReader(make([]byte, 1<<20)))
	require.NoError(t, err)
	made, err := s.Compute.Run(ctx, compute.RunRequest{Name: "web", Image: img.ID, Flavor: "m1.tiny"})
	require.NoError(t, err)
	i, err := s.Compute.WaitActive(ctx, made[0].ID)
	require.NoError(t, err)
	v, err := s.Volumes.Create(ctx, volume.CreateRequest{SizeGiB: 1})
	require.NoError(t, err)
	v, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	require.NotEqual(t, v.HostID, i.HostID)
	_, err = s.Compute.AttachVolume(ctx, compute.AttachRequest{Instance: i.ID, Volume: v.ID})
	require.NoError(t, err)
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateInUse)
	require.NoError(t, err)

	m, found := machines.Machine(i.ID)
	require.True(t, found)
	disk := m.Disks[len(m.Disks)-1].ISCSI
	require.NotNil(t, disk)
	at, err := net.ResolveTCPAddr("tcp", disk.Portal)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.2", at.IP.String())
	inQEMU := fmt.Sprintf(`json:{"driver":"raw","file":{"driver":"iscsi","transport":"tcp","portal":%q,"target":%q,"lun":"0",
		"initiator-name":%q,"user":%q,"password-secret":"secret"}}`, disk.Portal, disk.IQN, disk.Initiator, disk.User)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := exec.CommandContext(limited, "qemu-io", "--object", "secret,id=secret,data="+disk.Secret, "-c", "write -P 0x5a 4k 4k",
		"-c", "flush", "-c", "read -P 0x5a 4k 4k", inQEMU).CombinedOutput()
	if strings.Contains(string(out), "Unknown driver") {
		testneed.Missing(t, "needs QEMU's iSCSI (qemu-block-extra)")
	}
	require.NoError(t, err, string(out))
	require.NotContains(t, string(out), "failed")
	require.NoError(t, s.Compute.Terminate(ctx, i.ID))
	require.NoError(t, s.Compute.WaitGone(ctx, i.ID))
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
}

func TestWhereANodesVolumesAre(t *testing.T) {
	for _, c := range []struct{ volumes, netns, want string }{
		{"192.0.2.7:3261", "host", "192.0.2.7:3261"},
		{"", "host", "127.0.0.1:3260"}, // it reaches a controller on this machine from there
		{"", "mini", "127.0.0.1:3260"},
	} {
		got, err := volumesAddress(t.Context(), options{volumes: c.volumes, netns: c.netns}, "127.0.0.1:7443")
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
	for _, wrong := range []string{"0.0.0.0:3260", "[::]:3260", "node-1:3260", "192.0.2.7"} {
		_, _, err := parseWords([]string{"node", "-volumes", wrong}, &bytes.Buffer{})
		require.ErrorContains(t, err, "-volumes is", wrong)
	}
}
