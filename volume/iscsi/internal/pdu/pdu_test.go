package pdu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// unit is a whole unit as bytes.
func unit(ahs, data []byte, headerDigest, dataDigest bool) []byte {
	var h Header
	h[0], h[4] = SCSICommand, byte(len(ahs)/4)
	h.SetDataLen(len(data))
	b := append(h[:], ahs...)
	if headerDigest {
		b = binary.LittleEndian.AppendUint32(b, Digest(b))
	}
	if len(data) > 0 {
		padded := append(bytes.Clone(data), make([]byte, Pad(len(data)))...)
		b = append(b, padded...)
		if dataDigest {
			b = binary.LittleEndian.AppendUint32(b, Digest(padded))
		}
	}
	return b
}

func TestDigestIsThatOfTheRFC(t *testing.T) {
	// RFC 7143 appendix A.4.
	up := make([]byte, 32)
	for i := range up {
		up[i] = byte(i)
	}
	for want, b := range map[string][]byte{
		"\xaa\x36\x91\x8a": make([]byte, 32),
		"\x43\xab\xa8\x62": bytes.Repeat([]byte{0xff}, 32),
		"\x4e\x79\xdd\x46": up,
	} {
		var got [4]byte
		PutDigest(got[:], Digest(b[:7], b[7:]))
		require.Equal(t, want, string(got[:]))
	}
}

func TestReaderTakesUnitsHoweverTheyArrive(t *testing.T) {
	for _, digests := range []bool{false, true} {
		var stream []byte
		sizes := []int{0, 1, 2, 3, 4, 511, 4096, 0, 70000, 5}
		for i, n := range sizes {
			stream = append(stream, unit(nil, bytes.Repeat([]byte{byte(i + 1)}, n), digests, digests)...)
		}
		for name, in := range map[string]io.Reader{
			"at once": bytes.NewReader(stream), "by bytes": iotest.OneByteReader(bytes.NewReader(stream)),
			"by halves": iotest.HalfReader(bytes.NewReader(stream)), "with the error": iotest.DataErrReader(bytes.NewReader(stream)),
		} {
			r := NewReader(in, 8192)
			r.MaxData, r.HeaderDigests, r.DataDigests = 1<<17, digests, digests
			for i, n := range sizes {
				h, err := r.Header()
				require.NoError(t, err, name)
				require.Equal(t, n, h.DataLen())
				var data []byte
				if n > 8000 || i%2 == 0 {
					data = make([]byte, n)
					err = r.DataInto(data)
				} else {
					data, err = r.Data()
				}
				require.NoError(t, err, name)
				require.True(t, bytes.Equal(bytes.Repeat([]byte{byte(i + 1)}, n), data))
			}
			_, err := r.Header()
			require.Equal(t, io.EOF, err)
		}
	}
}

func TestReaderSeesDamage(t *testing.T) {
	whole := unit(nil, []byte("hello"), true, true)
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x10
		r := NewReader(bytes.NewReader(damaged), 8192)
		r.HeaderDigests, r.DataDigests = true, true
		_, err := r.Header()
		if i >= HeaderSize+4 {
			require.NoError(t, err)
			_, err = r.Data()
			require.ErrorIs(t, err, ErrDataDigest)
			continue
		}
		// A damaged length of the additional headers moves the digest, and the stream may end before it.
		require.True(t, errors.Is(err, ErrHeaderDigest) || i == 4 && errors.Is(err, io.ErrUnexpectedEOF), "byte %d: %v", i, err)
	}
	for n := 1; n < len(whole); n++ {
		r := NewReader(bytes.NewReader(whole[:n]), 8192)
		r.HeaderDigests, r.DataDigests = true, true
		_, err := r.Header()
		if err == nil {
			_, err = r.Data()
		}
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
}

func TestReaderRefusesMoreThanWasAgreed(t *testing.T) {
	r := NewReader(bytes.NewReader(unit(nil, make([]byte, 513), false, false)), 8192)
	r.MaxData = 512
	_, err := r.Header()
	require.ErrorIs(t, err, ErrTooLong)
}

func TestAdditional(t *testing.T) {
	cdb := []byte{0, 5, 1, 0, 'a', 'b', 'c', 'd'} // 4 more bytes
	read := []byte{0, 5, 2, 0, 0, 0, 2, 0}
	for _, row := range []struct {
		in   []byte
		want Additional
		ok   bool
	}{
		{nil, Additional{}, true},
		{cdb, Additional{CDB: []byte("abcd")}, true},
		{append(bytes.Clone(read), cdb...), Additional{CDB: []byte("abcd"), HasRead: true, ReadLength: 512}, true},
		{append(bytes.Clone(cdb), cdb...), Additional{}, false},
		{append(bytes.Clone(read), read...), Additional{}, false},
		{[]byte{0, 200, 1, 0}, Additional{}, false},
		{[]byte{0, 0, 1, 0}, Additional{}, false},
		{[]byte{0, 1, 9, 0}, Additional{}, false},
	} {
		r := NewReader(bytes.NewReader(unit(row.in, nil, false, false)), 8192)
		_, err := r.Header()
		require.NoError(t, err)
		got, err := r.Additional()
		if !row.ok {
			require.ErrorIs(t, err, ErrMalformed)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, row.want, got)
	}
}

func TestText(t *testing.T) {
	pairs := []Pair{{"InitiatorName", "iqn.2026-01.example:a"}, {"X-com.example.a", ""}, {"a", "b=c"}}
	got, err := ParseText(AppendText(nil, pairs...))
	require.NoError(t, err)
	require.Equal(t, pairs, got)
	for _, bad := range []string{"a=b", "ab\x00", "=b\x00", "a b=c\x00", string(bytes.Repeat([]byte("a=b\x00"), MaxPairs+1))} {
		_, err := ParseText([]byte(bad))
		require.ErrorIs(t, err, ErrMalformed, "%q", bad)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(unit(nil, []byte("hello"), false, false), false, uint16(3))
	f.Add(unit([]byte{0, 5, 2, 0, 0, 0, 2, 0}, make([]byte, 600), true, true), true, uint16(64))
	f.Fuzz(func(t *testing.T, stream []byte, digests bool, step uint16) {
		r := NewReader(&stepReader{stream, int(step%512) + 1}, 8192)
		r.MaxData, r.HeaderDigests, r.DataDigests = 1<<16, digests, digests
		seen := 0
		for {
			h, err := r.Header()
			if err != nil {
				return
			}
			if seen += HeaderSize; seen > len(stream) {
				t.Fatal("more units than bytes")
			}
			_, _ = r.Additional()
			if h.DataLen() > 4096 {
				err = r.DataInto(make([]byte, h.DataLen()))
			} else {
				var data []byte
				data, err = r.Data()
				_, _ = ParseText(data)
			}
			if err != nil {
				return
			}
		}
	})
}

// stepReader gives at most n bytes at once.
type stepReader struct {
	b []byte
	n int
}

func (r *stepReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.n)], r.b)
	r.b = r.b[n:]
	return n, nil
}
