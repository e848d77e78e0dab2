package iscsi

import (
	"sync"
)

// The sizes of buffers: what fits a unit of that much data with its headers and digests.
var bufferSizes = [...]int{512, 8 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20}

const bufferSlack = 128

// pools are free buffers, by size.
type pools [len(bufferSizes)]sync.Pool

// buffer is memory from a pool. b is as long as was asked for.
type buffer struct {
	b    []byte
	size int // its place in bufferSizes; -1: of no pool
}

// get returns a buffer of n bytes with any contents.
func (p *pools) get(n int) *buffer {
	for i, size := range bufferSizes {
		if n <= size+bufferSlack {
			b, _ := p[i].Get().(*buffer)
			if b == nil {
				b = &buffer{make([]byte, size+bufferSlack), i}
			}
			b.b = b.b[:n]
			return b
		}
	}
	return &buffer{make([]byte, n), -1}
}

// put gives a buffer back.
func (p *pools) put(b *buffer) {
	if b != nil && b.size >= 0 {
		b.b = b.b[:cap(b.b)]
		p[b.size].Put(b)
	}
}
