package dhcp

import (
	"encoding/binary"
	"sync/atomic"
)

// answer is what a message leads to: a frame to send, a change of the lease, or both.
type answer struct {
	port   *port
	change       // of the lease, to be on disk before the frame is sent
	lasts  int64 // in milliseconds, when granted
	via    *socket

	dst    hardware
	length int // of packet; 0: no reply
	packet [maxReply]byte
}

type change byte

const (
	unchanged change = iota
	granted
	givenUp
)

// counters count messages since the server was made.
type counters struct {
	malformed, unknown, spoofed, ignored, dropped, failed, panicked      atomic.Uint64
	discovers, requests, declines, releases, informs, offers, acks, naks atomic.Uint64
}

// Counters are messages since the server was made.
type Counters struct {
	Discovers, Requests, Declines, Releases, Informs uint64 // received from known clients
	Offers, Acks, Naks                               uint64 // decided; an Ack is counted when its lease is on disk

	Malformed uint64 // not a client's message as RFC 2131 has it, or relayed
	Unknown   uint64 // from a hardware address that no port has
	Spoofed   uint64 // in the name of another hardware address than the frame's
	Ignored   uint64 // for another server, or out of place
	Dropped   uint64 // the client's last answer was still in the queue, or it said too much; or queue or socket were full
	Failed    uint64 // answers held back as the journal could not be written
	Panicked  uint64 // packets that found a mistake in this server
}

// Counters returns the counts so far.
func (s *Server) Counters() Counters {
	c := &s.count
	return Counters{
		Discovers: c.discovers.Load(), Requests: c.requests.Load(), Declines: c.declines.Load(), Releases: c.releases.Load(),
		Informs: c.informs.Load(), Offers: c.offers.Load(), Acks: c.acks.Load(), Naks: c.naks.Load(),
		Malformed: c.malformed.Load(), Unknown: c.unknown.Load(), Spoofed: c.spoofed.Load(), Ignored: c.ignored.Load(),
		Dropped: c.dropped.Load(), Failed: c.failed.Load(), Panicked: c.panicked.Load(),
	}
}

// answer decides about one IP packet that came from a hardware address on a bridge. It fills a, and tells whether there is
// anything to do. It needs mu for reading.
func (s *Server) answer(b *bridge, from hardware, packet []byte, r *request, a *answer) bool {
	a.port, a.change, a.length = nil, unchanged, 0
	if !b.answers {
		return false
	}
	if !r.parse(packet) {
		s.count.malformed.Add(1)
		return false
	}
	p := b.clients[r.chaddr]
	switch {
	case r.to != b.server && r.to != [4]byte{255, 255, 255, 255}:
		s.count.ignored.Add(1)
		return false
	case p == nil || !p.known:
		s.count.unknown.Add(1)
		return false
	case from != r.chaddr:
		s.count.spoofed.Add(1)
		s.log.warn("dhcp: a machine speaks in another's name", "bridge", b.def.Name, "from", from, "for", r.chaddr, "tap", p.tap.Name)
		return false
	}
	if p.tooMuch(r.second) {
		s.count.dropped.Add(1)
		return false
	}
	a.port = p
	if !s.decide(b, p, r, a) {
		s.count.ignored.Add(1)
		return false
	}
	return true
}

// decide is RFC 2131 §4.3, for a client whose one address is known.
func (s *Server) decide(b *bridge, p *port, r *request, a *answer) bool {
	none := [4]byte{}
	if r.hasServer && r.server != b.server {
		return false // the client chose another server, or speaks to it
	}
	switch r.kind {
	case discover:
		s.count.discovers.Add(1)
		s.count.offers.Add(1)
		b.reply(p, r, offer, a)
		return true

	case ask:
		s.count.requests.Add(1)
		// SELECTING and INIT-REBOOT bring the address as an option, RENEWING and REBINDING as their own.
		want := r.ciaddr
		if r.hasRequested {
			want = r.requested
		}
		switch {
		case want == none:
			return false
		case want != p.addr || r.ciaddr != none && r.ciaddr != p.addr:
			s.count.naks.Add(1)
			b.reply(p, r, nak, a)
			return true
		}
		b.reply(p, r, ack, a)
		a.change, a.lasts = granted, b.lease.Milliseconds()
		return true

	case decline:
		s.count.declines.Add(1)
		if !r.hasServer || r.requested != p.addr {
			return false
		}
		s.log.warn("dhcp: a client says that its address is in use", "bridge", b.def.Name, "tap", p.tap.Name, "mac", p.mac, "address", p.tap.IPs)
		a.change = givenUp // the lease; the address is the port's all the same
		return true

	case release:
		s.count.releases.Add(1)
		if !r.hasServer || r.ciaddr != p.addr {
			return false
		}
		a.change = givenUp
		return true

	case inform:
		s.count.informs.Add(1)
		if r.ciaddr != p.addr {
			return false // the answer would go to somebody else
		}
		s.count.acks.Add(1)
		b.reply(p, r, inform, a)
		return true
	}
	return false
}

