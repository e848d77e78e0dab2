package inspect

import (
	"encoding/binary"
	"io"
)

// checkTables holds the places and lengths of the L1 and the refcount table to the file and to QEMU's limits. It is
// called when cluster bits and virtual size are known to be in range, so that nothing below overflows.
func (h qcow2) checkTables(size int64) error {
	cluster, file := h.clusterBytes(), uint64(size)
	l1Bytes := uint64(h.l1Entries) * 8
	refBytes := uint64(h.refcountClusters) * cluster
	switch {
	case l1Bytes > maxL1Bytes:
		return damaged("its L1 table has %d bytes, over %d", l1Bytes, maxL1Bytes)
	case uint64(h.l1Entries) < h.l1Needed():
		return damaged("its L1 table has %d entries, a disk of %d bytes needs %d", h.l1Entries, h.virtual, h.l1Needed())
	case refBytes == 0:
		return damaged("it has no refcount table")
	case refBytes > maxRefcountTableSize:
		return damaged("its refcount table has %d bytes, over %d", refBytes, maxRefcountTableSize)
	case !inside(h.l1Off, l1Bytes, cluster, file):
		return damaged("its L1 table (%d bytes at %d) is not on a cluster inside the file of %d bytes", l1Bytes, h.l1Off, file)
	case !inside(h.refcountOff, refBytes, cluster, file):
		return damaged("its refcount table (%d bytes at %d) is not on a cluster inside the file of %d bytes", refBytes,
			h.refcountOff, file)
	case h.l1Off < h.refcountOff+refBytes && h.refcountOff < h.l1Off+l1Bytes:
		return damaged("its L1 table and its refcount table overlap")
	}
	return nil
}

// l1Needed is the number of L1 entries that span the disk: each is one L2 table, which is one cluster of entries for
// one cluster each.
func (h qcow2) l1Needed() uint64 {
	entry := uint64(8)
	if h.has(incompatExtendedL2) {
		entry = 16
	}
	span := h.clusterBytes() * (h.clusterBytes() / entry)
	return (h.virtual + span - 1) / span
}

// inside tells whether n bytes at off begin on a cluster after the header's and end within the file.
func inside(off, n, cluster, file uint64) bool {
	return off >= cluster && off%cluster == 0 && off <= file && n <= file-off
}

// An L1 entry: bits 9 to 55 are the offset of an L2 table, bit 63 says that nothing else uses it, the rest is reserved.
const (
	l1OffsetMask   = 1<<56 - 1<<9
	l1ReservedMask = 1<<63 - 1 - l1OffsetMask
)

// checkL1 reads the L1 table, at most 32 MiB and in pieces, and refuses L2 tables outside the file: that is how an
// upload that was cut short shows. What stands in the L2 tables can harm only the image itself and is left to QEMU.
func (h qcow2) checkL1(r io.ReaderAt, size int64) error {
	const piece = 64 << 10
	left := int(h.l1Entries) * 8
	for off := int64(h.l1Off); left > 0; off += piece {
		buf, err := readUpTo(r, off, min(left, piece))
		if err != nil {
			return err
		}
		if len(buf) < min(left, piece) {
			return damaged("it ends inside its L1 table")
		}
		for i := 0; i < len(buf); i += 8 {
			entry := binary.BigEndian.Uint64(buf[i:])
			table := entry & l1OffsetMask
			if entry&l1ReservedMask != 0 || table != 0 && !inside(table, h.clusterBytes(), h.clusterBytes(), uint64(size)) {
				return damaged("its L1 table points outside the file of %d bytes", size)
			}
		}
		left -= len(buf)
	}
	return nil
}
