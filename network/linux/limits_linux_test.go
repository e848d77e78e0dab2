package linux

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// What gets through a limit is what the kernel's bucket holds, and what came into it meanwhile: both directions, each tap's own.
func TestLimitsCountBytes(t *testing.T) {
	ns, m := live(t)
	d := desired(1, 2, 3)
	rate := network.Rate{Bytes: 20_000, Burst: 10_000}
	d.Taps[0].Limits.Out = rate
	d.Taps[1].Limits.In = rate
	d.Taps[1].Limits.Out = network.Rate{Bytes: network.MaxRate}
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	sh(t, ns, "nft list chain bridge dewpoint lo-dp0.1 | grep 'limit rate over 20000 bytes/second burst 10000 bytes'")
	var g []guest
	for _, one := range d.Taps {
		g = append(g, openGuest(t, ns, one))
	}
	ready(t, g[1], g[2])
	ready(t, g[2], g[0])
	const packets, size = 150, 1000
	// sent sends packets and returns how many came, and how long it took.
	sent := func(a, b guest) (came int, took time.Duration) {
		body := make([]byte, size-20-8)
		frame := packet(a, b, false, 17, udp(1, 2, body))
		begun := time.Now()
		for range packets {
			a.send(t, frame)
		}
		buf := make([]byte, 4096)
		for {
			require.NoError(t, b.file.SetReadDeadline(time.Now().Add(300*time.Millisecond))) // for each: what waits is read, however slowly
			n, err := b.file.Read(buf)
			if err != nil {
				return came, time.Since(begun)
			}
			if n == vnetHdr+len(frame) {
				came++
			}
		}
	}
	limited := func(what string, a, b guest) {
		t.Helper()
		came, took := sent(a, b)
		bucket := float64(rate.Bytes) + float64(rate.Burst)
		most := (bucket + took.Seconds()*float64(rate.Bytes)) / size
		t.Logf("%s: %d of %d in %v, at most %.1f", what, came, packets, took, most)
		require.LessOrEqual(t, float64(came), most+1, what)
		require.GreaterOrEqual(t, came, int(0.9*bucket/(size+14)), what)
	}
	limited("out", g[0], g[2])
	limited("in", g[2], g[1])
	came, _ := sent(g[1], g[2])
	require.Equal(t, packets, came, "a large limit")
	came, _ = sent(g[2], g[0])
	require.Equal(t, packets, came, "the other direction has none")
	// It goes live.
	d.Taps[0].Limits = network.Limits{}
	require.NoError(t, m.Plug(t.Context(), bridge(), d.Taps[0]))
	came, _ = sent(g[0], g[2])
	require.Equal(t, packets, came, "taken away")
	d.Taps[0].Limits.Out = network.Rate{Bytes: network.MinRate, Burst: 5_000}
	require.NoError(t, m.Plug(t.Context(), bridge(), d.Taps[0]))
	came, took := sent(g[0], g[2])
	require.LessOrEqual(t, float64(came), (6_000+took.Seconds()*network.MinRate)/size+1, fmt.Sprint(took))
	// A hand that removes a limit is found out.
	sh(t, ns, "nft flush chain bridge dewpoint lo-dp0.1")
	report, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, []string{"filter of tap dp0.1 mended"}, report.Changes)
}
