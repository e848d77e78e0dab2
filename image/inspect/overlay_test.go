package inspect

import (
	"bytes"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func TestReadOverlay(t *testing.T) {
	b := newImage().u64(8, 512).u32(16, 11)
	copy(b[512:], "/base/image")
	o, err := ReadOverlay(bytes.NewReader(b))
	require.NoError(t, err)
	require.Equal(t, Overlay{Backing: "/base/image", VirtualBytes: 10 << 20}, o)

	for name, bad := range map[string]image{
		"no backing file":     newImage(),
		"not qcow2":           at(0, ""),
		"empty":               {},
		"name beyond the end": newImage()[:520].u64(8, 512).u32(16, 11),
		"name of 4 GiB":       newImage().u64(8, 512).u32(16, 1<<32-1),
		"name far away":       newImage().u64(8, 1<<63).u32(16, 11),
		"version 9":           newImage().u32(4, 9).u64(8, 512).u32(16, 11),
	} {
		_, err := ReadOverlay(bytes.NewReader(bad))
		require.ErrorIs(t, err, errdefs.ErrDataLoss, name)
	}
}

// FuzzReadOverlay holds that no header makes the reader panic or allocate more than a name.
func FuzzReadOverlay(f *testing.F) {
	f.Add([]byte(smallImage().u64(8, 256).u32(16, 11)))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ReadOverlay(bytes.NewReader(b))
		if err == nil {
			require.NotEmpty(t, o.Backing)
			require.LessOrEqual(t, len(o.Backing), maxBackingLen)
			require.GreaterOrEqual(t, o.VirtualBytes, int64(0))
		}
	})
}
