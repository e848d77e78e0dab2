package linux

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func rules(t testing.TB, texts ...string) (all []network.Rule) {
	t.Helper()
	for _, text := range texts {
		r, err := network.ParseRule(text)
		require.NoError(t, err)
		all = append(all, r)
	}
	return all
}

// guarded is desired with taps that are in groups, of which each is a list of rules.
func guarded(t testing.TB, groups map[string][]string, taps ...[]string) network.Desired {
	d := network.Desired{Bridges: []network.Bridge{bridge()}}
	for n, in := range taps {
		one := tap(n + 1)
		one.IPs = append(one.IPs, netip.AddrFrom16([16]byte{0xfd, 15: byte(n + 1)}))
		one.Guarded, one.Groups = true, in
		d.Taps = append(d.Taps, one)
	}
	for id, texts := range groups {
		g := network.Group{ID: id, Rules: rules(t, texts...)}
		for _, one := range d.Taps {
			if slices.Contains(one.Groups, id) {
				g.Members = append(g.Members, one.IPs...)
			}
		}
		d.Groups = append(d.Groups, g)
	}
	return d
}

// stamp returns a frame that always passes, and what it ends in.
func stamp(a, b guest) (frame, end []byte) {
	end = fmt.Appendf(nil, "mark %x.", rand.Uint64())
	return ethernet(b.MAC, a.MAC, 0x0806, arp(1, a.MAC, a.IPs[0], b.IPs[0], end)), end
}

// ready waits until a bridge carries frames from a to b: that a machine opened a tap takes the kernel some time to see.
func ready(t testing.TB, a, b guest) {
	t.Helper()
	require.Eventually(t, func() bool {
		frame, end := stamp(a, b)
		a.send(t, frame)
		_, came := b.until(t, end, nil, 20*time.Millisecond)
		return came
	}, time.Minute, time.Millisecond)
}

// reaches tells whether a frame that a sends comes to b, by what comes behind it: ARP always passes.
func reaches(t *testing.T, a, b guest, frame []byte) bool {
	t.Helper()
	a.send(t, frame)
	behind, end := stamp(a, b)
	a.send(t, behind)
	seen, came := b.until(t, end, a.MAC, time.Minute)
	require.True(t, came)
	return len(seen) > 0
}

func tcp(sport, dport uint16, flags byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, sport), dport)
	return append(append(b, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0), "data"...)
}

// packet is a frame from a to b, of IPv4 or IPv6.
func packet(a, b guest, six bool, proto byte, body []byte) []byte {
	if six {
		return ethernet(b.MAC, a.MAC, 0x86dd, ipv6(a.IPs[1], b.IPs[1], proto, body))
	}
	return ethernet(b.MAC, a.MAC, 0x0800, ipv4(a.IPs[0], b.IPs[0], proto, body))
}

func echo(kind byte, id uint16) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{kind, 0, 0, 0}, id), 0, 1, 'p', 'i', 'n', 'g')
}

func openGuests(t *testing.T, d network.Desired) (m *Manager, all []guest) {
	ns, m := live(t)
	_, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	for _, one := range d.Taps {
		all = append(all, openGuest(t, ns, one))
	}
	for _, a := range all {
		for _, b := range all {
			if a.Name != b.Name {
				ready(t, a, b)
			}
		}
	}
	return m, all
}

