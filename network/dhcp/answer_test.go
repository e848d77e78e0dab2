package dhcp

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// deskServer is a server that is asked on a desk, without a network: one bridge, ports 0 to 3.
func deskServer(t testing.TB) *Server {
	t.Helper()
	s, err := New(Config{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(t, err)
	require.NoError(t, s.Apply(t.Context(), deskDesired()))
	return s
}

func deskDesired() network.Desired {
	d := network.Desired{Bridges: []network.Bridge{{Name: "br0", Gateway: netip.MustParsePrefix("10.0.0.1/16"),
		Router: netip.MustParseAddr("10.0.0.254"), DNS: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("8.8.8.8")},
		Domain: "novalocal", Lease: time.Hour, MTU: 1450}}}
	for i := range 4 {
		d.Taps = append(d.Taps, network.Tap{Name: "dp" + string(rune('a'+i)), Bridge: "br0", Port: "port", MAC: []byte{0x52, 0x54, 0, 0, 0, byte(i)},
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(16 + i)})}, Hostname: "vm"})
	}
	return d
}

// ask1 hands the server a message of port 1 and returns the answer, with its frame parsed by a library that is not ours.
func ask1(t testing.TB, s *Server, m clientMessage) (answer, *dhcpv4.DHCPv4) {
	t.Helper()
	if m.mac == (hardware{}) {
		m.mac = hardware{0x52, 0x54, 0, 0, 0, 1}
	}
	if m.xid == 0 {
		m.xid = 0x01020304
	}
	return askRaw(t, s, m.mac, appendMessage(nil, m))
}

func askRaw(t testing.TB, s *Server, from hardware, packet []byte) (answer, *dhcpv4.DHCPv4) {
	t.Helper()
	var r request
	var a answer
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.answer(s.bridges["br0"], from, packet, &r, &a) {
		return answer{}, nil
	}
	if a.length == 0 {
		return a, nil
	}
	p := a.packet[:a.length]
	require.Zero(t, checksum(p[:ipHeader], 0), "IP checksum")
	pseudo := uint64(17) + uint64(len(p)-ipHeader) + uint64(binary.BigEndian.Uint32(p[12:])) + uint64(binary.BigEndian.Uint32(p[16:]))
	require.Zero(t, checksum(p[ipHeader:], pseudo), "UDP checksum")
	require.Equal(t, uint16(len(p)), binary.BigEndian.Uint16(p[2:]))
	require.Equal(t, uint16(len(p)-ipHeader), binary.BigEndian.Uint16(p[ipHeader+4:]))
	require.GreaterOrEqual(t, len(p), ipHeader+udpHeader+minBOOTP)
	reply, err := dhcpv4.FromBytes(p[ipHeader+udpHeader:])
	require.NoError(t, err)
	return a, reply
}

func opts(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return append(all, optEnd)
}

func opt(code int, value ...byte) []byte { return option(nil, code, value) }

var (
	mine    = [4]byte{10, 0, 0, 17} // port 1's
	others  = [4]byte{10, 0, 0, 18}
	abroad  = [4]byte{192, 168, 7, 7}
	ourID   = []byte{10, 0, 0, 1}
	otherID = []byte{10, 0, 0, 9}
)

