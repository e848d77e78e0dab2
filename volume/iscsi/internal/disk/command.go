package disk

import (
	"encoding/binary"
)

// Operation codes that a unit knows.
const (
	opTestUnitReady   = 0x00
	opRequestSense    = 0x03
	opRead6           = 0x08
	opWrite6          = 0x0a
	opInquiry         = 0x12
	opModeSelect6     = 0x15
	opReserve6        = 0x16
	opRelease6        = 0x17
	opModeSense6      = 0x1a
	opStartStop       = 0x1b
	opSendDiagnostic  = 0x1d
	opReadCapacity10  = 0x25
	opRead10          = 0x28
	opWrite10         = 0x2a
	opWriteVerify10   = 0x2e
	opVerify10        = 0x2f
	opPrefetch10      = 0x34
	opSync10          = 0x35
	opWriteSame10     = 0x41
	opUnmap           = 0x42
	opModeSelect10    = 0x55
	opReserve10       = 0x56
	opRelease10       = 0x57
	opModeSense10     = 0x5a
	opReserveIn       = 0x5e
	opReserveOut      = 0x5f
	opRead16          = 0x88
	opCompareAndWrite = 0x89
	opWrite16         = 0x8a
	opOrWrite16       = 0x8b
	opWriteVerify16   = 0x8e
	opVerify16        = 0x8f
	opPrefetch16      = 0x90
	opSync16          = 0x91
	opWriteSame16     = 0x93
	opServiceIn16     = 0x9e
	opReportLUNs      = 0xa0
	opMaintenanceIn   = 0xa3
	opRead12          = 0xa8
	opWrite12         = 0xaa
	opWriteVerify12   = 0xae
	opVerify12        = 0xaf
)

// access is how a command meets the reservation of another.
type access byte

const (
	never  access = iota // it is never refused
	reads                // refused where others may not read
	writes               // refused where others may not write
)

// command is one line of what a unit knows; REPORT SUPPORTED OPERATION CODES tells it.
type command struct {
	op     byte
	action int // the service action; -1: it has none
	access access
	usage  []byte // which bits of the descriptor block matter; its length is the command's
}

