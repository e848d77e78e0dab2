package dhcp

import "encoding/binary"

// clientMessage is what a client of a test sends.
type clientMessage struct {
	src, dst  [4]byte // dst: 255.255.255.255 when zero
	xid       uint32
	mac       hardware
	broadcast bool
	ciaddr    [4]byte
	options   []byte // with its end
}

// appendMessage appends the message as an IP packet.
func appendMessage(to []byte, m clientMessage) []byte {
	start := len(to)
	to = append(to, make([]byte, ipHeader+udpHeader+bootpHeader)...)
	b := to[start+ipHeader+udpHeader:]
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], m.xid)
	if m.broadcast {
		b[10] = 0x80
	}
	copy(b[12:], m.ciaddr[:])
	copy(b[28:], m.mac[:])
	to = binary.BigEndian.AppendUint32(to, cookie)
	to = append(to, m.options...)
	for len(to)-start < ipHeader+udpHeader+minBOOTP {
		to = append(to, 0)
	}
	if m.dst == [4]byte{} {
		m.dst = [4]byte{255, 255, 255, 255}
	}
	p := to[start:]
	envelope(p, m.src, m.dst)
	udp := p[ipHeader:]
	binary.BigEndian.PutUint16(udp, clientPort)
	binary.BigEndian.PutUint16(udp[2:], serverPort) // the sum stays as it was
	return to
}
