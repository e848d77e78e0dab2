package lvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
)

// piece is how much is written between two looks at a context.
const piece = 16 << 20

// fits checks that a logical volume's device node is there and leads to it, as far as its size tells.
func (d *Driver) fits(l lv) error {
	f, err := os.Open(d.path(l))
	if err != nil {
		return fmt.Errorf("lvm: %s has no device: %w: %w", d.full(l.Name), err, errdefs.ErrUnavailable)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("lvm: %s: %w: %w", d.full(l.Name), err, errdefs.ErrUnavailable)
	}
	if size != int64(l.Size) {
		return fmt.Errorf("lvm: %s has %d bytes, its device %d: the node is stale: %w", d.full(l.Name), l.Size, size, errdefs.ErrUnavailable)
	}
	return nil
}

// copyDevice copies so many bytes.
func copyDevice(ctx context.Context, to, from string, size int64) error {
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("lvm: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer source.Close()
	buffer := make([]byte, min(size, piece))
	return writeDevice(ctx, to, 0, size, func(w *os.File, offset, n int64) error {
		if _, err := source.ReadAt(buffer[:n], offset); err != nil {
			return err
		}
		return writeOrZero(w, buffer[:n], offset)
	})
}

// writeOrZero writes data, which costs less if it is nothing but zeros.
func writeOrZero(w *os.File, data []byte, offset int64) error {
	if len(data) > 0 && data[0] == 0 && bytes.Equal(data[1:], data[:len(data)-1]) {
		if err := zeroOut(w, offset, int64(len(data))); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	_, err := w.WriteAt(data, offset)
	return err
}

// zeroDevice writes zeros from a byte to the one before another.
func zeroDevice(ctx context.Context, path string, begin, end int64) error {
	return writeDevice(ctx, path, begin, end, func(w *os.File, offset, n int64) error {
		err := zeroOut(w, offset, n)
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		zeros := make([]byte, 1<<20)
		for n > 0 {
			part := min(n, int64(len(zeros)))
			if _, err := w.WriteAt(zeros[:part], offset); err != nil {
				return err
			}
			offset, n = offset+part, n-part
		}
		return nil
	})
}

// writeDevice has all pieces of a part of a device written, and flushed.
func writeDevice(ctx context.Context, path string, begin, end int64, write func(w *os.File, offset, n int64) error) (err error) {
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("lvm: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for offset := begin; offset < end; offset += piece {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := write(w, offset, min(piece, end-offset)); err != nil {
			return fmt.Errorf("lvm: writing %s: %w: %w", path, err, errdefs.ErrUnavailable)
		}
	}
	if err := w.Sync(); err != nil {
		return fmt.Errorf("lvm: %w: %w", err, errdefs.ErrUnavailable)
	}
	return nil
}