// FW-02 FW-04: what a rule lets through passes and its answers pass, in both families; nothing else does.
func TestGroupsAreStateful(t *testing.T) {
	d := guarded(t, map[string][]string{"client": {"egress any any any"}, "web": {"ingress tcp 80-80 any", "ingress udp 53-53 any", "ingress icmp 8/any any", "ingress icmpv6 128/any any",
		"ingress any any 192.0.2.0/24"}}, []string{"client"}, []string{"web"})
	m, g := openGuests(t, d)
	a, b := g[0], g[1]
	echoTypes := map[bool][3]byte{false: {1, 8, 0}, true: {58, 128, 129}}
	for _, six := range []bool{false, true} {
		to := func(proto byte, body []byte) bool { return reaches(t, a, b, packet(a, b, six, proto, body)) }
		from := func(proto byte, body []byte) bool { return reaches(t, b, a, packet(b, a, six, proto, body)) }
		require.False(t, from(6, tcp(80, 1025, 0x12)), "an answer to nothing")
		require.True(t, to(6, tcp(1025, 80, 2)))
		require.True(t, from(6, tcp(80, 1025, 0x12)))
		require.True(t, to(6, tcp(1025, 80, 0x10)))
		require.False(t, from(6, tcp(80, 1026, 0x12)), "to another port")
		require.False(t, from(6, tcp(81, 1025, 0x12)), "from another port")
		require.False(t, from(17, udp(80, 1025, []byte("udp"))), "of another protocol")
		require.False(t, to(6, tcp(1025, 81, 2)))
		require.True(t, to(17, udp(1027, 53, []byte("query"))))
		require.True(t, from(17, udp(53, 1027, []byte("reply"))))
		require.False(t, from(17, udp(53, 1028, []byte("reply"))))
		kind := echoTypes[six]
		require.False(t, from(kind[0], echo(kind[2], 7)))
		require.True(t, to(kind[0], echo(kind[1], 7)))
		require.True(t, from(kind[0], echo(kind[2], 7)))
		require.False(t, from(kind[0], echo(kind[2], 8)))
		require.False(t, from(kind[0], echo(kind[1], 7)), "a request back")
	}
	// FW-02's RELATED: an error about a packet that passed, and about one that was never sent.
	quote := func(kind byte, sport uint16, dport uint16) []byte {
		return append([]byte{kind, 4, 0, 0, 0, 0, 0, 0}, ipv4(a.IPs[0], b.IPs[0], 6, tcp(sport, dport, 2))...)
	}
	require.True(t, reaches(t, b, a, packet(b, a, false, 1, quote(3, 1025, 80))))
	require.False(t, reaches(t, b, a, packet(b, a, false, 1, quote(3, 1030, 80))))
	require.False(t, reaches(t, b, a, packet(b, a, false, 1, quote(5, 1025, 80))), "a redirect")
	quote6 := func(sport uint16) []byte {
		return append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, ipv6(a.IPs[1], b.IPs[1], 6, tcp(sport, 80, 2))...)
	}
	require.True(t, reaches(t, b, a, packet(b, a, true, 58, quote6(1025))))
	require.False(t, reaches(t, b, a, packet(b, a, true, 58, quote6(1030))))
	// What every machine needs.
	require.True(t, reaches(t, b, a, packet(b, a, true, 58, icmpv6(b.IPs[1], a.IPs[1], 136, append([]byte{0x60, 0, 0, 0}, b.IPs[1].AsSlice()...)))), "an advertisement")

	// A rule that is taken away ends what it had let begin; what answers it had allowed may still go.
	for i := range d.Groups {
		if d.Groups[i].ID == "web" {
			d.Groups[i].Rules = rules(t, "ingress udp 53-53 any")
			require.NoError(t, m.SetGroups(t.Context(), d.Groups[i:i+1]))
		}
	}
	require.False(t, reaches(t, a, b, packet(a, b, false, 6, tcp(1025, 80, 0x10))), "of a connection that was open")
	require.True(t, reaches(t, a, b, packet(a, b, false, 17, udp(1027, 53, []byte("again")))))
	report, err := m.Apply(t.Context(), d)
	require.NoError(t, err)
	require.Empty(t, report.Changes)
}

