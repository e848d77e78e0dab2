package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	"github.com/containerd/errdefs"
)

// bbolt's file format 2, as far as it is needed to check a file before bbolt maps it: bbolt trusts what it maps, and ends
// the process, from goroutines of its own, if that was a mistake. Numbers are in the machine's byte order.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHead = 16 // page number 8, flags 2, count 2, overflow 4
	metaSize = 64 // magic 4, version 4, page size 4, flags 4, root 8, sequence 8, freelist 8, high 8, transaction 8, sum 8
	elemSize = 16 // of a branch: position 4, key size 4, page 8; of a leaf: flags 4, position 4, key size 4, value size 4
	inlined  = 16 // a bucket's root page 8 and sequence 8, before its page if that is inlined

	flagBranch = 1
	flagLeaf   = 2
	flagMeta   = 4
	flagBucket = 1 // of a leaf's element

	noFreelist = ^uint64(0)
)

// errDamaged is what is wrong with a file that was one of ours.
var errDamaged = fmt.Errorf("the file is damaged: %w", errdefs.ErrDataLoss)

// errForeign is what is wrong with a file that never was.
var errForeign = fmt.Errorf("the file is not a state file: %w", errdefs.ErrInvalidArgument)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// meta is the root of the file as of one transaction.
type meta struct {
	pageSize uint32
	root     uint64
	freelist uint64
	high     uint64 // the first page number that is not in use
	txid     uint64
}

// pages reads the file's pages, each at most once.
type pages struct {
	f        io.ReaderAt
	pageSize int
	high     uint64
	seen     []uint64 // a bit for each page
}

// readMeta reads the meta page that starts at an offset.
func readMeta(f io.ReaderAt, at int64) (m meta, err error) {
	b := make([]byte, pageHead+metaSize)
	if _, err := f.ReadAt(b, at); err != nil {
		if errors.Is(err, io.EOF) {
			return m, damaged("it ends within its first pages")
		}
		return m, err
	}
	n := binary.NativeEndian
	b, flags := b[pageHead:], n.Uint16(b[8:])
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	switch {
	case n.Uint32(b) != boltMagic:
		return m, errForeign
	case n.Uint64(b[56:]) != sum.Sum64() || flags != flagMeta:
		return m, damaged("a meta page is not as it was written")
	case n.Uint32(b[4:]) != boltVersion:
		return m, fmt.Errorf("the file has bbolt's format %d, not %d: %w", n.Uint32(b[4:]), boltVersion, errdefs.ErrInvalidArgument)
	}
	return meta{pageSize: n.Uint32(b[8:]), root: n.Uint64(b[16:]), freelist: n.Uint64(b[32:]), high: n.Uint64(b[40:]), txid: n.Uint64(b[48:])}, nil
}

// readMetas returns the newer of the file's two meta pages. Both must be whole: the newer one may be the one that is not,
// and the older one knows nothing of what was committed last.
func readMetas(f io.ReaderAt, size int64) (m meta, err error) {
	if size == 0 {
		return m, damaged("it is empty")
	}
	zero, err := readMeta(f, 0)
	if errors.Is(err, errForeign) {
		for _, guess := range []int64{4096, 8192, 16384, 65536} {
			if _, gerr := readMeta(f, guess); gerr == nil {
				return m, damaged("the first meta page is not as it was written")
			}
		}
	}
	if err != nil {
		return m, err
	}
	if zero.pageSize < 512 || zero.pageSize > 1<<20 {
		return m, damaged("its page size is %d", zero.pageSize)
	}
	one, err := readMeta(f, int64(zero.pageSize))
	if errors.Is(err, errForeign) {
		err = damaged("the second meta page is not as it was written")
	}
	if err != nil {
		return m, err
	}
	if m = zero; one.txid > zero.txid {
		m = one
	}
	if one.pageSize != zero.pageSize || m.high > uint64(size)/uint64(m.pageSize) {
		return m, damaged("it has %d bytes and should have at least %d pages of %d", size, m.high, m.pageSize)
	}
	return m, nil
}

// read returns a page with what overflows from it.
func (p *pages) read(id uint64) ([]byte, error) {
	if id < 2 || id >= p.high {
		return nil, damaged("a link leads to page %d of %d", id, p.high)
	}
	b := make([]byte, p.pageSize)
	if _, err := p.f.ReadAt(b, int64(id)*int64(p.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	over := uint64(binary.NativeEndian.Uint32(b[12:]))
	if got := binary.NativeEndian.Uint64(b); got != id || over >= p.high-id {
		return nil, damaged("page %d says that it is page %d with %d more, of %d", id, got, over, p.high)
	}
	for i := id; i <= id+over; i++ {
		if p.seen[i/64]&(1<<(i%64)) != 0 {
			return nil, damaged("two links lead to page %d", i)
		}
		p.seen[i/64] |= 1 << (i % 64)
	}
	if over == 0 {
		return b, nil
	}
	all := make([]byte, (over+1)*uint64(p.pageSize))
	if _, err := p.f.ReadAt(all, int64(id)*int64(p.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return all, nil
}

// tree is a walk over a bucket.
type tree struct {
	last []byte // the key before
	any  bool
	item func(flags uint32, key, value []byte) error
}

// walk yields the items below a page. Keys rise, and are not below what the branches above say: otherwise a key that is there
// would not be found.
func (p *pages) walk(id uint64, low []byte, t *tree) error {
	b, err := p.read(id)
	if err != nil {
		return err
	}
	n := binary.NativeEndian
	switch flags := n.Uint16(b[8:]); flags {
	case flagLeaf:
		return leaf(b, low, t)
	case flagBranch:
	default:
		return damaged("page %d is neither branch nor leaf: %d", id, flags)
	}
	count := int(n.Uint16(b[10:]))
	if count == 0 || pageHead+count*elemSize > len(b) {
		return damaged("page %d has %d branches", id, count)
	}
	for i := range count {
		at := pageHead + i*elemSize
		key, ok := cut(b, at, n.Uint32(b[at:]), n.Uint32(b[at+4:]))
		if !ok || bytes.Compare(key, low) < 0 || (t.any && bytes.Compare(key, t.last) <= 0) {
			return damaged("page %d has its keys out of place", id)
		}
		if err := p.walk(n.Uint64(b[at+8:]), key, t); err != nil {
			return err
		}
	}
	return nil
}

// leaf yields the items of a leaf, which may be inlined in another.
func leaf(b, low []byte, t *tree) error {
	n := binary.NativeEndian
	count := int(n.Uint16(b[10:]))
	if pageHead+count*elemSize > len(b) {
		return damaged("a leaf has %d items", count)
	}
	for i := range count {
		at := pageHead + i*elemSize
		flags, pos, size := n.Uint32(b[at:]), n.Uint32(b[at+4:]), n.Uint32(b[at+8:])
		key, ok := cut(b, at, pos, size)
		value, ok2 := cut(b, at, pos+size, n.Uint32(b[at+12:]))
		if !ok || !ok2 || pos+size < pos || bytes.Compare(key, low) < 0 || (t.any && bytes.Compare(key, t.last) <= 0) {
			return damaged("a leaf has its keys out of place")
		}
		t.last, t.any = append(t.last[:0], key...), true
		if err := t.item(flags, key, value); err != nil {
			return err
		}
	}
	return nil
}

// cut returns size bytes of b, pos bytes after at.
func cut(b []byte, at int, pos, size uint32) ([]byte, bool) {
	from := int64(at) + int64(pos)
	to := from + int64(size)
	if to > int64(len(b)) {
		return nil, false
	}
	return b[from:to], true
}