// known is all commands. Bits of the group number and the control byte are not used.
var known = []command{
	{opTestUnitReady, -1, never, []byte{0x00, 0, 0, 0, 0, 0}},
	{opRequestSense, -1, never, []byte{0x03, 1, 0, 0, 0xff, 0}},
	{opRead6, -1, reads, []byte{0x08, 0x1f, 0xff, 0xff, 0xff, 0}},
	{opWrite6, -1, writes, []byte{0x0a, 0x1f, 0xff, 0xff, 0xff, 0}},
	{opInquiry, -1, never, []byte{0x12, 1, 0xff, 0xff, 0xff, 0}},
	{opModeSelect6, -1, writes, []byte{0x15, 0x11, 0, 0, 0xff, 0}},
	{opReserve6, -1, never, []byte{0x16, 0, 0, 0, 0, 0}},
	{opRelease6, -1, never, []byte{0x17, 0, 0, 0, 0, 0}},
	{opModeSense6, -1, writes, []byte{0x1a, 8, 0xff, 0xff, 0xff, 0}},
	{opStartStop, -1, writes, []byte{0x1b, 1, 0, 0xf, 0xf7, 0}},
	{opSendDiagnostic, -1, writes, []byte{0x1d, 4, 0, 0, 0, 0}},
	{opReadCapacity10, -1, never, []byte{0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	{opRead10, -1, reads, []byte{0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0}},
	{opWrite10, -1, writes, []byte{0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0}},
	{opWriteVerify10, -1, writes, []byte{0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0}},
	{opVerify10, -1, reads, []byte{0x2f, 0x12, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0}},
	{opPrefetch10, -1, reads, []byte{0x34, 2, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0}},
	{opSync10, -1, writes, []byte{0x35, 2, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0}},
	{opWriteSame10, -1, writes, []byte{0x41, 8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0}},
	{opUnmap, -1, writes, []byte{0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
	{opModeSelect10, -1, writes, []byte{0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
	{opReserve10, -1, never, []byte{0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	{opRelease10, -1, never, []byte{0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	{opModeSense10, -1, writes, []byte{0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0}},
	{opReserveIn, inReadKeys, never, []byte{0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
	{opReserveIn, inReadReservation, never, []byte{0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
	{opReserveIn, inCapabilities, never, []byte{0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
	{opReserveIn, inFullStatus, never, []byte{0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0}},
	{opReserveOut, outRegister, never, []byte{0x5f, 0x1f, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}},
	{opReserveOut, outReserve, never, []byte{0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}},
	{opReserveOut, outRelease, never, []byte{0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}},
	{opReserveOut, outClear, never, []byte{0x5f, 0x1f, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}},
	{opReserveOut, outPreempt, never, []byte{0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}},
	{opReserveOut, outPreemptAbort, never, []byte{0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}},
	{opReserveOut, outRegisterIgnore, never, []byte{0x5f, 0x1f, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}},
	{opRead16, -1, reads, []byte{0x88, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opCompareAndWrite, -1, writes, []byte{0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0, 0}},
	{opWrite16, -1, writes, []byte{0x8a, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opOrWrite16, -1, writes, []byte{0x8b, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opWriteVerify16, -1, writes, []byte{0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opVerify16, -1, reads, []byte{0x8f, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opPrefetch16, -1, reads, []byte{0x90, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opSync16, -1, writes, []byte{0x91, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opWriteSame16, -1, writes, []byte{0x93, 9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opServiceIn16, 0x10, never, []byte{0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opServiceIn16, 0x12, reads, []byte{0x9e, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opReportLUNs, -1, never, []byte{0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opMaintenanceIn, 0x0c, never, []byte{0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opRead12, -1, reads, []byte{0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opWrite12, -1, writes, []byte{0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opWriteVerify12, -1, writes, []byte{0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
	{opVerify12, -1, reads, []byte{0xaf, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}},
}

// find returns the line of a command; with service actions, of the one that the block names.
func find(cdb []byte) (*command, bool) {
	seen := false
	for i := range known {
		c := &known[i]
		if c.op != cdb[0] {
			continue
		}
		if c.action < 0 || c.action == int(cdb[1]&0x1f) {
			return c, true
		}
		seen = true
	}
	return nil, seen
}

// extent is what blocks a command names.
func extent(cdb []byte) (lba, blocks uint64) {
	switch cdb[0] {
	case opRead6, opWrite6:
		lba = uint64(cdb[1]&0x1f)<<16 | uint64(cdb[2])<<8 | uint64(cdb[3])
		blocks = uint64(cdb[4])
		if blocks == 0 {
			blocks = 256
		}
	case opCompareAndWrite:
		lba, blocks = binary.BigEndian.Uint64(cdb[2:]), uint64(cdb[13])
	default:
		switch cdb[0] >> 5 {
		case 1, 2:
			lba, blocks = uint64(binary.BigEndian.Uint32(cdb[2:])), uint64(binary.BigEndian.Uint16(cdb[7:]))
		case 4:
			lba, blocks = binary.BigEndian.Uint64(cdb[2:]), uint64(binary.BigEndian.Uint32(cdb[10:]))
		case 5:
			lba, blocks = uint64(binary.BigEndian.Uint32(cdb[2:])), uint64(binary.BigEndian.Uint32(cdb[6:]))
		}
	}
	return lba, blocks
}

// supported answers REPORT SUPPORTED OPERATION CODES.
func supported(cdb []byte) ([]byte, *Failure) {
	timeouts := cdb[2]&0x80 != 0
	timeout := []byte{0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	op, action := cdb[3], int(binary.BigEndian.Uint16(cdb[4:]))
	switch cdb[2] & 7 {
	case 0:
		b := make([]byte, 4, 1024)
		for _, c := range known {
			line := []byte{c.op, 0, 0, 0, 0, 0, 0, byte(len(c.usage))}
			if c.action >= 0 {
				line[3], line[5] = byte(c.action), 1
			}
			if timeouts {
				line[5] |= 2
				line = append(line, timeout...)
			}
			b = append(b, line...)
		}
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		return b, nil
	case 1, 2, 3:
		var found *command
		for i, c := range known {
			if c.op != op {
				continue
			}
			switch {
			case cdb[2]&7 == 1 && c.action >= 0, cdb[2]&7 == 2 && c.action < 0:
				return nil, invalidField()
			case c.action < 0 && action == 0, c.action < 0 && cdb[2]&7 == 1, c.action >= 0 && c.action == action:
				found = &known[i]
			}
		}
		if found == nil {
			return []byte{0, 1, 0, 0}, nil
		}
		b := append([]byte{0, 3, 0, byte(len(found.usage))}, found.usage...)
		if timeouts {
			b[1] |= 0x80
			b = append(b, timeout...)
		}
		return b, nil
	}
	return nil, invalidField()
}