// FW-04: a rule for a group is a rule for its members as they are.
func TestMembersOfAGroupComeAndGo(t *testing.T) {
	d := guarded(t, map[string][]string{"out": {"egress any any any"}, "app": {"egress any any any"}, "db": {"ingress tcp 5432-5432 group:app"}}, []string{"out"}, []string{"db"})
	m, g := openGuests(t, d)
	a, b := g[0], g[1]
	port := uint16(2000)
	may := func(six bool) bool { port++; return reaches(t, a, b, packet(a, b, six, 6, tcp(port, 5432, 2))) }
	require.False(t, may(false))
	app := network.Group{ID: "app", Rules: rules(t, "egress any any any"), Members: a.IPs}
	require.NoError(t, m.SetGroups(t.Context(), []network.Group{app}))
	require.True(t, may(false))
	require.True(t, may(true))
	app.Members = a.IPs[1:]
	require.NoError(t, m.SetGroups(t.Context(), []network.Group{app}))
	require.False(t, may(false))
	require.True(t, may(true))
	// Plug moves the tap into the group, and its addresses with it.
	one := d.Taps[0]
	one.Groups = []string{"app"}
	require.NoError(t, m.Plug(t.Context(), bridge(), one))
	require.True(t, may(false))
	got, err := m.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"app"}, got.Taps[0].Groups)
	// A group that nobody has told of lets nothing through.
	one.Groups = []string{"unheard-of"}
	require.NoError(t, m.Plug(t.Context(), bridge(), one))
	require.False(t, may(true))
	require.NoError(t, m.SetGroups(t.Context(), []network.Group{{ID: "unheard-of", Rules: rules(t, "egress any any any")}}))
	require.True(t, may(true), "its address of IPv6 is still a member of app")
}

// NET-06: a tap may send from each of its fixed IPs, in ARP and IPv4, and is a member of its groups by each, while it has them.
func TestFixedIPsComeAndGo(t *testing.T) {
	d := guarded(t, map[string][]string{"app": {"egress any any any", "ingress tcp 80-80 any"}, "db": {"egress any any any", "ingress tcp 5432-5432 group:app"}}, []string{"app"}, []string{"db"})
	m, g := openGuests(t, d)
	a, b := g[0], g[1]
	one := d.Taps[0]
	more := one
	more.IPs = append(slices.Clone(one.IPs), netip.MustParseAddr("10.0.200.1"))
	second := a // the same guest, by its second address
	second.IPs = []netip.Addr{more.IPs[2]}
	port := uint16(3000)
	both := func(first, other bool) {
		t.Helper()
		port++
		require.Equal(t, first, reaches(t, a, b, packet(a, b, false, 6, tcp(port, 5432, 2))), "from its first")
		require.Equal(t, other, reaches(t, a, b, packet(second, b, false, 6, tcp(port, 5432, 2))), "from its second")
		require.Equal(t, other, reaches(t, a, b, ethernet(b.MAC, a.MAC, 0x0806, arp(1, a.MAC, second.IPs[0], b.IPs[0], forged))), "who has it")
		require.Equal(t, first, reaches(t, b, a, packet(b, a, false, 6, tcp(port, 80, 2))), "to its first")
		require.True(t, reaches(t, b, a, packet(b, second, false, 6, tcp(port, 80, 2))), "what is for its card gets to it, as on any switch")
	}
	both(true, false)
	for range 2 {
		require.NoError(t, m.Plug(t.Context(), bridge(), more))
		both(true, true)
	}
	require.NoError(t, m.Plug(t.Context(), bridge(), one))
	both(true, false)
	more.IPs = more.IPs[1:] // its first goes
	require.NoError(t, m.Plug(t.Context(), bridge(), more))
	port++
	require.False(t, reaches(t, second, b, packet(a, b, false, 6, tcp(port, 5432, 2))))
	require.True(t, reaches(t, second, b, packet(second, b, false, 6, tcp(port, 5432, 2))))
}

// FW-03 comes first: a forged packet does not pass because a rule would let it, nor does it teach the filter a flow.
func TestGroupsDoNotLetForgeriesThrough(t *testing.T) {
	d := guarded(t, map[string][]string{"all": {"egress any any any", "ingress any any any"}}, []string{"all"}, []string{"all"}, []string{"all"})
	_, g := openGuests(t, d)
	a, b, c := g[0], g[1], g[2]
	require.False(t, reaches(t, a, b, ethernet(b.MAC, a.MAC, 0x0800, ipv4(c.IPs[0], b.IPs[0], 17, udp(1, 2, nil)))))
	require.True(t, reaches(t, a, b, ethernet(b.MAC, a.MAC, 0x0800, ipv4(a.IPs[0], b.IPs[0], 132, []byte("sctp....")))), "a protocol without a name")
}

