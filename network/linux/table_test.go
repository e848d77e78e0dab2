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

// text is the whole table for what a node should have, as nft would list it.
func text(d network.Desired) string {
	change, _ := planFilter(d, filter{problem: missing})
	var b strings.Builder
	fmt.Fprintf(&b, "table bridge %s {\n", tableName)
	for _, s := range slices.Concat(sets(), learning(), change.sets) {
		kind := "set"
		types := strings.Join(s.types, " . ")
		if s.to != "" {
			kind, types = "map", types+" : "+s.to
		}
		fmt.Fprintf(&b, "\t%s %s {\n\t\ttype %s\n", kind, s.name, types)
		if s.size > 0 {
			fmt.Fprintf(&b, "\t\tsize %d\n", s.size)
		}
		if s.learns {
			b.WriteString("\t\tflags dynamic,timeout\n")
		}
		for _, e := range change.add {
			if e.set == s.name {
				fmt.Fprintf(&b, "\t\t%s\n", e)
			}
		}
		b.WriteString("\t}\n")
	}
	for _, c := range slices.Concat(chains(), change.write) {
		b.WriteString(c.String())
	}
	for _, name := range change.ensure {
		b.WriteString(chain{name: name}.String())
	}
	return b.String() + "}\n"
}

func TestTable(t *testing.T) {
	rules := func(texts ...string) (all []network.Rule) {
		for _, text := range texts {
			r, err := network.ParseRule(text)
			require.NoError(t, err)
			all = append(all, r)
		}
		return all
	}
	got := text(network.Desired{
		Taps: []network.Tap{
			{Name: "dp1", MAC: []byte{0x52, 0x54, 0, 0, 0, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
			{Name: "dp2", MAC: []byte{0x52, 0x54, 0, 0, 0, 2}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")}, Guarded: true,
				Groups: []string{"db", "web"}},
			{Name: "dp3", MAC: []byte{0x02, 0, 0, 0, 0, 3}, Guarded: true,
				Limits: network.Limits{In: network.Rate{Bytes: 1_000_000}, Out: network.Rate{Bytes: 500_000, Burst: 20_000}}},
		},
		Groups: []network.Group{
			{ID: "web", Members: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")}, Rules: rules("egress any any any",
				"ingress tcp 80-80 any", "ingress tcp 8000-8999 10.0.0.0/8", "ingress icmp 8/0 any", "ingress icmpv6 128/any fd00::/63", "ingress udp 53-53 192.0.2.1/32")},
			{ID: "db", Rules: rules("ingress tcp 5432-5432 group:web", "egress udp any ::/0", "ingress icmp any group:other")},
		},
	})
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
		if c.hook == "" && c.name != "to_guest" && !strings.HasPrefix(c.name, "quoted") && !strings.HasPrefix(c.name, "pass_") && !strings.HasPrefix(c.name, "answer_") {
			last := c.rules[len(c.rules)-1].verdict
			require.True(t, last == "drop" || strings.HasPrefix(last, "goto choose"), "%s does not end with a drop", c.name)
			require.Empty(t, c.rules[len(c.rules)-1].matches, c.name)
		}
		for _, r := range c.rules {
			if kind, target, jumps := strings.Cut(r.verdict, " "); jumps && (kind == "goto" || kind == "jump") {
				require.True(t, names[target], "%s goes to %s, which is no chain", c.name, target)
			}
			checkRule(t, c.name, r)
		}
	}
}

// checkRule checks that values and masks are as long as what they are compared with.
func checkRule(t *testing.T, chain string, r rule) {
	t.Helper()
	for _, m := range r.matches {
		length := uint32(0)
		for _, f := range m.fields {
			length += f.len
		}
		if m.set == "" {
			require.Len(t, m.value, int(length), "%s: %s", chain, r)
		}
		require.True(t, m.mask == nil || len(m.mask) == int(length), "%s: %s", chain, r)
	}
}

func TestElements(t *testing.T) {
	all := elements(network.Tap{Name: "dp1", MAC: []byte{0x52, 0x54, 0, 0, 0, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}})
	require.Equal(t, []element{
		{set: macs, key: "dp1" + strings.Repeat("\x00", 13) + "RT\x00\x00\x00\x01\x00\x00"},
		{set: ip6s, key: "dp1" + strings.Repeat("\x00", 13) + "RT\x00\x00\x00\x01\x00\x00" + "\xfe\x80\x00\x00\x00\x00\x00\x00\x50\x54\x00\xff\xfe\x00\x00\x01"},
		{set: ip4s, key: "dp1" + strings.Repeat("\x00", 13) + "RT\x00\x00\x00\x01\x00\x00" + "\x0a\x00\x00\x02"},
		{set: open, key: "dp1" + strings.Repeat("\x00", 13)},
	}, all)
	for _, e := range all {
		tap, mac, _, err := e.parse()
		require.NoError(t, err)
		require.Equal(t, "dp1", tap)
		if e.set != open {
			require.Equal(t, "52:54:00:00:00:01", mac.String())
		}
	}
	_, _, _, err := element{set: macs, key: "short"}.parse()
	require.Error(t, err)
}

func TestMarks(t *testing.T) {
	for _, m := range []bridgeMark{
		{gateway6: netip.MustParsePrefix("fd00::1/64"), shared6: true, opened: true},
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
		_ = element{set, key, ""}.String()
	})
}

func TestPlanFilter(t *testing.T) {
	one := network.Tap{Name: "dp1", MAC: []byte{2, 0, 0, 0, 0, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	two := network.Tap{Name: "dp2", MAC: []byte{2, 0, 0, 0, 0, 2}}
	d := network.Desired{Taps: []network.Tap{one, two}}
	change, whom := planFilter(d, filter{problem: missing})
	require.True(t, change.rebuild)
	require.Equal(t, slices.Concat(elements(one), elements(two)), change.add)
	require.Empty(t, whom.taps, "all")

	have := filter{elements: map[element]bool{}}
	for _, e := range change.add {
		have.elements[e] = true
	}
	change, whom = planFilter(d, have)
	require.True(t, change.empty())
	require.Empty(t, whom)

	delete(have.elements, elements(one)[2])
	stray := element{set: macs, key: string(padded([]byte("dp9"), 24))}
	have.elements[stray] = true
	change, whom = planFilter(d, have)
	require.Equal(t, filterChange{add: elements(one)[2:3], remove: []element{stray}}, change)
	require.Equal(t, []string{"dp1", "dp9"}, whom.taps)
}
