package inspect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

const testCluster = 64 << 10

// image is a qcow2 file under construction: an empty disk of 10 MiB in version 3, as qemu-img makes it.
type image []byte

func newImage() image {
	b := make(image, 4*testCluster)
	copy(b, "QFI\xfb")
	b.u32(4, 3)
	b.u32(20, 16)
	b.u64(24, 10<<20)
	b.u32(36, 1)
	b.u64(40, 3*testCluster)
	b.u64(48, testCluster)
	b.u32(56, 1)
	b.u32(96, 4)
	b.u32(100, 112)
	return b
}

func (b image) u32(off int, v uint32) image { binary.BigEndian.PutUint32(b[off:], v); return b }
func (b image) u64(off int, v uint64) image { binary.BigEndian.PutUint64(b[off:], v); return b }

// extension writes a header extension at off and returns the offset of the next.
func (b image) extension(off int, kind uint32, data string) int {
	b.u32(off, kind).u32(off+4, uint32(len(data)))
	copy(b[off+8:], data)
	return off + 8 + (len(data)+7)/8*8
}

func check(declared Format, b []byte) (Info, error) {
	return Check(declared, bytes.NewReader(b), int64(len(b)), Limits{})
}

func TestQCOW2Accepted(t *testing.T) {
	rows := map[string]func(b image) image{
		"version 3":                    func(b image) image { return b },
		"version 2":                    func(b image) image { clear(b[72:120]); return b.u32(4, 2) },
		"lazy refcounts":               func(b image) image { return b.u64(80, 1) },
		"unknown compatible feature":   func(b image) image { return b.u64(80, 1<<40) },
		"unknown autoclear feature":    func(b image) image { return b.u64(88, 1<<40) },
		"zstd":                         func(b image) image { b[104] = 1; return b.u64(72, incompatCompression) },
		"extended L2 entries":          func(b image) image { return b.u64(72, incompatExtendedL2) },
		"unknown extension":            func(b image) image { b.extension(112, 0x12345678, "whatever"); return b },
		"empty backing format":         func(b image) image { b.extension(112, extBackingFormat, ""); return b },
		"L2 table inside":              func(b image) image { return b.u64(3*testCluster, 1<<63|2*testCluster) },
		"L1 longer than the disk asks": func(b image) image { return b.u32(36, 100) },
	}
	for name, change := range rows {
		t.Run(name, func(t *testing.T) {
			info, err := check(QCOW2, change(newImage()))
			require.NoError(t, err)
			require.Equal(t, Info{Format: QCOW2, VirtualBytes: 10 << 20}, info)
		})
	}
}

