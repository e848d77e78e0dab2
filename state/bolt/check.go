package bolt

import (
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"io"

	"github.com/containerd/errdefs"
)

// check reads a whole file and returns its head, or what is wrong with it.
func check(f io.ReaderAt, size int64) (head, error) {
	m, err := readMetas(f, size)
	if err != nil {
		return head{}, err
	}
	p := &pages{f: f, pageSize: int(m.pageSize), high: m.high, seen: make([]uint64, m.high/64+1)}
	buckets := map[string][]byte{}
	err = p.walk(m.root, nil, &tree{item: func(flags uint32, key, value []byte) error {
		if flags != flagBucket || len(value) < inlined {
			return damaged("there is something between the buckets")
		}
		buckets[string(key)] = append([]byte(nil), value...)
		return nil
	}})
	if err != nil {
		return head{}, err
	}
	if buckets[aboutBucket] == nil && buckets[rowsBucket] == nil {
		return head{}, errForeign
	}
	if buckets[aboutBucket] == nil || buckets[rowsBucket] == nil || len(buckets) != 2 {
		return head{}, damaged("it has not the buckets it should have")
	}
	table := crc64.MakeTable(crc64.ECMA)
	want, err := p.about(table, buckets[aboutBucket])
	if err != nil {
		return head{}, err
	}
	if m.freelist != noFreelist {
		return head{}, damaged("it has a list of free pages, which this program does not write")
	}
	got := head{rev: want.rev}
	err = p.bucket(buckets[rowsBucket], func(key, row []byte) error {
		if len(row) < rowHead || !intact(table, key, row) {
			return damaged("the record %q is not as it was written", key)
		}
		if rev := rowRev(row); rev == 0 || rev > want.rev {
			return damaged("the record %q is of revision %d, the last was %d", key, rev, want.rev)
		}
		got.add(row)
		return nil
	})
	if err != nil {
		return head{}, err
	}
	if got != want {
		return head{}, damaged("it has %d records with sum %016x, should have %d with sum %016x", got.count, got.total, want.count, want.total)
	}
	return want, nil
}

// about reads the format and the head.
func (p *pages) about(table *crc64.Table, bucket []byte) (h head, err error) {
	found := map[string][]byte{}
	err = p.bucket(bucket, func(key, value []byte) error {
		if !intact(table, key, value) {
			return damaged("%q is not as it was written", key)
		}
		found[string(key)] = append([]byte(nil), value...)
		return nil
	})
	if err != nil {
		return h, err
	}
	format, last := found[formatKey], found[headKey]
	if len(format) != sumSize+4 {
		return h, damaged("it does not say what format it has")
	}
	if v := binary.BigEndian.Uint32(format[sumSize:]); v != version {
		return h, fmt.Errorf("the file has format %d, this program knows format %d: %w", v, version, errdefs.ErrInvalidArgument)
	}
	if len(last) != sumSize+24 || len(found) != 2 {
		return h, damaged("it has no head")
	}
	return decodeHead(last), nil
}

// bucket yields the items of a bucket, given what stands for it.
func (p *pages) bucket(value []byte, item func(key, value []byte) error) error {
	t := &tree{item: func(flags uint32, key, value []byte) error {
		if flags != 0 {
			return damaged("a record is marked as something else")
		}
		return item(key, value)
	}}
	root := binary.NativeEndian.Uint64(value)
	if root != 0 {
		return p.walk(root, nil, t)
	}
	page := value[inlined:]
	if len(page) < pageHead || binary.NativeEndian.Uint16(page[8:]) != flagLeaf {
		return damaged("a small bucket is not a leaf")
	}
	return leaf(page, nil, t)
}
