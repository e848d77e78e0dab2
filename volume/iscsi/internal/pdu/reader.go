package pdu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest is the CRC32C of the bytes, over one part after another, RFC 7143 section 13.1.
func Digest(parts ...[]byte) uint32 {
	var sum uint32
	for _, part := range parts {
		sum = crc32.Update(sum, castagnoli, part)
	}
	return sum
}

// PutDigest writes a digest as it is on the wire.
func PutDigest(b []byte, sum uint32) { binary.LittleEndian.PutUint32(b, sum) }

// Errors that end a connection: after them nobody knows where the next unit begins, or what it should have been.
var (
	ErrHeaderDigest = errors.New("the digest of a header is wrong")
	ErrDataDigest   = errors.New("the digest of data is wrong")
	ErrTooLong      = errors.New("a unit is longer than was agreed")
	ErrMalformed    = errors.New("a unit is malformed")
)

// Reader takes units from a stream. After each Header, its data must be taken with Data or DataInto, once, even if there is none.
type Reader struct {
	HeaderDigests bool
	DataDigests   bool
	MaxData       int    // the longest data segment that is accepted; at most the buffer's length less 4,096
	BeforeRead    func() // called before the stream is read from, if not nil
	AfterRead     func() // called after it

	r          io.Reader
	buf        []byte
	start, end int
	head       Header
	ahs        []byte
	dataLeft   int // of the current unit: -1: taken
}

// NewReader returns a reader with a buffer of size bytes.
func NewReader(r io.Reader, size int) *Reader {
	return &Reader{r: r, buf: make([]byte, size), MaxData: size - 4096, dataLeft: -1}
}

// Grow gives the reader a larger buffer. What it holds stays.
func (r *Reader) Grow(size int) {
	if size <= len(r.buf) {
		return
	}
	buf := make([]byte, size)
	r.end = copy(buf, r.buf[r.start:r.end])
	r.start, r.buf = 0, buf
}

// fill has at least n bytes in the buffer.
func (r *Reader) fill(n int) error {
	if r.end-r.start >= n {
		return nil
	}
	if r.start == r.end {
		r.start, r.end = 0, 0
	} else if len(r.buf)-r.start < n {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	if n > len(r.buf) {
		return ErrTooLong
	}
	for r.end-r.start < n {
		got, err := r.read(r.buf[r.end:])
		r.end += got
		if err != nil && r.end-r.start < n {
			if err == io.EOF && r.end > r.start {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

func (r *Reader) read(b []byte) (int, error) {
	if r.BeforeRead != nil {
		r.BeforeRead()
	}
	n, err := r.r.Read(b)
	if r.AfterRead != nil {
		r.AfterRead()
	}
	if n == 0 && err == nil {
		return 0, io.ErrNoProgress
	}
	return n, err
}

// Header reads the next header with what is additional to it, which is valid until the next call. At the end of the stream it
// returns io.EOF.
func (r *Reader) Header() (*Header, error) {
	if r.dataLeft >= 0 {
		return nil, errors.New("the data of the last unit was not taken")
	}
	if err := r.fill(HeaderSize); err != nil {
		return nil, err
	}
	ahs := int(r.buf[r.start+4]) * 4
	whole := HeaderSize + ahs
	if r.HeaderDigests {
		whole += 4
	}
	if err := r.fill(whole); err != nil {
		return nil, noEOF(err)
	}
	b := r.buf[r.start : r.start+whole]
	if r.HeaderDigests {
		covered := b[:HeaderSize+ahs]
		if binary.LittleEndian.Uint32(b[HeaderSize+ahs:]) != Digest(covered) {
			return nil, ErrHeaderDigest
		}
	}
	copy(r.head[:], b)
	r.ahs = append(r.ahs[:0], b[HeaderSize:HeaderSize+ahs]...)
	r.start += whole
	if n := r.head.DataLen(); n > r.MaxData {
		return nil, fmt.Errorf("%w: %d bytes of data, not more than %d", ErrTooLong, n, r.MaxData)
	}
	r.dataLeft = r.head.DataLen()
	return &r.head, nil
}

// noEOF turns an end in the middle of a unit into what it is.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// trailer is how many bytes follow n bytes of data.
func (r *Reader) trailer(n int) int {
	if n == 0 {
		return 0
	}
	extra := Pad(n)
	if r.DataDigests {
		extra += 4
	}
	return extra
}

// Data returns the data of the current unit, valid until the next call of the reader.
func (r *Reader) Data() ([]byte, error) {
	n := r.dataLeft
	r.dataLeft = -1
	if n <= 0 {
		return nil, nil
	}
	whole := n + r.trailer(n)
	if err := r.fill(whole); err != nil {
		return nil, noEOF(err)
	}
	b := r.buf[r.start : r.start+whole]
	r.start += whole
	if r.DataDigests && binary.LittleEndian.Uint32(b[whole-4:]) != Digest(b[:whole-4]) {
		return nil, ErrDataDigest
	}
	return b[:n:n], nil
}

// DataInto reads the data of the current unit into dst, which must be as long as it is.
func (r *Reader) DataInto(dst []byte) error {
	n := r.dataLeft
	r.dataLeft = -1
	if n != len(dst) {
		return fmt.Errorf("%d bytes of data do not fit into %d", n, len(dst))
	}
	if n <= 0 {
		return nil
	}
	got := copy(dst, r.buf[r.start:r.end])
	r.start += got
	for got < n {
		more, err := r.read(dst[got:])
		got += more
		if err != nil && got < n {
			return noEOF(err)
		}
	}
	extra := r.trailer(n)
	if err := r.fill(extra); err != nil {
		return noEOF(err)
	}
	b := r.buf[r.start : r.start+extra]
	r.start += extra
	if r.DataDigests && binary.LittleEndian.Uint32(b[extra-4:]) != Digest(dst, b[:extra-4]) {
		return ErrDataDigest
	}
	return nil
}

// InBuffer tells whether the data of the current unit is in the buffer already.
func (r *Reader) InBuffer() bool {
	return r.dataLeft <= 0 || r.end-r.start >= r.dataLeft+r.trailer(r.dataLeft)
}

// DataLen is how long the data of the current unit is.
func (r *Reader) DataLen() int { return max(r.dataLeft, 0) }
