package bolt

import (
	"encoding/binary"
	"hash/crc64"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// version is the file's format.
const version = 1

// Names in the file.
const (
	aboutBucket = "about"
	rowsBucket  = "rows"
	formatKey   = "format"
	headKey     = "head"
)

const (
	sumSize = 8           // a checksum, before anything
	rowHead = sumSize + 8 // checksum and revision, before a row's value
)

// head is what is known about all rows.
type head struct {
	rev   state.Revision
	count uint64 // of rows
	total uint64 // their checksums added up, modulo 2^64
}

// add and drop keep the head up to date with the rows.
func (h *head) add(row []byte)  { h.count++; h.total += binary.BigEndian.Uint64(row) }
func (h *head) drop(row []byte) { h.count--; h.total -= binary.BigEndian.Uint64(row) }

func (h head) encode(table *crc64.Table) []byte {
	b := make([]byte, sumSize, sumSize+24)
	b = binary.BigEndian.AppendUint64(b, uint64(h.rev))
	b = binary.BigEndian.AppendUint64(b, h.count)
	b = binary.BigEndian.AppendUint64(b, h.total)
	return seal(table, headKey, b)
}

func decodeHead(b []byte) head {
	return head{rev: state.Revision(binary.BigEndian.Uint64(b[8:])), count: binary.BigEndian.Uint64(b[16:]), total: binary.BigEndian.Uint64(b[24:])}
}

func encodeFormat(table *crc64.Table, version uint32) []byte {
	return seal(table, formatKey, binary.BigEndian.AppendUint32(make([]byte, sumSize), version))
}

func encodeRow(table *crc64.Table, key string, rev state.Revision, value []byte) []byte {
	b := make([]byte, rowHead, rowHead+len(value))
	binary.BigEndian.PutUint64(b[sumSize:], uint64(rev))
	return seal(table, key, append(b, value...))
}

func rowRev(row []byte) state.Revision {
	if len(row) < rowHead {
		return 0 // no such row
	}
	return state.Revision(binary.BigEndian.Uint64(row[sumSize:]))
}

// seal puts the checksum of what is stored under key into its first bytes.
func seal(table *crc64.Table, key string, b []byte) []byte {
	binary.BigEndian.PutUint64(b, checksum(table, []byte(key), b[sumSize:]))
	return b
}

// intact tells whether what is stored under key is what was sealed.
func intact(table *crc64.Table, key, b []byte) bool {
	return len(b) >= sumSize && binary.BigEndian.Uint64(b) == checksum(table, key, b[sumSize:])
}

// checksum is a CRC that has been mixed: plain CRCs are linear, so that errors in several rows could cancel each other out in a
// sum. The mixing is the finaliser of SplitMix64.
func checksum(table *crc64.Table, key, b []byte) uint64 {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(key)))
	z := crc64.Update(crc64.Update(crc64.Update(0, table, n[:]), table, key), table, b)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
