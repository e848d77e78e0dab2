package linux

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// rivals returns two groups whose taps would be of the same class.
func rivals() (a, b string) {
	seen := map[uint32]string{}
	for n := 0; ; n++ {
		id := fmt.Sprint("g", n)
		class := firstClass(choose + combination([]string{id}))
		if other := seen[class]; other != "" {
			return other, id
		}
		seen[class] = id
	}
}

func TestClassesAreOneChainEach(t *testing.T) {
	a, b := rivals()
	chainA, chainB := choose+combination([]string{a}), choose+combination([]string{b})
	require.NotEqual(t, chainA, chainB)
	require.Equal(t, firstClass(chainA), firstClass(chainB))
	d := guarded(t, map[string][]string{a: nil, b: nil}, []string{a}, []string{b}, []string{a})
	change, _ := planFilter(d, filter{problem: missing})
	require.Len(t, change.classes, 2)
	require.NotEqual(t, change.classes[chainA], change.classes[chainB])
	have := filter{elements: map[element]bool{}, chains: map[string][]string{}, sets: map[string]bool{}}
	for _, e := range change.add {
		have.elements[e] = true
	}
	for _, c := range change.write {
		have.chains[c.name] = c.comments()
	}
	for _, s := range change.sets {
		have.sets[s.name] = true
	}
	again, _ := planFilter(d, have)
	require.True(t, again.empty(), "%+v", again)

	// One that a hand removed comes back, one that leads to nothing of ours goes.
	lost, stray := classElement(change.classes[chainB], chainB), classElement(7, "by-hand")
	delete(have.elements, lost)
	have.elements[stray] = true
	again, whom := planFilter(d, have)
	require.Equal(t, []element{lost}, again.add)
	require.Equal(t, []element{stray}, again.remove)
	require.Equal(t, []string{d.Taps[1].Name}, whom.taps)
}

// Two combinations of groups that would be of one class are of two, however they come and go, and a packet has no mark of ours behind the filter.
func TestTapsOfRivalClasses(t *testing.T) {
	a, b := rivals()
	d := guarded(t, map[string][]string{"out": {"egress any any any"}, a: {"ingress tcp 80-80 any", "egress any any any"}, b: {"ingress tcp 90-90 any"}},
		[]string{"out"}, []string{a}, []string{b})
	ns, m := live(t)
	first := d
	first.Taps = d.Taps[:2]
	_, err := m.Apply(t.Context(), first)
	require.NoError(t, err)
	require.NoError(t, m.Plug(t.Context(), bridge(), d.Taps[2]))
	sh(t, ns, `nft -f - <<-.
		table bridge probe {
			chain in { type filter hook prerouting priority 0; meta mark != 0 drop; }
			chain out { type filter hook postrouting priority 400; meta mark != 0 drop; }
		}
		.`)
	var g []guest
	for _, one := range d.Taps {
		g = append(g, openGuest(t, ns, one))
	}
	ready(t, g[0], g[1])
	ready(t, g[0], g[2])
	port := uint16(2000)
	passes := func(to int, dport uint16) bool {
		port++
		return reaches(t, g[0], g[to], packet(g[0], g[to], false, 6, tcp(port, dport, 2)))
	}
	each := func() {
		t.Helper()
		require.True(t, passes(1, 80))
		require.False(t, passes(1, 90))
		require.True(t, passes(2, 90))
		require.False(t, passes(2, 80))
	}
	each()
	report, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Empty(t, report.Changes)
	listed := sh(t, ns, "nft list ruleset")
	require.Contains(t, listed, "meta mark set iifname map @groups_of meta mark vmap @choosers")
	for range 2 {
		require.NoError(t, m.Plug(t.Context(), bridge(), d.Taps[2]))
		each()
	}

	// What has the class that is the other's first goes.
	last := d
	last.Taps = []network.Tap{d.Taps[0], d.Taps[2]}
	require.NoError(t, m.Unplug(t.Context(), d.Taps[1].Name))
	_, err = m.Apply(t.Context(), last)
	require.NoError(t, err)
	require.NotContains(t, sh(t, ns, "nft list ruleset"), choose+combination([]string{a}))
	require.NoError(t, m.Plug(t.Context(), bridge(), d.Taps[2]))
	require.True(t, passes(2, 90))
	require.False(t, passes(2, 80))
	got, err := m.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{b}, got.Taps[1].Groups)

	// A tap whose class leads nowhere is cut off until somebody looks.
	sh(t, ns, "nft flush map bridge dewpoint choosers")
	require.False(t, passes(2, 90))
	report, err = m.Apply(t.Context(), last)
	require.NoError(t, err)
	require.Contains(t, report.Changes, "filter of tap "+d.Taps[2].Name+" mended")
	require.True(t, passes(2, 90))
	report, err = m.Apply(t.Context(), last)
	require.NoError(t, err)
	require.Empty(t, report.Changes)
}
