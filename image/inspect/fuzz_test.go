package inspect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallImage has clusters of 512 bytes: the fuzzer is quicker with few bytes.
func smallImage() image {
	b := make(image, 4*512)
	copy(b, newImage()[:112])
	return b.u32(20, 9).u64(24, 32<<10).u64(40, 3*512).u64(48, 512)
}

// FuzzCheck holds for any content: no panic, an error is a refusal, no content is accepted as two kinds of disk, and
// what is accepted as qcow2 names no other file, by a reading of the header that shares no code with Check's.
func FuzzCheck(f *testing.F) {
	f.Add([]byte(smallImage()))
	f.Add([]byte(smallImage().u64(8, 256).u32(16, 11)))
	f.Add([]byte(smallImage().u64(72, incompatDataFile)))
	f.Add([]byte("# Disk DescriptorFile\nversion=1\n"))
	f.Add(at(-512, "conectix")[1<<20-1024:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		accepted := map[Format]bool{}
		for _, format := range []Format{Raw, QCOW2, Kernel, Ramdisk} {
			info, err := check(format, b)
			var refusal *Refusal
			if err != nil {
				require.True(t, errors.As(err, &refusal), "%v", err)
				continue
			}
			accepted[format] = true
			require.Equal(t, format, info.Format)
			require.Positive(t, info.VirtualBytes)
			require.LessOrEqual(t, info.VirtualBytes, int64(DefaultMaxVirtualBytes))
		}
		require.False(t, accepted[Raw] && accepted[QCOW2])
		require.False(t, accepted[Kernel] && accepted[QCOW2])
		if accepted[QCOW2] {
			require.True(t, bytes.HasPrefix(b, []byte("QFI\xfb")))
			require.Equal(t, make([]byte, 12), b[8:20], "backing file")
			require.Zero(t, binary.BigEndian.Uint32(b[32:]), "encryption")
			if b[7] == 3 {
				require.Zero(t, b[79]&0b111, "dirty, corrupt, data file")
			}
		} else if bytes.HasPrefix(b, []byte("QFI\xfb")) {
			require.Empty(t, accepted)
		}
	})
}
