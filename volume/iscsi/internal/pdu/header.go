package pdu

import (
	"encoding/binary"
)

// HeaderSize is the length of the basic header segment.
const HeaderSize = 48

// Opcodes of an initiator, and after them those of a target, RFC 7143 section 11.2.1.2.
const (
	NOPOut       = 0x00
	SCSICommand  = 0x01
	TaskRequest  = 0x02
	LoginRequest = 0x03
	TextRequest  = 0x04
	DataOut      = 0x05
	Logout       = 0x06
	SNACK        = 0x10

	NOPIn         = 0x20
	SCSIResponse  = 0x21
	TaskResponse  = 0x22
	LoginResponse = 0x23
	TextResponse  = 0x24
	DataIn        = 0x25
	LogoutReply   = 0x26
	R2T           = 0x31
	Async         = 0x32
	Reject        = 0x3f
)

// NoTag is the reserved value of task tags.
const NoTag = 0xffffffff

// Flags in the second byte.
const (
	Final    = 0x80 // of all; in a login: transit
	Continue = 0x40 // of a login and of text

	Read  = 0x40 // of a command
	Write = 0x20

	Underflow = 0x02 // of a response or of Data-In
	Overflow  = 0x04
	ReadUnder = 0x08 // of a response, for the read part of a bidirectional command
	ReadOver  = 0x10
	Status    = 0x01 // of Data-In: it carries the status
)

// Header is a basic header segment.
type Header [HeaderSize]byte

// Opcode is what the unit is.
func (h *Header) Opcode() byte { return h[0] & 0x3f }

// Immediate tells whether the unit is outside the order of commands.
func (h *Header) Immediate() bool { return h[0]&0x40 != 0 }

// Flags is the second byte.
func (h *Header) Flags() byte { return h[1] }

// AHSLen is the length of the additional headers in bytes.
func (h *Header) AHSLen() int { return int(h[4]) * 4 }

// DataLen is the length of the data without its padding.
func (h *Header) DataLen() int { return int(h[5])<<16 | int(h[6])<<8 | int(h[7]) }

// SetDataLen sets it.
func (h *Header) SetDataLen(n int) { h[5], h[6], h[7] = byte(n>>16), byte(n>>8), byte(n) }

// LUN is the logical unit number as SCSI has it, 8 bytes.
func (h *Header) LUN() uint64 { return binary.BigEndian.Uint64(h[8:]) }

// SetLUN sets it.
func (h *Header) SetLUN(lun uint64) { binary.BigEndian.PutUint64(h[8:], lun) }

// Tag is the initiator task tag.
func (h *Header) Tag() uint32 { return h.Word(16) }

// Word is the 4 bytes at an offset.
func (h *Header) Word(at int) uint32 { return binary.BigEndian.Uint32(h[at:]) }

// SetWord sets 4 bytes at an offset.
func (h *Header) SetWord(at int, v uint32) { binary.BigEndian.PutUint32(h[at:], v) }

// Half is the 2 bytes at an offset.
func (h *Header) Half(at int) uint16 { return binary.BigEndian.Uint16(h[at:]) }

// SetHalf sets 2 bytes at an offset.
func (h *Header) SetHalf(at int, v uint16) { binary.BigEndian.PutUint16(h[at:], v) }

// Offsets of words that several units have.
const (
	AtTag       = 16
	AtTransfer  = 20 // target transfer tag; of a command the expected length
	AtCmdSN     = 24 // of an initiator
	AtExpStatSN = 28 // of an initiator
	AtStatSN    = 24 // of a target
	AtExpCmdSN  = 28 // of a target
	AtMaxCmdSN  = 32 // of a target
	AtDataSN    = 36
	AtOffset    = 40
	AtResidual  = 44
)

// Pad is how many bytes of padding follow n bytes.
func Pad(n int) int { return -n & 3 }
