package dhcp

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func codes(t *testing.T, reply *dhcpv4.DHCPv4, a answer) (order []byte) {
	t.Helper()
	for o := a.packet[ipHeader+udpHeader+bootpHeader+4 : a.length]; o[0] != optEnd; o = o[2+int(o[1]):] {
		order = append(order, o[0])
	}
	require.NotNil(t, reply)
	return order
}

func TestParametersComeInTheClientsOrder(t *testing.T) {
	s := deskServer(t)
	a, reply := ask1(t, s, clientMessage{options: opts(opt(optKind, discover), opt(optParameters, optDomain, optDNS, optMask, optRouter, 42, optDNS, optLease, optHostname))})
	require.Equal(t, []byte{optKind, optServerID, optLease, optT1, optT2, optMask, optDomain, optDNS, optRouter, optHostname}, codes(t, reply, a))
	require.Equal(t, "novalocal", reply.DomainName())
	require.Equal(t, "vm", reply.HostName())
	require.Len(t, reply.DNS(), 2)

	a, reply = ask1(t, s, clientMessage{options: opts(opt(optKind, discover))})
	require.Equal(t, []byte{optKind, optServerID, optLease, optT1, optT2, optMask, optRouter, optDNS, optDomain, optBroadcast, optMTU, optHostname}, codes(t, reply, a),
		"a client that asks for nothing gets what there is")
	require.Equal(t, "10.0.255.255", reply.BroadcastAddress().String())
	require.Equal(t, []byte{1450 >> 8, 1450 & 255}, reply.Options.Get(dhcpv4.OptionInterfaceMTU))
}

