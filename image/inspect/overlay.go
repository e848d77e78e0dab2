package inspect

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Overlay is what the header of a qcow2 file with a backing file says.
type Overlay struct {
	Backing      string
	VirtualBytes int64
}

// maxBackingLen is the longest name that the format allows.
const maxBackingLen = 1023

// ReadOverlay reads the header of an overlay that this host made itself. It is not for uploads: those may not have a
// backing file, and [Check] is their judge. A file that is no such overlay is DataLoss.
func ReadOverlay(r io.ReaderAt) (Overlay, error) {
	head, err := readUpTo(r, 0, headerLenV3+8)
	if err != nil {
		return Overlay{}, err
	}
	h, whole := parseQCOW2(head)
	if !whole || match(head, heads()) != "qcow2" || h.checkVersion() != nil || h.backingLen == 0 || h.backingLen > maxBackingLen ||
		h.backingOff > h.clusterBytes() || h.virtual > 1<<62 {
		return Overlay{}, fmt.Errorf("file is not a qcow2 overlay: %w", errdefs.ErrDataLoss)
	}
	name, err := readUpTo(r, int64(h.backingOff), int(h.backingLen))
	if err != nil {
		return Overlay{}, err
	}
	if len(name) < int(h.backingLen) {
		return Overlay{}, fmt.Errorf("qcow2 overlay ends inside its header: %w", errdefs.ErrDataLoss)
	}
	return Overlay{Backing: string(name), VirtualBytes: int64(h.virtual)}, nil
}