// Later fragments follow their first, and none else.
func TestFragmentsFollowTheirFirst(t *testing.T) {
	d := guarded(t, map[string][]string{"out": {"egress any any any"}, "in": {"ingress udp 7-7 any"}}, []string{"out"}, []string{"in"})
	_, g := openGuests(t, d)
	a, b := g[0], g[1]
	whole := ipv4(a.IPs[0], b.IPs[0], 17, udp(9, 7, []byte("a large datagram........")))
	refused := ipv4(a.IPs[0], b.IPs[0], 17, udp(9, 8, []byte("a large datagram........")))
	whole[5], refused[5] = 1, 2
	require.False(t, reaches(t, a, b, ethernet(b.MAC, a.MAC, 0x0800, fragment(whole, 100, false))))
	require.True(t, reaches(t, a, b, ethernet(b.MAC, a.MAC, 0x0800, fragment(whole, 0, true))))
	require.True(t, reaches(t, a, b, ethernet(b.MAC, a.MAC, 0x0800, fragment(whole, 100, false))))
	require.False(t, reaches(t, a, b, ethernet(b.MAC, a.MAC, 0x0800, fragment(refused, 0, true))))
	require.False(t, reaches(t, a, b, ethernet(b.MAC, a.MAC, 0x0800, fragment(refused, 100, false))))
}

// Rules by chance, on packets by chance: the kernel does what network.Desired.Lets says.
func TestGroupsDoWhatTheModelSays(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pick := func(texts ...string) string { return texts[random.IntN(len(texts))] }
	numbers := map[network.Protocol]byte{network.TCP: 6, network.UDP: 17, network.AnyProtocol: 47}
	d := guarded(t, nil, []string{"g0"}, []string{"g1"})
	m, g := openGuests(t, d)
	a, b := g[0], g[1]
	passed := 0
	for round := range 40 {
		var texts [3][]string
		for i := range texts {
			for range random.IntN(5) {
				direction, proto := pick("ingress", "egress", "egress"), pick("tcp", "udp", "icmp", "icmpv6", "any")
				what := "any"
				switch proto {
				case "tcp", "udp":
					what = pick("any", "5-5", "1-6", "4-65535", "7-9")
				case "icmp", "icmpv6":
					what = pick("any", "8/any", "8/0", "128/any", "13/1")
				}
				remote := pick("any", "group:g0", "group:g1", "group:g2")
				if proto != "icmpv6" {
					remote = pick(remote, "10.0.0.0/8", a.IPs[0].String()+"/32", b.IPs[0].String()+"/32", "10.0.1.0/31")
				}
				if proto != "icmp" {
					remote = pick(remote, "fd00::/8", "fd00::1/128", "fd00::/127")
				}
				if proto != "icmp" && proto != "icmpv6" {
					remote = pick(remote, remote, "::/0", "0.0.0.0/0")
				}
				text := fmt.Sprintf("%s %s %s %s", direction, proto, what, remote)
				if (proto == "icmpv6") == (netip.MustParsePrefix("0.0.0.0/0").String() == remote) || !slices.Contains(texts[i], text) {
					if _, err := network.ParseRule(text); err == nil {
						texts[i] = append(texts[i], text)
					}
				}
			}
			if i == 0 && round%3 > 0 {
				texts[i] = append(texts[i], "egress any any any")
			}
			slices.Sort(texts[i])
			texts[i] = slices.Compact(texts[i])
		}
		in := [][]string{{"g0", "g2"}, {"g1"}}
		if round%2 == 1 {
			in = [][]string{{"g0"}, {"g1", "g2"}}
		}
		d = guarded(t, map[string][]string{"g0": texts[0], "g1": texts[1], "g2": texts[2]}, in...)
		_, err := m.Apply(t.Context(), d)
		require.NoError(t, err)
		for n := range 25 {
			six := random.IntN(2) == 1
			p := network.Packet{Port: 4 + random.IntN(6), Type: []int{8, 13, 128, 150}[random.IntN(4)], Code: random.IntN(2)}
			p.Protocol = []network.Protocol{network.TCP, network.UDP, network.ICMP, network.AnyProtocol}[random.IntN(4)]
			own := uint16(1024 + round*25 + n)
			var body []byte
			proto := numbers[p.Protocol]
			switch p.Protocol {
			case network.TCP:
				body = tcp(own, uint16(p.Port), 2)
			case network.UDP:
				body = udp(own, uint16(p.Port), []byte("text"))
			case network.ICMP:
				proto, body = 1, echo(byte(p.Type), own)
				if six {
					p.Protocol, proto, p.Type = network.ICMPv6, 58, 128
					body[0] = 128
				}
				body[1] = byte(p.Code)
			default:
				if six { // anti-spoofing has none of these
					continue
				}
				proto, body = byte(200+n), []byte("something")
			}
			at := 0
			if six {
				at = 1
			}
			p.Direction, p.Remote = network.Egress, b.IPs[at]
			want := d.Lets(d.Taps[0], p)
			p.Direction, p.Remote = network.Ingress, a.IPs[at]
			want = want && d.Lets(d.Taps[1], p)
			if proto >= 200 && round > 0 { // these have no ports: an earlier one may be remembered
				continue
			}
			if want {
				passed++
			}
			require.Equal(t, want, reaches(t, a, b, packet(a, b, six, proto, body)), "%+v\n%q\n%q", p, texts, in)
		}
	}
	require.Greater(t, passed, 20, "packets that passed")
}