func TestRoutesReplaceTheRouter(t *testing.T) {
	s := deskServer(t)
	d := deskDesired()
	d.Bridges[0].Routes = []network.Route{
		{To: netip.MustParsePrefix("10.9.8.7/8"), Via: netip.MustParseAddr("10.0.0.3")},
		{To: netip.MustParsePrefix("169.254.169.254/32"), Via: netip.MustParseAddr("10.0.0.1")},
		{To: netip.MustParsePrefix("192.168.128.0/17"), Via: netip.MustParseAddr("10.0.0.3")}}
	require.NoError(t, s.Apply(t.Context(), d))
	_, reply := ask1(t, s, clientMessage{options: opts(opt(optKind, discover), opt(optParameters, optRouter, optRoutes))})
	require.Nil(t, reply.Options.Get(dhcpv4.OptionRouter), "a client that understands routes is told no router (RFC 3442)")
	var routes []string
	for _, r := range reply.ClasslessStaticRoute() {
		routes = append(routes, r.Dest.String()+" "+r.Router.String())
	}
	require.Equal(t, []string{"10.0.0.0/8 10.0.0.3", "169.254.169.254/32 10.0.0.1", "192.168.128.0/17 10.0.0.3", "0.0.0.0/0 10.0.0.254"}, routes)
	_, reply = ask1(t, s, clientMessage{options: opts(opt(optKind, discover), opt(optParameters, optRouter))})
	require.Equal(t, "10.0.0.254", reply.Router()[0].String(), "one that does not is")

	d.Bridges[0].Routes = append(d.Bridges[0].Routes, network.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.5")})
	require.NoError(t, s.Apply(t.Context(), d))
	_, reply = ask1(t, s, clientMessage{options: opts(opt(optKind, discover), opt(optParameters, optRoutes))})
	require.Len(t, reply.ClasslessStaticRoute(), 4, "a default route of one's own stays the only one")
}

func TestClientIdentifierComesBack(t *testing.T) {
	for _, kind := range [][]byte{opts(opt(optKind, discover), opt(optClientID, 1, 2, 3)), opts(opt(optKind, ask), opt(optRequested, others[:]...), opt(optClientID, 1, 2, 3))} {
		_, reply := ask1(t, deskServer(t), clientMessage{options: kind})
		require.Equal(t, []byte{1, 2, 3}, reply.Options.Get(dhcpv4.OptionClientIdentifier))
	}
	// In pieces, as RFC 3396 has it, around the parameters.
	_, reply := ask1(t, deskServer(t), clientMessage{options: opts(opt(optKind, discover), opt(optClientID, 1, 2), opt(optParameters, optDNS), opt(optClientID, 3))})
	require.Equal(t, []byte{1, 2, 3}, reply.Options.Get(dhcpv4.OptionClientIdentifier))
}

func TestRequestsMayOverload(t *testing.T) {
	p := appendMessage(nil, clientMessage{mac: hardware{0x52, 0x54, 0, 0, 0, 1}, options: opts(opt(optKind, ask), opt(optOverload, 3))})
	m := p[ipHeader+udpHeader:]
	copy(m[fileOffset:], opts(opt(optRequested, mine[:]...), opt(optClientID, 1, 2)))
	copy(m[nameOffset:], opts(opt(optServerID, ourID...), opt(optClientID, 3)))
	_, reply := askRaw(t, deskServer(t), hardware{0x52, 0x54, 0, 0, 0, 1}, p)
	require.NotNil(t, reply)
	require.Equal(t, dhcpv4.MessageTypeAck, reply.MessageType())
	require.Equal(t, []byte{1, 2, 3}, reply.Options.Get(dhcpv4.OptionClientIdentifier), "the file field comes before the name (RFC 3396 §5)")
}

// TestRepliesFit: a reply is never longer than the client takes, uses the fields for file and name when it must, and leaves out
// what the client asked for last.
func TestRepliesFit(t *testing.T) {
	d := deskDesired()
	d.Bridges[0].Domain = strings.Repeat("d", 200)
	d.Taps[1].Hostname = strings.Repeat("h", 60)
	for range 5 {
		d.Bridges[0].Routes = append(d.Bridges[0].Routes, network.Route{To: netip.MustParsePrefix("10.1.2.0/24"), Via: netip.MustParseAddr("10.0.0.3")})
	}
	s := deskServer(t)
	require.NoError(t, s.Apply(t.Context(), d))
	want := opt(optParameters, optDomain, optHostname, optRoutes, optDNS, optMTU, optBroadcast)
	id := option(nil, optClientID, bytes.Repeat([]byte{7}, 60))
	for _, row := range []struct {
		size     []byte
		largest  int
		overload bool
	}{{nil, 576, true}, {[]byte{0, 100}, 576, true}, {[]byte{2, 64}, 576, true}, {[]byte{3, 0}, 768, false}, {[]byte{255, 255}, 1450, false}} {
		options := [][]byte{opt(optKind, discover), want, id}
		if row.size != nil {
			options = append(options, opt(optMaxSize, row.size...))
		}
		a, reply := ask1(t, s, clientMessage{options: opts(options...)})
		require.LessOrEqual(t, a.length, row.largest)
		all := everyOption(a)
		require.Equal(t, row.overload, all[optOverload] != nil)
		require.Equal(t, bytes.Repeat([]byte{7}, 60), reply.Options.Get(dhcpv4.OptionClientIdentifier))
		for _, code := range []byte{optDomain, optHostname, optRoutes, optDNS, optMTU, optBroadcast} {
			require.NotNil(t, all[code], "option %d, size %v", code, row.size)
		}
	}
	// What can't fit anywhere is left out, and the rest is there.
	d.Bridges[0].DNS = nil
	for range 120 {
		d.Bridges[0].DNS = append(d.Bridges[0].DNS, netip.MustParseAddr("10.0.0.2"))
	}
	require.NoError(t, s.Apply(t.Context(), d))
	a, _ := ask1(t, s, clientMessage{options: opts(opt(optKind, discover), want)})
	all := everyOption(a)
	require.Nil(t, all[optDNS])
	require.NotNil(t, all[optBroadcast])
	a, reply := ask1(t, s, clientMessage{options: opts(opt(optKind, discover), want, opt(optMaxSize, 5, 220))})
	require.Len(t, everyOption(a)[optDNS], 480, "split into two, and whole for those who join them (RFC 3396)")
	require.Len(t, reply.DNS(), 120)
}

// everyOption reads a reply's options from all three fields.
func everyOption(a answer) map[byte][]byte {
	m := a.packet[ipHeader+udpHeader : a.length]
	all := map[byte][]byte{}
	for _, area := range [][]byte{m[bootpHeader+4:], m[fileOffset:][:fileLength], m[nameOffset:][:nameLength]} {
		for len(area) > 0 && area[0] != optEnd && area[0] != optPad {
			all[area[0]] = append(all[area[0]], area[2:2+int(area[1])]...)
			area = area[2+int(area[1]):]
		}
	}
	return all
}

func TestHostnamesThatAreNoneAreNotTold(t *testing.T) {
	for _, name := range []string{"", "-x", ".x", "a b", "a;reboot", "a\nb", "$(x)", strings.Repeat("a", 254)} {
		require.False(t, validHostname(name), "%q", name)
	}
	require.True(t, validHostname("vm-1.example"))
}
