package pdu

import (
	"encoding/binary"
)

// Additional is what the additional headers of a command say, RFC 7143 section 11.2.2.
type Additional struct {
	CDB        []byte // what follows the first 16 bytes of the command descriptor block
	ReadLength uint32 // the expected length of the read part of a bidirectional command
	HasRead    bool
}

// Additional parses what was additional to the last header.
func (r *Reader) Additional() (Additional, error) { return parseAdditional(r.ahs) }

func parseAdditional(b []byte) (a Additional, err error) {
	for len(b) > 0 {
		if len(b) < 4 {
			return a, ErrMalformed
		}
		n := int(binary.BigEndian.Uint16(b)) // of what follows the first three bytes
		whole := 3 + n + Pad(3+n)
		if n < 1 || whole > len(b) {
			return a, ErrMalformed
		}
		switch b[2] {
		case 1:
			if a.CDB != nil || n < 2 {
				return a, ErrMalformed
			}
			a.CDB = b[4 : 3+n]
		case 2:
			if a.HasRead || n != 5 {
				return a, ErrMalformed
			}
			a.HasRead, a.ReadLength = true, binary.BigEndian.Uint32(b[4:])
		default:
			return a, ErrMalformed
		}
		b = b[whole:]
	}
	return a, nil
}
