package dhcp

import (
	"bytes"
	"encoding/binary"
)

// Lengths and places in a packet.
const (
	ipHeader    = 20
	udpHeader   = 8
	bootpHeader = 236
	minBOOTP    = 300  // RFC 1542 §2.1
	minMessage  = 576  // what every client takes, with its IP header (RFC 2131 §2)
	maxReply    = 1500 // the longest we send, whatever a client takes
	serverPort  = 67
	clientPort  = 68
	maxAreas    = 1500 // bytes of options we look at
)

// The kinds of message (RFC 2132 §9.6).
const (
	discover = 1 + iota
	offer
	ask // REQUEST, as the type below has that name
	decline
	ack
	nak
	release
	inform
)

const cookie = 0x63825363 // RFC 2131 §3

// request is what a client sent. Its slices are valid until the next parse.
type request struct {
	second int64 // when it came; set by the caller

	to        [4]byte // IP destination
	kind      byte
	xid       [4]byte
	broadcast bool // the client wants its answer broadcast
	ciaddr    [4]byte
	chaddr    hardware

	requested, server       [4]byte
	hasRequested, hasServer bool
	maxSize                 int
	parameters, clientID    []byte

	buf [2][maxOption]byte // of parameters and clientID
}

// parse reads an IP packet, and tells whether it is a whole and correct message of a client to a server that came without a
// relay. It allocates nothing. The checksum of UDP is not looked at: a packet that never left this node may
// carry one that no card has filled in yet.
func (r *request) parse(packet []byte) bool {
	if len(packet) < ipHeader+udpHeader || packet[0]>>4 != 4 {
		return false
	}
	header := int(packet[0]&15) * 4
	total := int(binary.BigEndian.Uint16(packet[2:]))
	switch {
	case header < ipHeader || total < header+udpHeader || total > len(packet),
		binary.BigEndian.Uint16(packet[6:])&0x3fff != 0, // a fragment
		packet[9] != 17,
		checksum(packet[:header], 0) != 0:
		return false
	}
	udp := packet[header:total]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != serverPort || length < udpHeader+bootpHeader+4 || length > len(udp) {
		return false
	}
	m := udp[udpHeader:length]
	if m[0] != 1 || m[1] != 1 || m[2] != 6 || // from a client, Ethernet, with addresses of 6 bytes
		binary.BigEndian.Uint32(m[24:]) != 0 || // giaddr: a relay's
		binary.BigEndian.Uint32(m[bootpHeader:]) != cookie {
		return false
	}
	r.to = [4]byte(packet[16:])
	r.xid = [4]byte(m[4:])
	r.broadcast = m[10]&0x80 != 0
	r.ciaddr = [4]byte(m[12:])
	r.chaddr = hardware(m[28:])
	r.kind, r.maxSize = 0, minMessage
	r.hasRequested, r.hasServer = false, false
	r.parameters, r.clientID = r.buf[0][:0], r.buf[1][:0]

	overload, ok := r.options(m[bootpHeader+4:], true)
	if !ok {
		return false
	}
	if overload&1 != 0 {
		if again, ok := r.options(m[fileOffset:fileOffset+fileLength], false); !ok || again != 0 {
			return false
		}
	}
	if overload&2 != 0 {
		if again, ok := r.options(m[nameOffset:nameOffset+nameLength], false); !ok || again != 0 {
			return false
		}
	}
	return r.kind >= discover && r.kind <= inform
}

// options reads one field of options. The one that the cookie begins must have its end marked.
func (r *request) options(area []byte, needEnd bool) (overload byte, ok bool) {
	if len(area) > maxAreas {
		return 0, false
	}
	for len(area) > 0 {
		code := area[0]
		if code == optPad {
			area = area[1:]
			continue
		}
		if code == optEnd {
			return overload, true
		}
		if len(area) < 2 || len(area) < 2+int(area[1]) {
			return 0, false
		}
		value := area[2 : 2+int(area[1])]
		area = area[2+len(value):]
		switch code {
		case optKind:
			if len(value) != 1 || r.kind != 0 {
				return 0, false
			}
			r.kind = value[0]
		case optRequested:
			if len(value) != 4 || r.hasRequested {
				return 0, false
			}
			r.requested, r.hasRequested = [4]byte(value), true
		case optServerID:
			if len(value) != 4 || r.hasServer {
				return 0, false
			}
			r.server, r.hasServer = [4]byte(value), true
		case optMaxSize:
			if len(value) != 2 {
				return 0, false
			}
			r.maxSize = max(minMessage, int(binary.BigEndian.Uint16(value)))
		case optOverload:
			if len(value) != 1 || value[0] < 1 || value[0] > 3 || overload != 0 {
				return 0, false
			}
			overload = value[0]
		case optParameters: // in pieces, if it is long (RFC 3396)
			if len(r.parameters)+len(value) > maxOption {
				return 0, false
			}
			r.parameters = append(r.parameters, value...)
		case optClientID:
			if len(r.clientID)+len(value) > maxOption {
				return 0, false
			}
			r.clientID = append(r.clientID, value...)
		case optRelay: // no relay told its own address, so this is a guest's invention (RFC 3046 §2.1)
			return 0, false
		}
	}
	return overload, !needEnd
}

// asksFor tells whether the client's list of parameters has code.
func (r *request) asksFor(code byte) bool { return bytes.IndexByte(r.parameters, code) >= 0 }

// checksum is the Internet checksum of b (RFC 1071), with sum added to it. Over data that holds its checksum it is zero.
func checksum(b []byte, sum uint64) uint16 {
	for len(b) >= 4 {
		sum += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