func TestQCOW2Refused(t *testing.T) {
	rows := []struct {
		name    string
		change  func(b image) image
		problem string // a part of the refusal's text
	}{
		{"backing file", func(b image) image { copy(b[512:], "/etc/shadow"); return b.u64(8, 512).u32(16, 11) }, "backing file"},
		{"backing file without a length", func(b image) image { return b.u64(8, 512) }, "backing file"},
		{"backing file without an offset", func(b image) image { return b.u32(16, 11) }, "backing file"},
		{"backing file in version 2", func(b image) image { return b.u32(4, 2).u64(8, 512).u32(16, 11) }, "backing file"},
		{"backing format", func(b image) image { b.extension(112, extBackingFormat, "raw"); return b }, "format of a backing file"},
		{"data file bit", func(b image) image { return b.u64(72, incompatDataFile) }, "external data file"},
		{"raw data file bit", func(b image) image { return b.u64(88, autoclearRawData) }, "external data file"},
		{"data file extension without the bit", func(b image) image { b.extension(112, extDataFile, "/etc/shadow"); return b },
			"names an external data file"},
		{"data file extension behind another", func(b image) image {
			b.extension(b.extension(112, 0x12345678, "12345"), extDataFile, "/etc/shadow")
			return b
		}, "names an external data file"},
		{"data file extension in version 2", func(b image) image {
			clear(b[72:120])
			b.u32(4, 2).extension(72, extDataFile, "/etc/shadow")
			return b
		}, "names an external data file"},
		{"unknown incompatible bit 5", func(b image) image { return b.u64(72, 1<<5) }, "unknown incompatible"},
		{"unknown incompatible bit 63", func(b image) image { return b.u64(72, 1<<63) }, "unknown incompatible"},
		{"AES", func(b image) image { return b.u32(32, 1) }, "encrypted"},
		{"LUKS", func(b image) image { return b.u32(32, 2) }, "encrypted"},
		{"encryption header", func(b image) image { b.extension(112, extEncryption, "0123456789abcdef"); return b }, "encryption"},
		{"dirty", func(b image) image { return b.u64(72, incompatDirty) }, "dirty"},
		{"corrupt", func(b image) image { return b.u64(72, incompatCorrupt) }, "corrupt"},
		{"internal snapshots", func(b image) image { return b.u32(60, 3) }, "3 internal snapshots"},
		{"bitmaps", func(b image) image { return b.u64(88, autoclearBitmaps) }, "bitmaps"},
		{"bitmaps extension", func(b image) image { b.extension(112, extBitmaps, "012345678901234567890123"); return b }, "bitmaps"},
		{"version 1", func(b image) image { return b.u32(4, 1) }, "not qcow2 but qcow"},
		{"version 4", func(b image) image { return b.u32(4, 4) }, "version is 4"},
		{"clusters of 256 bytes", func(b image) image { return b.u32(20, 8) }, "cluster bits are 8"},
		{"clusters of 4 MiB", func(b image) image { return b.u32(20, 22) }, "cluster bits are 22"},
		{"cluster bits that overflow", func(b image) image { return b.u32(20, 1<<31) }, "cluster bits"},
		{"header too short", func(b image) image { return b.u32(100, 96) }, "header length is 96"},
		{"header not aligned", func(b image) image { return b.u32(100, 113) }, "header length is 113"},
		{"header beyond the cluster", func(b image) image { return b.u32(100, testCluster+8) }, "header length"},
		{"extension beyond the cluster", func(b image) image { return b.u32(112, 1).u32(116, testCluster) }, "outside the first cluster"},
		{"extension of 4 GiB", func(b image) image { return b.u32(112, 1).u32(116, 1<<32-1) }, "outside the first cluster"},
		{"extensions without end", func(b image) image {
			for off := 112; off < testCluster; off += 8 {
				b.u32(off, 1)
			}
			return b
		}, "more than 64"},
		{"compression without its bit", func(b image) image { b[104] = 1; return b }, "disagree"},
		{"compression bit without a type", func(b image) image { return b.u64(72, incompatCompression) }, "disagree"},
		{"unknown compression", func(b image) image { b[104] = 2; return b.u64(72, incompatCompression) }, "compression type 2"},
		{"extended L2 in small clusters", func(b image) image { return b.u32(20, 13).u64(72, incompatExtendedL2) }, "extended L2"},
		{"refcounts of 128 bits", func(b image) image { return b.u32(96, 7) }, "refcount order"},
		{"no disk", func(b image) image { return b.u64(24, 0) }, "0 bytes"},
		{"half a sector", func(b image) image { return b.u64(24, 1000) }, "multiple of 512"},
		{"disk over the limit", func(b image) image { return b.u64(24, DefaultMaxVirtualBytes+512) }, "over the limit"},
		{"disk of 16 EiB", func(b image) image { return b.u64(24, 1<<64-512) }, "over the limit"},
		{"L1 too short", func(b image) image { return b.u64(24, 1<<40) }, "needs 2048"},
		{"no L1", func(b image) image { return b.u32(36, 0) }, "needs 1"},
		{"L1 of 32 GiB", func(b image) image { return b.u32(36, 1<<32-1) }, "over 33554432"},
		{"L1 in the header", func(b image) image { return b.u64(40, 0) }, "L1 table"},
		{"L1 not on a cluster", func(b image) image { return b.u64(40, 3*testCluster+8) }, "L1 table"},
		{"L1 beyond the file", func(b image) image { return b.u64(40, 1<<40) }, "L1 table"},
		{"L1 offset that overflows", func(b image) image { return b.u64(40, 1<<64-testCluster) }, "L1 table"},
		{"L1 longer than the file", func(b image) image { return b.u32(36, testCluster/8+1) }, "L1 table"},
		{"L2 beyond the file", func(b image) image { return b.u64(3*testCluster, 1<<63|4*testCluster) }, "points outside"},
		{"L2 not on a cluster", func(b image) image { return b.u64(3*testCluster, 1<<63|testCluster+512) }, "points outside"},
		{"L1 entry with reserved bits", func(b image) image { return b.u64(3*testCluster, 1<<62|testCluster) }, "points outside"},
		{"no refcount table", func(b image) image { return b.u32(56, 0) }, "no refcount table"},
		{"refcount table of 256 TiB", func(b image) image { return b.u32(56, 1<<32-1) }, "refcount table has"},
		{"refcount table in the header", func(b image) image { return b.u64(48, 0) }, "refcount table"},
		{"refcount table beyond the file", func(b image) image { return b.u64(48, 1<<40) }, "refcount table"},
		{"refcount table over the L1 table", func(b image) image { return b.u64(48, 3*testCluster) }, "overlap"},
		{"cut inside the header", func(b image) image { return b[:90] }, "inside its header"},
		{"cut after the mark", func(b image) image { return b[:4] }, "inside its header"},
		{"cut before the L1 table", func(b image) image { return b[:3*testCluster] }, "L1 table"},
		{"cut inside the mark", func(b image) image { return b[:3] }, "not qcow2"},
		{"empty", func(b image) image { return b[:0] }, "empty"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			_, err := check(QCOW2, row.change(newImage()))
			var refusal *Refusal
			require.ErrorAs(t, err, &refusal)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			require.Contains(t, refusal.Problem, row.problem)
			require.NotEmpty(t, refusal.Remedy)
			require.NotContains(t, err.Error(), "shadow", "a refusal repeats nothing of the image")
		})
	}
}

// A disk that can't be read is not the image's fault.
func TestReadErrorIsNoRefusal(t *testing.T) {
	broken := errors.New("input/output error")
	whole := newImage()
	for n := range 20 {
		for _, format := range []Format{Raw, QCOW2, Kernel} {
			_, err := Check(format, &failingReader{bytes.NewReader(whole), n, broken}, int64(len(whole)), Limits{})
			var refusal *Refusal
			if !errors.As(err, &refusal) && err != nil {
				require.ErrorIs(t, err, broken)
			}
			if n == 0 {
				require.ErrorIs(t, err, broken)
			}
		}
	}
}

type failingReader struct {
	*bytes.Reader
	left int
	err  error
}

func (f *failingReader) ReadAt(p []byte, off int64) (int, error) {
	if f.left == 0 {
		return 0, f.err
	}
	f.left--
	return f.Reader.ReadAt(p, off)
}
