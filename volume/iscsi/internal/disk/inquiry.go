package disk

import (
	"encoding/binary"
)

// inquiry answers INQUIRY: gotgt's answer, with what it does not say of this unit.
func (u *Unit) inquiry(cdb []byte) ([]byte, *Failure) {
	if cdb[1]&1 == 0 {
		b, f := u.ask([]byte{opInquiry, 0, cdb[2], answerSize >> 8, answerSize & 0xff, 0})
		if f != nil {
			return nil, f
		}
		b[5] &^= 0x30 // there are no groups of ports
		return b[:5+int(b[4])], nil
	}
	page := cdb[2]
	vital := func(data []byte) []byte {
		return append([]byte{0, page, byte(len(data) >> 8), byte(len(data))}, data...)
	}
	switch page {
	case 0x00:
		return vital([]byte{0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2}), nil
	case 0x80:
		return vital([]byte(u.id)), nil
	case 0xb1: // nothing turns
		data := make([]byte, 60)
		data[1] = 1
		return vital(data), nil
	case 0x83, 0xb0, 0xb2:
	default:
		return nil, invalidField()
	}
	b, f := u.ask([]byte{opInquiry, 1, page, answerSize >> 8, answerSize & 0xff, 0})
	if f != nil {
		return nil, f
	}
	b = b[:4+int(binary.BigEndian.Uint16(b[2:]))]
	switch page {
	case 0xb0:
		b[5] = maxCompare
		binary.BigEndian.PutUint16(b[6:], 8) // blocks are best used by 4 KiB
		binary.BigEndian.PutUint32(b[8:], MaxTransfer/BlockSize)
		binary.BigEndian.PutUint32(b[12:], 1<<20/BlockSize)
		binary.BigEndian.PutUint32(b[24:], maxUnmap)
		binary.BigEndian.PutUint32(b[28:], 8)
		b[32] = 0x80 // the granularity counts from block 0
		binary.BigEndian.PutUint64(b[36:], maxWriteSame)
	case 0xb2:
		b[5] |= 0x64 // WRITE SAME unmaps too, and what is unmapped reads as zeros
		b[6] = 2     // provisioned as needed
	}
	return b, nil
}

// Absent does a command for a unit that is not there, or for none, with the numbers of those that are.
func Absent(cdb []byte, units []uint64) ([]byte, *Failure) {
	switch cdb[0] {
	case opInquiry:
		if cdb[1]&1 != 0 || cdb[2] != 0 {
			return nil, invalidField()
		}
		b := make([]byte, 36)
		b[0], b[2], b[3], b[4] = 0x7f, 5, 2, 31
		copy(b[8:], "DEWPOINTVOLUME          1   ")
		return b[:min(len(b), allocation(cdb))], nil
	case opReportLUNs:
		return ReportLUNs(cdb, units)
	case opRequestSense:
		b := NoUnit().Sense(cdb[1]&1 != 0)
		return b[:min(len(b), allocation(cdb))], nil
	}
	return nil, NoUnit()
}

// ReportLUNs answers REPORT LUNS.
func ReportLUNs(cdb []byte, units []uint64) ([]byte, *Failure) {
	if allocation(cdb) < 16 || cdb[2] > 2 {
		return nil, invalidField()
	}
	if cdb[2] == 1 { // well known units; there are none
		units = nil
	}
	b := make([]byte, 8)
	binary.BigEndian.PutUint32(b, uint32(len(units)*8))
	for _, unit := range units {
		b = binary.BigEndian.AppendUint64(b, EncodeLUN(unit))
	}
	return b[:min(len(b), allocation(cdb))], nil
}

// IsReportLUNs tells whether a command is REPORT LUNS, which is of a target and not of a unit.
func IsReportLUNs(cdb []byte) bool { return cdb[0] == opReportLUNs }

// Mismatched tells whether a command that came with n bytes of data says that it has none, though its count may just have been too
// large for its byte: COMPARE AND WRITE of 256 blocks.
func Mismatched(cdb []byte, n int) bool { return cdb[0] == opCompareAndWrite && cdb[13] == 0 && n > 0 }

// EncodeLUN is the form of SAM-5 for a number below 16,384: one byte where that is enough, else flat space.
func EncodeLUN(n uint64) uint64 {
	if n < 256 {
		return n << 48
	}
	return 1<<62 | n<<48
}

// DecodeLUN undoes it, taking both forms for small numbers, SAM-5 section 4.7. A form with more levels names no unit.
func DecodeLUN(v uint64) (n uint64, ok bool) {
	if v<<16 != 0 {
		return 0, false
	}
	switch v >> 62 {
	case 0:
		return v >> 48, v>>48 < 256 // a bus that is not 0 leads nowhere
	case 1:
		return v >> 48 & 0x3fff, true
	}
	return 0, false
}
