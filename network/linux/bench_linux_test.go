package linux

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// BenchmarkPeerPlug sets ports up: ours by Plug, the peer by the programs ip and nft, which do the same in three calls.
func BenchmarkPeerPlug(b *testing.B) {
	testneed.Tools(b, "ip", "nft")
	ns, m := live(b)
	ctx := b.Context()
	_, err := m.Apply(ctx, desired(1))
	require.NoError(b, err)
	run := func(name string, args ...string) {
		require.NoError(b, ns.Do(func() error {
			out, err := exec.Command(name, args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
			}
			return nil
		}))
	}
	run("nft", "add table bridge peer")
	for _, set := range []string{"source { type ifname . ether_addr . ipv4_addr ; }", "sender { type ifname . ether_addr . ipv4_addr ; }", "to { type ifname . ipv4_addr ; }"} {
		run("nft", "add set bridge peer "+set)
	}
	const rounds, ports = 7, 30
	var ours, peer []float64
	next := 2
	cpu := time.Duration(0)
	for range rounds {
		begun, used := time.Now(), benchline.CPU()
		for range ports {
			require.NoError(b, m.Plug(ctx, bridge(), tap(next)))
			next++
		}
		cpu += benchline.CPU() - used
		ours = append(ours, time.Since(begun).Seconds()*1e3/ports)

		begun = time.Now()
		for range ports {
			t := tap(next)
			next++
			run("ip", "tuntap", "add", t.Name, "mode", "tap", "vnet_hdr")
			run("nft", fmt.Sprintf("add element bridge peer source { %[1]s . %[2]s . %[3]s }; add element bridge peer sender { %[1]s . %[2]s . %[3]s }; add element bridge peer to { %[1]s . %[3]s }",
				`"`+t.Name+`"`, t.MAC, t.IPs[0]))
			run("ip", "link", "set", t.Name, "mtu", "1500", "master", "br100", "up")
		}
		peer = append(peer, time.Since(begun).Seconds()*1e3/ports)
	}
	o, p := benchline.Median(ours), benchline.Median(peer)
	benchline.Report(b, benchline.Line{Name: "network/port set-up", Ours: o, Peer: p, PeerName: "ip+nft", Ratio: p / o, Unit: "ms",
		Goal: ">= 10x", Met: p/o >= 10, CPU: float64(cpu.Microseconds()) / (rounds * ports), Runs: rounds,
		Setup: "tap, filter, bridge port"})
}
