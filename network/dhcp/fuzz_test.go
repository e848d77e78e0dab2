package dhcp

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// FuzzServe: whatever comes in, the server does not panic, does not answer what an independent parser refuses or whom it
// does not know, allocates nothing, and what it says can be read.
func FuzzServe(f *testing.F) {
	mac := hardware{0x52, 0x54, 0, 0, 0, 1}
	for _, o := range [][]byte{
		opts(opt(optKind, discover)),
		opts(opt(optKind, discover), opt(optParameters, 1, 3, 6, 121, 12, 15, 26, 28), opt(optClientID, 1, 2, 3), opt(optMaxSize, 2, 64)),
		opts(opt(optKind, ask), opt(optRequested, mine[:]...), opt(optServerID, ourID...)),
		opts(opt(optKind, ask), opt(optRequested, abroad[:]...)),
		opts(opt(optKind, decline), opt(optRequested, mine[:]...), opt(optServerID, ourID...)),
		opts(opt(optKind, discover), opt(optOverload, 3)),
		opts(opt(optKind, discover), opt(optClientID, 1), opt(optClientID, 2)),
	} {
		f.Add(appendMessage(nil, clientMessage{mac: mac, options: o}))
		f.Add(appendMessage(nil, clientMessage{mac: mac, ciaddr: mine, src: mine, broadcast: true, options: o}))
	}
	// The corpus of malformed ones.
	for _, name := range slices.Sorted(maps.Keys(malformed())) {
		f.Add(malformed()[name](appendMessage(nil, clientMessage{mac: mac, options: opts(opt(optKind, discover))})))
	}
	s := deskServer(f)
	var r request
	var a answer
	f.Fuzz(func(t *testing.T, packet []byte) {
		r.second++
		s.mu.RLock()
		defer s.mu.RUnlock()
		b := s.bridges["br0"]
		answered := s.answer(b, mac, packet, &r, &a)
		if answered && (r.chaddr != mac || a.port.mac != mac) {
			t.Fatalf("answered %v", r.chaddr)
		}
		if answered && a.length > 0 {
			reply, err := dhcpv4.FromBytes(a.packet[ipHeader+udpHeader : a.length])
			if err != nil {
				t.Fatalf("what we say can't be read: %v", err)
			}
			if a.length > b.largest || a.length > r.maxSize {
				t.Fatalf("%d bytes is longer than the client takes", a.length)
			}
			if !reply.YourIPAddr.IsUnspecified() && [4]byte(reply.YourIPAddr.To4()) != mine {
				t.Fatalf("offered %v", reply.YourIPAddr)
			}
		}
		if n := testing.AllocsPerRun(1, func() { s.answer(b, mac, packet, &r, &a) }); n > 8 {
			t.Fatalf("%v allocations", n)
		}
		differ(t, packet, &r)
	})
}

// differ compares what we read of a packet with what the library reads. Ours refuses more.
func differ(t *testing.T, packet []byte, r *request) {
	if !r.parse(packet) {
		return
	}
	header := int(packet[0]&15) * 4
	udp := packet[header:]
	theirs, err := dhcpv4.FromBytes(udp[udpHeader : int(udp[4])<<8|int(udp[5])])
	if err != nil {
		t.Fatalf("we read what %v", err)
	}
	same := theirs.TransactionID == dhcpv4.TransactionID(r.xid) && theirs.IsBroadcast() == r.broadcast &&
		bytes.Equal(theirs.ClientIPAddr.To4(), r.ciaddr[:]) && bytes.Equal(theirs.ClientHWAddr, r.chaddr[:])
	if theirs.Options.Get(dhcpv4.OptionOptionOverload) == nil { // the library leaves those fields to its users
		same = same && byte(theirs.MessageType()) == r.kind &&
			bytes.Equal(theirs.Options.Get(dhcpv4.OptionClientIdentifier), r.clientID) &&
			bytes.Equal(theirs.Options.Get(dhcpv4.OptionParameterRequestList), r.parameters) &&
			r.hasRequested == theirs.Options.Has(dhcpv4.OptionRequestedIPAddress) &&
			r.hasServer == theirs.Options.Has(dhcpv4.OptionServerIdentifier) &&
			(!r.hasRequested || bytes.Equal(theirs.Options.Get(dhcpv4.OptionRequestedIPAddress), r.requested[:])) &&
			(!r.hasServer || bytes.Equal(theirs.Options.Get(dhcpv4.OptionServerIdentifier), r.server[:]))
	}
	if !same {
		t.Fatalf("we read %+v, the library %v", r, theirs.Summary())
	}
}

// FuzzJournal: no file makes the server panic, and every lease that it reads has a tap.
func FuzzJournal(f *testing.F) {
	good := make([]byte, 4*recordSize)
	copy(good, journalMagic)
	for i := 1; i < 3; i++ {
		record{recordLease, lease{tap: "dpa", mac: hardware{1}, addr: mine, since: 1, until: 2}, uint32(i)}.put(good[i*recordSize:])
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		leases, _ := replay(data)
		for tap, l := range leases {
			if tap == "" || tap != l.tap || len(tap) > maxTap {
				t.Fatalf("%q: %+v", tap, l)
			}
		}
	})
}