// TestStates is RFC 2131 §4.3 as a table: what a client in each state sends, and what it hears.
func TestStates(t *testing.T) {
	const toClient, toAll, toAddr = "its card", "everyone", "its address"
	for _, row := range []struct {
		rule   string
		m      clientMessage
		hears  dhcpv4.MessageType // 0: nothing
		at     string
		change change
	}{
		{"INIT: an offer goes to the client's card alone",
			clientMessage{options: opts(opt(optKind, discover))}, dhcpv4.MessageTypeOffer, toClient, unchanged},
		{"INIT: a client that can't hear that hears a broadcast",
			clientMessage{broadcast: true, options: opts(opt(optKind, discover))}, dhcpv4.MessageTypeOffer, toAll, unchanged},
		{"INIT: another address that it would like changes nothing",
			clientMessage{options: opts(opt(optKind, discover), opt(optRequested, abroad[:]...))}, dhcpv4.MessageTypeOffer, toClient, unchanged},
		{"SELECTING: the offered address is granted",
			clientMessage{options: opts(opt(optKind, ask), opt(optRequested, mine[:]...), opt(optServerID, ourID...))}, dhcpv4.MessageTypeAck, toClient, granted},
		{"SELECTING: and by broadcast, if asked so",
			clientMessage{broadcast: true, options: opts(opt(optKind, ask), opt(optRequested, mine[:]...), opt(optServerID, ourID...))}, dhcpv4.MessageTypeAck, toAll, granted},
		{"SELECTING: a client that chose another server hears nothing",
			clientMessage{options: opts(opt(optKind, ask), opt(optRequested, mine[:]...), opt(optServerID, otherID...))}, 0, "", unchanged},
		{"SELECTING: another port's address is refused to everyone's knowledge",
			clientMessage{options: opts(opt(optKind, ask), opt(optRequested, others[:]...), opt(optServerID, ourID...))}, dhcpv4.MessageTypeNak, toAll, unchanged},
		{"INIT-REBOOT: its address is granted",
			clientMessage{options: opts(opt(optKind, ask), opt(optRequested, mine[:]...))}, dhcpv4.MessageTypeAck, toClient, granted},
		{"INIT-REBOOT: a wrong address is refused",
			clientMessage{options: opts(opt(optKind, ask), opt(optRequested, others[:]...))}, dhcpv4.MessageTypeNak, toAll, unchanged},
		{"INIT-REBOOT: an address of another network is refused",
			clientMessage{options: opts(opt(optKind, ask), opt(optRequested, abroad[:]...))}, dhcpv4.MessageTypeNak, toAll, unchanged},
		{"RENEWING: the answer goes to its address",
			clientMessage{src: mine, dst: [4]byte(ourID), ciaddr: mine, options: opts(opt(optKind, ask))}, dhcpv4.MessageTypeAck, toAddr, granted},
		{"REBINDING: the answer goes to its address, whatever the broadcast flag",
			clientMessage{src: mine, ciaddr: mine, broadcast: true, options: opts(opt(optKind, ask))}, dhcpv4.MessageTypeAck, toAddr, granted},
		{"REBINDING: a wrong address is refused",
			clientMessage{src: others, ciaddr: others, options: opts(opt(optKind, ask))}, dhcpv4.MessageTypeNak, toAll, unchanged},
		{"REQUEST: for no address hears nothing",
			clientMessage{options: opts(opt(optKind, ask))}, 0, "", unchanged},
		{"REQUEST: for its address while it has another is refused",
			clientMessage{ciaddr: others, options: opts(opt(optKind, ask), opt(optRequested, mine[:]...))}, dhcpv4.MessageTypeNak, toAll, unchanged},
		{"RELEASE: ends the lease without a word",
			clientMessage{src: mine, dst: [4]byte(ourID), ciaddr: mine, options: opts(opt(optKind, release), opt(optServerID, ourID...))}, 0, "", givenUp},
		{"RELEASE: of another's address is nothing",
			clientMessage{src: mine, ciaddr: others, options: opts(opt(optKind, release), opt(optServerID, ourID...))}, 0, "", unchanged},
		{"RELEASE: to another server is nothing",
			clientMessage{src: mine, ciaddr: mine, options: opts(opt(optKind, release), opt(optServerID, otherID...))}, 0, "", unchanged},
		{"DECLINE: ends the lease without a word",
			clientMessage{options: opts(opt(optKind, decline), opt(optRequested, mine[:]...), opt(optServerID, ourID...))}, 0, "", givenUp},
		{"DECLINE: of another's address is nothing",
			clientMessage{options: opts(opt(optKind, decline), opt(optRequested, others[:]...), opt(optServerID, ourID...))}, 0, "", unchanged},
		{"INFORM: the answer goes to its address and grants nothing",
			clientMessage{src: mine, ciaddr: mine, options: opts(opt(optKind, inform))}, dhcpv4.MessageTypeAck, toAddr, unchanged},
		{"INFORM: about another's address hears nothing",
			clientMessage{src: others, ciaddr: others, options: opts(opt(optKind, inform))}, 0, "", unchanged},
		{"an OFFER from a guest hears nothing", clientMessage{options: opts(opt(optKind, offer))}, 0, "", unchanged},
		{"an ACK from a guest hears nothing", clientMessage{options: opts(opt(optKind, ack))}, 0, "", unchanged},
		{"a hardware address that no port has hears nothing",
			clientMessage{mac: hardware{0x52, 0x54, 0, 9, 9, 9}, options: opts(opt(optKind, discover))}, 0, "", unchanged},
		{"what goes through the node to another server is not ours to answer",
			clientMessage{dst: [4]byte{10, 0, 0, 9}, options: opts(opt(optKind, discover))}, 0, "", unchanged},
	} {
		t.Run(row.rule, func(t *testing.T) {
			a, reply := ask1(t, deskServer(t), row.m)
			require.Equal(t, row.change, a.change)
			if row.hears == 0 {
				require.Nil(t, reply)
				return
			}
			require.NotNil(t, reply)
			require.Equal(t, row.hears, reply.MessageType())
			require.Equal(t, dhcpv4.OpcodeBootReply, reply.OpCode)
			require.Equal(t, dhcpv4.TransactionID{1, 2, 3, 4}, reply.TransactionID)
			require.Equal(t, row.m.broadcast, reply.IsBroadcast())
			require.Equal(t, "10.0.0.1", reply.ServerIdentifier().String())
			require.Equal(t, "52:54:00:00:00:01", reply.ClientHWAddr.String())
			everyone := hardware{255, 255, 255, 255, 255, 255}
			ip := netip.AddrFrom4([4]byte(a.packet[16:20])).String()
			switch row.at {
			case toAll:
				require.Equal(t, everyone, a.dst)
				require.Equal(t, "255.255.255.255", ip)
			default:
				require.Equal(t, hardware{0x52, 0x54, 0, 0, 0, 1}, a.dst)
				require.Equal(t, "10.0.0.17", ip)
			}
			switch {
			case row.hears == dhcpv4.MessageTypeNak:
				require.True(t, reply.YourIPAddr.IsUnspecified())
				require.True(t, reply.ClientIPAddr.IsUnspecified())
				require.Nil(t, reply.Options.Get(dhcpv4.OptionIPAddressLeaseTime))
			case row.change == unchanged && row.hears == dhcpv4.MessageTypeAck: // INFORM (RFC 2131 §4.3.5)
				require.True(t, reply.YourIPAddr.IsUnspecified())
				require.Nil(t, reply.Options.Get(dhcpv4.OptionIPAddressLeaseTime))
				require.Nil(t, reply.Options.Get(dhcpv4.OptionRenewTimeValue))
				require.Equal(t, "ffff0000", reply.SubnetMask().String())
			default:
				require.Equal(t, "10.0.0.17", reply.YourIPAddr.String())
				require.Equal(t, time.Hour, reply.IPAddressLeaseTime(0))
				require.Equal(t, 30*time.Minute, reply.IPAddressRenewalTime(0))
				require.Equal(t, 52*time.Minute+30*time.Second, reply.IPAddressRebindingTime(0))
				require.Equal(t, "ffff0000", reply.SubnetMask().String())
			}
		})
	}
}