// Any rule that is accepted is one that the kernel takes, and that Inspect reads back.
func TestAnyAcceptedRuleCompiles(t *testing.T) {
	_, m := live(t)
	var all []network.Rule
	for _, direction := range []network.Direction{network.Ingress, network.Egress} {
		for _, proto := range []network.Protocol{network.TCP, network.UDP, network.ICMP, network.ICMPv6, network.AnyProtocol} {
			for _, numbers := range [][2]int{{-1, -1}, {1, 65535}, {22, 22}, {255, -1}, {0, 0}, {0, 255}, {8, -1}} {
				for _, remote := range []string{"", "0.0.0.0/0", "::/0", "10.0.0.0/7", "192.0.2.1/32", "fd00::/57", "fd00::1/128", "group"} {
					r := network.Rule{Direction: direction, Protocol: proto, From: numbers[0], To: numbers[1]}
					if remote == "group" {
						r.RemoteGroup = "another"
					} else if remote != "" {
						r.Remote = netip.MustParsePrefix(remote)
					}
					if r.Validate() == nil && !slices.ContainsFunc(all, func(o network.Rule) bool { return o.String() == r.String() }) {
						all = append(all, r)
					}
				}
			}
		}
	}
	require.Greater(t, len(all), 150)
	g := network.Group{ID: "all", Rules: all}
	_, err := m.Apply(t.Context(), network.Desired{Groups: []network.Group{g}})
	require.NoError(t, err)
	got, err := m.Inspect(t.Context())
	require.NoError(t, err)
	require.Len(t, got.Groups, 1)
	require.Len(t, got.Groups[0].Rules, len(all))
	report, err := m.Apply(t.Context(), got)
	require.NoError(t, err)
	require.Empty(t, report.Changes)
}

func FuzzCompile(f *testing.F) {
	for _, text := range []string{"ingress tcp 22-80 10.0.0.0/9", "egress icmpv6 128/0 fd00::/65", "ingress any any group:g", "egress icmp 3/any any"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := network.ParseRule(text)
		if err != nil {
			return
		}
		for _, c := range compile(r) {
			checkRule(t, "fuzz", c)
			if back, err := network.ParseRule(reason(c.comment())); err != nil || back != r || len(c.comment()) > 127 {
				t.Errorf("%q: the comment %q says %v, %v", text, c.comment(), back, err)
			}
		}
	})
}
