package inspect

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Where things stand in a qcow2 header (docs/interop/qcow2.txt, "Header"), and QEMU's own limits on them.
const (
	headerLenV2 = 72
	headerLenV3 = 104

	minClusterBits       = 9
	maxClusterBits       = 21
	minClusterBitsExtL2  = 14
	maxRefcountOrder     = 6
	maxL1Bytes           = 32 << 20
	maxRefcountTableSize = 8 << 20
)

// Incompatible features: a reader that does not know a bit must not open the image.
const (
	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4
	incompatKnown       = 1<<5 - 1
)

// Features that a reader may not know: those that matter here.
const (
	autoclearBitmaps = 1 << 0
	autoclearRawData = 1 << 1
)

// qcow2 is a parsed header. The fields of version 3 have their version 2 defaults in a version 2 image.
type qcow2 struct {
	version          uint32
	backingOff       uint64
	backingLen       uint32
	clusterBits      uint32
	virtual          uint64
	crypt            uint32
	l1Entries        uint32
	l1Off            uint64
	refcountOff      uint64
	refcountClusters uint32
	snapshots        uint32
	incompatible     uint64
	autoclear        uint64
	refcountOrder    uint32
	headerLen        uint32
	compression      byte
}

func parseQCOW2(b []byte) (qcow2, bool) {
	if len(b) < headerLenV2 {
		return qcow2{}, false
	}
	be := binary.BigEndian
	h := qcow2{
		version:          be.Uint32(b[4:]),
		backingOff:       be.Uint64(b[8:]),
		backingLen:       be.Uint32(b[16:]),
		clusterBits:      be.Uint32(b[20:]),
		virtual:          be.Uint64(b[24:]),
		crypt:            be.Uint32(b[32:]),
		l1Entries:        be.Uint32(b[36:]),
		l1Off:            be.Uint64(b[40:]),
		refcountOff:      be.Uint64(b[48:]),
		refcountClusters: be.Uint32(b[56:]),
		snapshots:        be.Uint32(b[60:]),
		refcountOrder:    4,
		headerLen:        headerLenV2,
	}
	if h.version < 3 {
		return h, true
	}
	if len(b) < headerLenV3 {
		return qcow2{}, false
	}
	h.incompatible = be.Uint64(b[72:])
	h.autoclear = be.Uint64(b[88:])
	h.refcountOrder = be.Uint32(b[96:])
	h.headerLen = be.Uint32(b[100:])
	if h.headerLen > headerLenV3 && len(b) > headerLenV3 {
		h.compression = b[headerLenV3]
	}
	return h, true
}

func (h qcow2) clusterBytes() uint64 { return 1 << h.clusterBits }

func (h qcow2) has(bit uint64) bool { return h.incompatible&bit != 0 }

// remedies that several refusals share.
const (
	remedyFlatten = "make it self-contained with qemu-img convert -f qcow2 -O qcow2 and upload the result"
	remedyRepair  = "repair it with qemu-img check -f qcow2 -r all, or make it anew with qemu-img convert"
	remedyDamaged = "it is damaged, cut short or made to do harm: make it anew with qemu-img convert and upload the result"
)

// checkQCOW2 goes from what is dangerous to what is merely wrong, so that a file which is both is refused for the
// more telling reason.
func checkQCOW2(r io.ReaderAt, size int64, limits Limits) (Info, error) {
	head, err := readUpTo(r, 0, headerLenV3+8)
	if err != nil {
		return Info{}, err
	}
	h, whole := parseQCOW2(head)
	if !whole {
		return Info{}, damaged("it ends inside its header")
	}
	checks := []func() error{
		h.checkVersion,
		h.checkReferences,
		h.checkFeatures,
		func() error { return h.checkExtensions(r, size) },
		func() error { return h.checkSize(limits) },
		func() error { return h.checkTables(size) },
		func() error { return h.checkL1(r, size) },
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return Info{}, err
		}
	}
	return Info{Format: QCOW2, VirtualBytes: int64(h.virtual)}, nil
}

func refuse(remedy, format string, args ...any) error {
	return &Refusal{QCOW2, fmt.Sprintf(format, args...), remedy}
}

func damaged(format string, args ...any) error { return refuse(remedyDamaged, format, args...) }

func (h qcow2) checkVersion() error {
	switch {
	case h.version != 2 && h.version != 3:
		return refuse(remedyFlatten, "its version is %d, only 2 and 3 are known", h.version)
	case h.clusterBits < minClusterBits || h.clusterBits > maxClusterBits:
		return damaged("its cluster bits are %d, outside %d to %d", h.clusterBits, minClusterBits, maxClusterBits)
	case h.version == 3 && (h.headerLen < headerLenV3 || h.headerLen%8 != 0 || uint64(h.headerLen) > h.clusterBytes()):
		return damaged("its header length is %d, not a multiple of 8 between %d and a cluster", h.headerLen, headerLenV3)
	}
	return nil
}

// checkReferences refuses all by which an image would make the host read another file, or something other than its
// visible content.
func (h qcow2) checkReferences() error {
	switch {
	case h.backingOff != 0 || h.backingLen != 0:
		return refuse(remedyFlatten, "it has a backing file")
	case h.has(incompatDataFile) || h.autoclear&autoclearRawData != 0:
		return refuse(remedyFlatten, "it keeps its content in an external data file")
	case h.crypt != 0:
		return refuse("decrypt it with qemu-img convert and upload the result", "it is encrypted (method %d)", h.crypt)
	case h.snapshots != 0:
		return refuse(remedyFlatten, "it carries %d internal snapshots, which may hold what its owner deleted", h.snapshots)
	}
	return nil
}

func (h qcow2) checkFeatures() error {
	switch {
	case h.incompatible&^incompatKnown != 0:
		return refuse(remedyFlatten, "it needs unknown incompatible features (bits %#x)", h.incompatible&^incompatKnown)
	case h.has(incompatCorrupt):
		return refuse(remedyRepair, "it is marked corrupt")
	case h.has(incompatDirty):
		return refuse(remedyRepair, "it is marked dirty: the program that wrote it was cut short")
	case h.autoclear&autoclearBitmaps != 0:
		return refuse(remedyFlatten, "it carries persistent bitmaps")
	case h.has(incompatCompression) != (h.compression != 0):
		return damaged("its compression type %d and the feature bit for it disagree", h.compression)
	case h.compression > 1:
		return refuse(remedyFlatten, "its compression type %d is unknown, only zlib and zstd are", h.compression)
	case h.has(incompatExtendedL2) && h.clusterBits < minClusterBitsExtL2:
		return damaged("its cluster bits are %d, below %d, which extended L2 entries need", h.clusterBits, minClusterBitsExtL2)
	case h.refcountOrder > maxRefcountOrder:
		return damaged("its refcount order is %d, over %d", h.refcountOrder, maxRefcountOrder)
	}
	return nil
}

func (h qcow2) checkSize(limits Limits) error {
	switch {
	case h.virtual == 0:
		return refuse("make a disk with a size", "its disk has 0 bytes")
	case h.virtual > uint64(limits.MaxVirtualBytes):
		return tooLarge(QCOW2, h.virtual, limits.MaxVirtualBytes)
	case h.virtual%sector != 0:
		return damaged("its disk has %d bytes, not a multiple of %d", h.virtual, sector)
	}
	return nil
}