func TestSpoofedAndRelayedHearNothing(t *testing.T) {
	s := deskServer(t)
	good := appendMessage(nil, clientMessage{mac: hardware{0x52, 0x54, 0, 0, 0, 1}, options: opts(opt(optKind, discover))})
	_, reply := askRaw(t, s, hardware{0x52, 0x54, 0, 0, 0, 1}, good)
	require.NotNil(t, reply)
	_, reply = askRaw(t, s, hardware{0x52, 0x54, 0, 0, 0, 2}, good)
	require.Nil(t, reply, "the frame is another's")
	require.EqualValues(t, 1, s.Counters().Spoofed)
	relayed := appendMessage(nil, clientMessage{mac: hardware{0x52, 0x54, 0, 0, 0, 1}, options: opts(opt(optKind, discover), opt(optRelay, 1, 2, 0, 1))})
	_, reply = askRaw(t, s, hardware{0x52, 0x54, 0, 0, 0, 1}, relayed)
	require.Nil(t, reply, "option 82")
}

// malformed are ways to break a good packet in one place, each so that the server must be silent.
func malformed() map[string]func(p []byte) []byte {
	const b, o = ipHeader + udpHeader, ipHeader + udpHeader + bootpHeader + 4
	mac := hardware{0x52, 0x54, 0, 0, 0, 1}
	fixIP := func(p []byte) {
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], checksum(p[:int(p[0]&15)*4], 0))
	}
	return map[string]func(p []byte) []byte{
		"not IPv4":                     func(p []byte) []byte { p[0] = 0x65; return p },
		"IP header too short":          func(p []byte) []byte { p[0] = 0x44; return p },
		"IP header past the end":       func(p []byte) []byte { return p[:b+2] },
		"IP length past the end":       func(p []byte) []byte { binary.BigEndian.PutUint16(p[2:], uint16(len(p)+1)); fixIP(p); return p },
		"IP checksum":                  func(p []byte) []byte { p[10]++; return p },
		"a fragment":                   func(p []byte) []byte { p[6] = 0x20; fixIP(p); return p },
		"not UDP":                      func(p []byte) []byte { p[9] = 6; fixIP(p); return p },
		"another port":                 func(p []byte) []byte { p[23] = 68; return p },
		"UDP length past the end":      func(p []byte) []byte { binary.BigEndian.PutUint16(p[24:], uint16(len(p))); return p },
		"UDP length too short":         func(p []byte) []byte { binary.BigEndian.PutUint16(p[24:], 200); return p },
		"a reply":                      func(p []byte) []byte { p[b] = 2; return p },
		"not Ethernet":                 func(p []byte) []byte { p[b+1] = 6; return p },
		"hlen 16":                      func(p []byte) []byte { p[b+2] = 16; return p },
		"hlen 17":                      func(p []byte) []byte { p[b+2] = 17; return p },
		"hlen 255":                     func(p []byte) []byte { p[b+2] = 255; return p },
		"hlen 0":                       func(p []byte) []byte { p[b+2] = 0; return p },
		"giaddr":                       func(p []byte) []byte { p[b+27] = 9; return p },
		"cookie":                       func(p []byte) []byte { p[o-1]++; return p },
		"no kind (BOOTP)":              func(p []byte) []byte { p[o] = 200; return p },
		"kind twice":                   func(p []byte) []byte { copy(p[o+3:], []byte{53, 1, 1, 255}); return p },
		"kind of no length":            func(p []byte) []byte { copy(p[o:], []byte{53, 0, 255}); return p },
		"kind 0":                       func(p []byte) []byte { p[o+2] = 0; return p },
		"kind 9":                       func(p []byte) []byte { p[o+2] = 9; return p },
		"requested address of 3 bytes": func(p []byte) []byte { copy(p[o+3:], []byte{50, 3, 1, 2, 3, 255}); return p },
		"server identifier of 5 bytes": func(p []byte) []byte { copy(p[o+3:], []byte{54, 5, 1, 2, 3, 4, 5, 255}); return p },
		"server identifier twice":      func(p []byte) []byte { copy(p[o+3:], []byte{54, 4, 10, 0, 0, 1, 54, 4, 10, 0, 0, 1, 255}); return p },
		"size of 1 byte":               func(p []byte) []byte { copy(p[o+3:], []byte{57, 1, 1, 255}); return p },
		"overload 0":                   func(p []byte) []byte { copy(p[o+3:], []byte{52, 1, 0, 255}); return p },
		"overload 4":                   func(p []byte) []byte { copy(p[o+3:], []byte{52, 1, 4, 255}); return p },
		"overload inside the overload": func(p []byte) []byte {
			copy(p[o+3:], []byte{52, 1, 1, 255})
			copy(p[b+fileOffset:], []byte{52, 1, 2, 255})
			return p
		},
		"file that is cut off": func(p []byte) []byte {
			copy(p[o+3:], []byte{52, 1, 1, 255})
			copy(p[b+fileOffset:], []byte{61, 200})
			return p
		},
		"option past the end":     func(p []byte) []byte { copy(p[o+3:], []byte{61, 255, 1}); return p },
		"no end":                  func(p []byte) []byte { clear(p[o+3:]); return p },
		"option without a length": func(p []byte) []byte { clear(p[o+3:]); p[len(p)-1] = 61; return p },
		"empty":                   func([]byte) []byte { return nil },
		"parameters longer than we read": func(p []byte) []byte {
			return appendMessage(nil, clientMessage{mac: mac, options: opts(opt(optKind, discover), option(nil, optParameters, make([]byte, 256)))})
		},
		"client identifier longer than we read": func(p []byte) []byte {
			return appendMessage(nil, clientMessage{mac: mac, options: opts(opt(optKind, discover), option(nil, optClientID, make([]byte, 256)))})
		},
	}
}

