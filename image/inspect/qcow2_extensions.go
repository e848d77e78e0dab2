package inspect

import (
	"encoding/binary"
	"io"
)

// Types of header extensions (docs/interop/qcow2.txt, "Header extensions"). Others may be ignored and are.
const (
	extEnd           = 0x00000000
	extBackingFormat = 0xe2792aca
	extBitmaps       = 0x23852875
	extEncryption    = 0x0537be77
	extDataFile      = 0x44415441
)

// maxExtensions is far more than the five kinds there are.
const maxExtensions = 64

// checkExtensions walks the extensions between the header and the end of the first cluster.
func (h qcow2) checkExtensions(r io.ReaderAt, size int64) error {
	end := min(h.clusterBytes(), uint64(size))
	off := uint64(h.headerLen)
	for range maxExtensions {
		if off == end {
			return nil
		}
		if off > end || end-off < 8 {
			return damaged("its header extensions end outside the first cluster")
		}
		b, err := readUpTo(r, int64(off), 8)
		if err != nil {
			return err
		}
		if len(b) < 8 {
			return damaged("it ends inside its header extensions")
		}
		kind, length := binary.BigEndian.Uint32(b), uint64(binary.BigEndian.Uint32(b[4:]))
		if kind == extEnd {
			return nil
		}
		off += 8
		if length > end-off {
			return damaged("a header extension of %d bytes reaches outside the first cluster", length)
		}
		if err := checkExtension(kind, length); err != nil {
			return err
		}
		off += uint64(roundUp(int64(length), 8))
	}
	return damaged("it has more than %d header extensions", maxExtensions)
}

func checkExtension(kind uint32, length uint64) error {
	switch {
	case kind == extDataFile:
		return refuse(remedyFlatten, "it names an external data file")
	case kind == extEncryption:
		return refuse("decrypt it with qemu-img convert and upload the result", "it has an encryption header")
	case kind == extBitmaps:
		return refuse(remedyFlatten, "it carries persistent bitmaps")
	case kind == extBackingFormat && length > 0: // an empty one is what removing a backing file leaves behind
		return refuse(remedyFlatten, "it names the format of a backing file")
	}
	return nil
}
