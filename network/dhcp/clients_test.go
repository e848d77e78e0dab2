//go:build linux

package dhcp

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// TestUdhcpcGetsItsAddress is DHCP-01 of Nova's behaviours: domain, router, name servers and a fixed lease by hardware address.
func TestUdhcpcGetsItsAddress(t *testing.T) {
	testneed.Tools(t, "udhcpc", "busybox")
	n := newNode(t)
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(3)))
	runIn(t, n.guest, "ip", "link", "set", "g0", "address", testMAC(1).String())
	for _, client := range [][]string{{"udhcpc"}, {"busybox", "udhcpc"}, {"udhcpc", "-B"}, {"udhcpc", "-x", "hostname:guest", "-O", "staticroutes"}} {
		script := filepath.Join(t.TempDir(), "script")
		require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\necho \"$1 ip=$ip mask=$subnet router=$router dns=$dns host=$hostname domain=$domain lease=$lease\"\n"), 0o700))
		args := append(client[1:], "-i", "g0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", script, "-O", "hostname")
		start := time.Now()
		out := runIn(t, n.guest, client[0], args...)
		require.Contains(t, out, "bound ip=10.0.0.17 mask=255.255.0.0 router=10.0.0.1 dns=10.0.0.2 8.8.8.8 host=vm-1 domain=novalocal lease=3600", out)
		t.Log(client, time.Since(start))
	}
	leases := s.Leases()
	require.Len(t, leases, 1)
	require.Equal(t, "10.0.0.17", leases[0].Addr.String())
}