// TestMalformedHearNothing breaks a good packet in one place at a time.
func TestMalformedHearNothing(t *testing.T) {
	mac := hardware{0x52, 0x54, 0, 0, 0, 1}
	for name, damage := range malformed() {
		t.Run(name, func(t *testing.T) {
			s := deskServer(t)
			good := appendMessage(nil, clientMessage{mac: mac, options: opts(opt(optKind, discover))})
			_, reply := askRaw(t, s, mac, good)
			require.NotNil(t, reply)
			_, reply = askRaw(t, s, mac, damage(good))
			require.Nil(t, reply)
			require.EqualValues(t, 1, s.Counters().Malformed)
		})
	}
	t.Run("cut off anywhere", func(t *testing.T) {
		s := deskServer(t)
		good := appendMessage(nil, clientMessage{mac: mac, options: opts(opt(optKind, discover))})
		for n := range len(good) {
			_, reply := askRaw(t, s, mac, good[:n])
			require.Nil(t, reply, n)
		}
	})
}

// TestGoldenReplies compares whole packets with files that were checked by hand once.
func TestGoldenReplies(t *testing.T) {
	parameters := opt(optParameters, optMask, optRouter, optDNS, optHostname, optDomain, optMTU, optBroadcast)
	id := opt(optClientID, 1, 0x52, 0x54, 0, 0, 0, 1)
	for name, m := range map[string]clientMessage{
		"offer":      {options: opts(opt(optKind, discover), parameters, id)},
		"ack":        {options: opts(opt(optKind, ask), opt(optRequested, mine[:]...), opt(optServerID, ourID...), parameters)},
		"ack-renew":  {src: mine, dst: [4]byte(ourID), ciaddr: mine, options: opts(opt(optKind, ask))},
		"nak":        {options: opts(opt(optKind, ask), opt(optRequested, others[:]...), id)},
		"ack-inform": {src: mine, ciaddr: mine, options: opts(opt(optKind, inform), parameters)},
	} {
		a, _ := ask1(t, deskServer(t), m)
		got := strings.TrimRight(hex.Dump(a.packet[:a.length]), "\n") + "\n"
		file := filepath.Join("testdata", name+".hex")
		if os.Getenv("DHCP_GOLDEN") != "" {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), got, name)
	}
}

func TestAnAnswerAllocatesNothing(t *testing.T) {
	s := deskServer(t)
	mac := hardware{0x52, 0x54, 0, 0, 0, 1}
	parameters := opt(optParameters, optMask, optRouter, optDNS, optHostname, optDomain, optMTU, optBroadcast, optRoutes)
	id := opt(optClientID, 1, 0x52, 0x54, 0, 0, 0, 1)
	var r request
	var a answer
	for _, o := range [][]byte{
		opts(opt(optKind, discover), parameters, id),
		opts(opt(optKind, ask), opt(optRequested, mine[:]...), opt(optServerID, ourID...), parameters, id),
		opts(opt(optKind, ask), opt(optRequested, others[:]...), id),
	} {
		packet := appendMessage(nil, clientMessage{mac: mac, options: o})
		require.Zero(t, testing.AllocsPerRun(100, func() {
			r.second++
			if !s.answer(s.bridges["br0"], mac, packet, &r, &a) {
				t.Error("no answer")
			}
		}))
	}
}
