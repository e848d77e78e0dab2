package linux

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// many is a node with so many guarded ports, a hundred to a project: each project's ports are in its default group.
func many(b testing.TB, ports int) network.Desired {
	d := network.Desired{Bridges: []network.Bridge{bridge()}}
	for n := 1; n <= ports; n++ {
		id := fmt.Sprintf("default-%d", n/100)
		t := tap(n)
		t.Guarded, t.Groups = true, []string{id}
		d.Taps = append(d.Taps, t)
		if len(d.Groups) == 0 || d.Groups[len(d.Groups)-1].ID != id {
			d.Groups = append(d.Groups, network.Group{ID: id, Rules: rules(b, "egress any any any", "ingress any any group:"+id, "ingress tcp 22-22 any")})
		}
		g := &d.Groups[len(d.Groups)-1]
		g.Members = append(g.Members, t.IPs...)
	}
	return d
}

// BenchmarkPeerResync makes the whole packet filter of a node with 10,000 ports anew, in one transaction; the peer is nft, which is given the
// elements alone of the three sets that keep guests from forging.
func BenchmarkPeerResync(b *testing.B) {
	testneed.Tools(b, "nft")
	const rounds, ports = 5, 10000
	ns, m := live(b)
	d := many(b, ports)
	var script strings.Builder
	script.WriteString("flush ruleset\ntable bridge peer {\n")
	for _, s := range sets()[:3] {
		fmt.Fprintf(&script, "set %s { type %s ; elements = {\n", s.name, strings.Join(s.types, " . "))
		for _, t := range d.Taps {
			for _, e := range elements(t) {
				if e.set == s.name {
					fmt.Fprintf(&script, "%s,\n", e)
				}
			}
		}
		script.WriteString("} }\n")
	}
	script.WriteString("}\n")
	var ours, peer []float64
	cpu := time.Duration(0)
	for range rounds {
		begun, used := time.Now(), benchline.CPU()
		change, _ := planFilter(d, filter{problem: missing})
		require.NoError(b, m.wire.commit(change))
		cpu += benchline.CPU() - used
		ours = append(ours, time.Since(begun).Seconds()*1e3)
		begun = time.Now()
		require.NoError(b, ns.Do(func() error {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(script.String())
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}))
		peer = append(peer, time.Since(begun).Seconds()*1e3)
	}
	o, p := benchline.Median(ours), benchline.Median(peer)
	benchline.Report(b, benchline.Line{Name: "network/resync of 10,000 ports", Ours: o, Peer: p, PeerName: "nft -f, fewer elements", Ratio: p / o, Unit: "ms",
		Goal: "<= 100 ms", Met: o <= 100, CPU: float64(cpu.Microseconds()) / rounds, Runs: rounds, Setup: "one transaction, 100 groups"})
}

// BenchmarkPeerPacketRate sends packets from one guest to another through the filter of a node with 10,000 ports; the peer is the same node with
// 10.
func BenchmarkPeerPacketRate(b *testing.B) {
	const rounds, packets = 21, 20000
	type side struct {
		m    *Manager
		ns   *netnstest.NS
		a, b guest
		took []float64
	}
	var all []*side
	for _, ports := range []int{10000, 10} {
		s := &side{}
		s.ns, s.m = live(b)
		d := many(b, ports)
		for i := range d.Taps {
			d.Taps[i].Limits = network.Limits{In: network.Rate{Bytes: network.MaxRate}, Out: network.Rate{Bytes: network.MaxRate}}
		}
		change, _ := planFilter(d, filter{problem: missing})
		require.NoError(b, s.m.wire.commit(change))
		for _, t := range d.Taps[:2] {
			require.NoError(b, s.m.Plug(b.Context(), d.Bridges[0], t))
		}
		s.a, s.b = openGuest(b, s.ns, d.Taps[0]), openGuest(b, s.ns, d.Taps[1])
		ready(b, s.a, s.b)
		all = append(all, s)
	}
	for n := range rounds {
		for i := range all {
			s := all[(n+i)%2]
			frame := append(make([]byte, vnetHdr), packet(s.a, s.b, false, 17, udp(uint16(1024+n), 7, make([]byte, 64)))...)
			begun := time.Now()
			for range packets {
				_, err := s.a.file.Write(frame)
				require.NoError(b, err)
			}
			s.took = append(s.took, packets/time.Since(begun).Seconds())
		}
	}
	o, p := benchline.Median(all[0].took), benchline.Median(all[1].took)
	benchline.Report(b, benchline.Line{Name: "network/packet rate at 10,000 ports", Ours: o, Peer: p, PeerName: "10 ports", Ratio: o / p, Unit: "/s",
		Goal: ">= 0.95x", Met: o/p >= 0.95, Runs: rounds, Setup: "guest to guest, one UDP flow, stateful, each port with limits"})
}

// BenchmarkPeerPlugAmongMany plugs ports one by one on a node that has 10,000, and unplugs them.
func BenchmarkPeerPlugAmongMany(b *testing.B) {
	const ports, more = 10000, 100
	_, m := live(b)
	d := many(b, ports)
	change, _ := planFilter(d, filter{problem: missing})
	require.NoError(b, m.wire.commit(change))
	require.NoError(b, m.Plug(b.Context(), d.Bridges[0], d.Taps[0]))
	var took []float64
	for n := 1; n <= more; n++ {
		begun := time.Now()
		t := d.Taps[n]
		t.IPs = append([]netip.Addr{netip.AddrFrom4([4]byte{10, 0, 200, byte(n)})}, t.IPs...)
		require.NoError(b, m.Plug(b.Context(), d.Bridges[0], t))
		took = append(took, time.Since(begun).Seconds()*1e3)
	}
	report := func(name string) {
		o := benchline.Median(took)
		benchline.Report(b, benchline.Line{Name: "network/port " + name + " among 10,000", Ours: o, Peer: 1.2, PeerName: "the goal", Ratio: 1.2 / o, Unit: "ms",
			Goal: "<= 1.2 ms", Met: o <= 1.2, Runs: more, Setup: "tap, filter, groups, bridge port"})
	}
	report("set-up")
	took = nil
	for n := 1; n <= more; n++ {
		begun := time.Now()
		require.NoError(b, m.Unplug(b.Context(), d.Taps[n].Name))
		took = append(took, time.Since(begun).Seconds()*1e3)
	}
	report("removal")
}
