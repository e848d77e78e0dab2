package dhcp

import (
	"encoding/binary"
	"hash/crc32"
)

// lease is what the journal keeps of a lease.
type lease struct {
	tap          string
	mac          hardware
	addr         [4]byte
	since, until int64 // milliseconds since 1970
}

// of tells whether the lease is of this port as it is now.
func (l lease) of(p *port) bool { return l.mac == p.mac && p.known && l.addr == p.addr }

// A record of the journal: always as long, so that what follows a damaged one can be found.
const (
	recordSize = 64 // divides a disk's sector, so that no record is written in two parts
	maxTap     = 15 // a name of an interface
)

// The kinds of record.
const (
	recordNone  = iota // nothing was written here
	recordLease        // the tap's lease from now on
	recordEnd          // the tap has none any more
)

// record is a lease in a batch that was written at once, which began at slot first.
type record struct {
	kind  byte
	lease lease
	first uint32
}

// put writes the record. Its checksum comes last, and is never that of zeros.
func (r record) put(b []byte) {
	b = b[:recordSize]
	clear(b)
	b[0], b[1] = r.kind, byte(len(r.lease.tap))
	copy(b[2:17], r.lease.tap)
	copy(b[17:], r.lease.mac[:])
	copy(b[23:], r.lease.addr[:])
	binary.BigEndian.PutUint64(b[27:], uint64(r.lease.since))
	binary.BigEndian.PutUint64(b[35:], uint64(r.lease.until))
	binary.BigEndian.PutUint32(b[43:], r.first)
	binary.BigEndian.PutUint32(b[60:], crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)))
}

// getRecord reads a record; ok is false for one that was never whole.
func getRecord(b []byte) (r record, ok bool) {
	b = b[:recordSize]
	if binary.BigEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)) ||
		b[0] != recordLease && b[0] != recordEnd || b[1] == 0 || b[1] > maxTap {
		return record{}, false
	}
	return record{kind: b[0], first: binary.BigEndian.Uint32(b[43:]), lease: lease{
		tap: string(b[2 : 2+b[1]]), mac: hardware(b[17:]), addr: [4]byte(b[23:]),
		since: int64(binary.BigEndian.Uint64(b[27:])), until: int64(binary.BigEndian.Uint64(b[35:])),
	}}, true
}
