package linux

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestElementsAreWrittenAsTheKernelReadsThem(t *testing.T) {
	write := func(e element) []byte {
		var b batch
		b.element(e, true, map[string]uint32{"cg-1": 0x01020304})
		return b.bytes
	}
	member := []byte{16, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 1}
	require.Equal(t, member, write(element{"m4-web", "\x0a\x00\x00\x01", ""}))
	class := append([]byte{28, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 'd', 'p', '1', 0, 12, 0, 2, 0x80, 8, 0, 1, 0}, classKey(0x01020304)...)
	require.Equal(t, class, write(element{groupsOf, "dp1\x00", "cg-1"}))
	verdict := append([]byte{44, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0}, classKey(5)...)
	verdict = append(verdict, 28, 0, 2, 0x80, 24, 0, 2, 0x80, 8, 0, 1, 0, 0xff, 0xff, 0xff, 0xfc, 9, 0, 2, 0, 'c', 'g', '-', '1', 0, 0, 0, 0)
	require.Equal(t, verdict, write(classElement(5, "cg-1")))
}

// A message of elements is no larger than its attributes can say, and none is lost between two.
func TestManyElementsAreSeveralMessages(t *testing.T) {
	const elements = 5000
	var all []element
	for n := range elements {
		all = append(all, element{"m6-web", fmt.Sprintf("%016d", n), ""})
	}
	b := newBatch(0)
	b.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, all, nil)
	var keys []element
	messages := uint32(0)
	for rest := b.bytes; len(rest) > 0; messages++ {
		size := int(binary.NativeEndian.Uint32(rest))
		require.Zero(t, size%unix.NLA_ALIGNTO)
		require.LessOrEqual(t, size, len(rest))
		require.Equal(t, messages+1, binary.NativeEndian.Uint32(rest[8:]))
		if messages > 0 {
			decoder, err := netlink.NewAttributeDecoder(inner(rest[messageHeader:size], unix.NFTA_SET_ELEM_LIST_ELEMENTS))
			require.NoError(t, err)
			for decoder.Next() {
				keys = append(keys, element{"m6-web", string(inner(inner(decoder.Bytes(), unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE)), ""})
			}
			require.NoError(t, decoder.Err())
		}
		rest = rest[size:]
	}
	require.Equal(t, all, keys)
	require.Greater(t, messages, uint32(2))
	require.Equal(t, b.messages, messages)
}
