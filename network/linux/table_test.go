package linux

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// text is the whole table for some taps, as nft would list it.
func text(taps ...network.Tap) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table bridge %s {\n", tableName)
	for _, s := range sets() {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n", s.name, strings.Join(s.types, " . "))
		for _, t := range taps {
			for _, e := range elements(t) {
				if e.set == s.name {
					fmt.Fprintf(&b, "\t\t%s\n", e)
				}
			}
		}
		b.WriteString("\t}\n")
	}
	for _, c := range chains() {
		b.WriteString(c.String())
	}
	return b.String() + "}\n"
}

func TestTable(t *testing.T) {
	got := text(
		network.Tap{Name: "dp1", MAC: []byte{0x52, 0x54, 0, 0, 0, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
		network.Tap{Name: "dp2", MAC: []byte{0x52, 0x54, 0, 0, 0, 2}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")}},
		network.Tap{Name: "dp3", MAC: []byte{0x02, 0, 0, 0, 0, 3}},
	)
	want, err := os.ReadFile("testdata/table.nft")
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// TestRulesAreTold checks that a rule's comment, by which a changed rule is found, tells it from the others of its chain, and fits
// into what the kernel keeps.
func TestRulesAreTold(t *testing.T) {
	names := map[string]bool{}
	for _, c := range chains() {
		names[c.name] = true
		comments := map[string]bool{}
		for _, r := range c.rules {
			require.False(t, comments[r.comment()], "%s: two rules are %s", c.name, r.comment())
			comments[r.comment()] = true
			require.LessOrEqual(t, len(r.comment()), 127, r.comment())
		}
	}
	for _, c := range chains() {
		if c.hook == "" && c.name != "to_guest" {
			require.Equal(t, "drop", c.rules[len(c.rules)-1].verdict, "%s does not end with a drop", c.name)
			require.Empty(t, c.rules[len(c.rules)-1].matches, c.name)
		}
		for _, r := range c.rules {
			if target, jumps := strings.CutPrefix(r.verdict, "goto "); jumps {
				require.True(t, names[target], "%s goes to %s, which is no chain", c.name, target)
			}
			for _, m := range r.matches {
				length := uint32(0)
				for _, f := range m.fields {
					length += f.len
				}
				if m.set == "" {
					require.Len(t, m.value, int(length), "%s: %s", c.name, r)
				}
				require.True(t, m.mask == nil || len(m.mask) == int(length), "%s: %s", c.name, r)
			}
		}
	}
}

func TestElements(t *testing.T) {
	all := elements(network.Tap{Name: "dp1", MAC: []byte{0x52, 0x54, 0, 0, 0, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}})
	require.Equal(t, []element{
		{macs, "dp1" + strings.Repeat("\x00", 13) + "RT\x00\x00\x00\x01\x00\x00"},
		{ip6s, "dp1" + strings.Repeat("\x00", 13) + "RT\x00\x00\x00\x01\x00\x00" + "\xfe\x80\x00\x00\x00\x00\x00\x00\x50\x54\x00\xff\xfe\x00\x00\x01"},
		{ip4s, "dp1" + strings.Repeat("\x00", 13) + "RT\x00\x00\x00\x01\x00\x00" + "\x0a\x00\x00\x02"},
	}, all)
	for _, e := range all {
		tap, mac, _, err := e.parse()
		require.NoError(t, err)
		require.Equal(t, "dp1", tap)
		require.Equal(t, "52:54:00:00:00:01", mac.String())
	}
	_, _, _, err := element{macs, "short"}.parse()
	require.Error(t, err)
}

func TestMarks(t *testing.T) {
	for _, m := range []bridgeMark{
		{}, {gateway: netip.MustParsePrefix("10.0.0.1/24")}, {uplink: "eth1"}, {vlan: 4094},
		{gateway: netip.MustParsePrefix("fd00::1/64"), uplink: "eth0.7", shared: true},
	} {
		require.Equal(t, m, parseBridgeMark(m.String()))
		require.True(t, isMarked(m.String()))
	}
	tap := tapMark{port: strings.Repeat("p", 64), mac: []byte{0x52, 0x54, 0, 0, 0, 1}}
	for n := range 100 {
		got := parseTapMark(tap.String())
		require.LessOrEqual(t, len(tap.String()), maxAlias)
		require.Equal(t, tap.port, got.port)
		require.Equal(t, tap.mac, got.mac)
		require.Equal(t, len(got.ips) < len(tap.ips), got.cut)
		require.Equal(t, tap.ips[:len(got.ips)], got.ips)
		tap.ips = append(tap.ips, netip.AddrFrom4([4]byte{10, 200, 100, byte(n)}))
	}
	require.Equal(t, tapMark{}, parseTapMark("somebody's alias port=1 mac=02:00:00:00:00:01"))
}

func FuzzMarks(f *testing.F) {
	f.Add(bridgeMark{gateway: netip.MustParsePrefix("10.0.0.1/24"), uplink: "eth1", shared: true}.String())
	f.Add(tapMark{port: "p", mac: []byte{2, 0, 0, 0, 0, 1}, ips: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fe80::1")}}.String())
	f.Add("dewpoint tap mac=1 ips=,, cut=true")
	f.Fuzz(func(t *testing.T, alias string) {
		b := parseBridgeMark(alias)
		if again := parseBridgeMark(b.String()); again != b {
			t.Errorf("%q: %+v became %+v", alias, b, again)
		}
		tap := parseTapMark(alias)
		if m := tap.String(); len(m) > maxAlias && len(tap.port) <= 64 {
			t.Errorf("%q: a mark of %d bytes", alias, len(m))
		}
		if len(tap.mac) == 6 {
			elements(network.Tap{Name: "dp1", MAC: tap.mac, IPs: tap.ips})
		}
	})
}

func FuzzElement(f *testing.F) {
	for _, e := range elements(network.Tap{Name: "dp1", MAC: []byte{2, 0, 0, 0, 0, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}) {
		f.Add(e.set, e.key)
	}
	f.Fuzz(func(t *testing.T, set, key string) {
		_ = element{set, key}.String()
	})
}

func TestPlanFilter(t *testing.T) {
	one := network.Tap{Name: "dp1", MAC: []byte{2, 0, 0, 0, 0, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	two := network.Tap{Name: "dp2", MAC: []byte{2, 0, 0, 0, 0, 2}}
	d := network.Desired{Taps: []network.Tap{one, two}}
	change, taps := planFilter(d, filter{problem: missing})
	require.True(t, change.rebuild)
	require.Equal(t, slices.Concat(elements(one), elements(two)), change.add)
	require.Equal(t, []string{"dp1", "dp2"}, taps)

	have := filter{elements: map[element]bool{}}
	for _, e := range change.add {
		have.elements[e] = true
	}
	change, taps = planFilter(d, have)
	require.True(t, change.empty())
	require.Empty(t, taps)

	delete(have.elements, elements(one)[2])
	stray := element{macs, string(padded([]byte("dp9"), 24))}
	have.elements[stray] = true
	change, taps = planFilter(d, have)
	require.Equal(t, filterChange{add: elements(one)[2:], remove: []element{stray}}, change)
	require.Equal(t, []string{"dp1", "dp9"}, taps)
}