// reply writes the answer of this kind; inform is the ACK to one.
func (b *bridge) reply(p *port, r *request, kind byte, a *answer) {
	packet := a.packet[:]
	m := packet[ipHeader+udpHeader:]
	clear(m[:bootpHeader])
	m[0], m[1], m[2] = 2, 1, 6
	copy(m[4:], r.xid[:])
	if r.broadcast {
		m[10] = 0x80
	}
	copy(m[28:], r.chaddr[:])
	binary.BigEndian.PutUint32(m[bootpHeader:], cookie)

	o := options{message: m, at: bootpHeader + 4, limit: min(r.maxSize, b.largest) - ipHeader - udpHeader}
	said := kind
	if kind == inform {
		said = ack
	}
	o.add([]byte{optKind, 1, said})
	o.add(b.identify)
	dst, everyone := p.addr, r.broadcast && r.ciaddr == [4]byte{}
	switch kind {
	case nak:
		everyone = true
		o.add(option(make([]byte, 0, 64), optMessage, []byte("address is not this client's")))
	case offer:
		copy(m[16:], p.addr[:])
		o.add(b.required)
	case ack:
		copy(m[12:], r.ciaddr[:])
		copy(m[16:], p.addr[:])
		o.add(b.required)
	case inform:
		copy(m[12:], r.ciaddr[:])
		everyone = false
	}
	if len(r.clientID) > 0 { // RFC 6842
		o.add([]byte{optClientID, byte(len(r.clientID))}, r.clientID)
	}
	if kind != nak {
		b.parameters(p, r, kind, &o)
	}
	a.length = ipHeader + udpHeader + o.end()
	a.dst = p.mac
	if everyone {
		a.dst = hardware{255, 255, 255, 255, 255, 255}
		dst = [4]byte{255, 255, 255, 255}
	}
	envelope(packet[:a.length], b.server, dst)
}

// parameters writes what the client asked for, in its order, or what is good for one that did not say.
func (b *bridge) parameters(p *port, r *request, kind byte, o *options) {
	if len(r.parameters) == 0 {
		if kind == inform {
			o.add(b.optional[optMask])
		}
		for _, code := range b.standard {
			o.add(b.value(p, code))
		}
		return
	}
	routes := r.asksFor(optRoutes) && b.optional[optRoutes] != nil
	var done [256]bool
	done[optMask] = kind != inform // it is there already
	for _, code := range r.parameters {
		if done[code] || code == optRouter && routes { // RFC 3442: not both
			continue
		}
		done[code] = true
		o.add(b.value(p, int(code)))
	}
}

func (b *bridge) value(p *port, code int) []byte {
	if code == optHostname {
		return p.hostname
	}
	return b.optional[code]
}

// envelope writes the IP and UDP headers around a message, with their checksums.
func envelope(packet []byte, src, dst [4]byte) {
	clear(packet[:ipHeader+udpHeader])
	packet[0] = 4<<4 | ipHeader/4
	packet[1] = 0x10 // low delay
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	packet[6] = 0x40 // don't fragment, so that the identification may be 0 (RFC 6864 §4)
	packet[8] = 64
	packet[9] = 17
	copy(packet[12:], src[:])
	copy(packet[16:], dst[:])
	binary.BigEndian.PutUint16(packet[10:], checksum(packet[:ipHeader], 0))

	udp := packet[ipHeader:]
	binary.BigEndian.PutUint16(udp, serverPort)
	binary.BigEndian.PutUint16(udp[2:], clientPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	pseudo := uint64(17) + uint64(len(udp)) + uint64(binary.BigEndian.Uint32(src[:])) + uint64(binary.BigEndian.Uint32(dst[:]))
	sum := checksum(udp, pseudo)
	if sum == 0 {
		sum = 0xffff // 0 would mean that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
}
