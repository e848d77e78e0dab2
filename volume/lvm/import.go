package lvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Import implements volume.Driver. Blocks of zeros are not written: the volume has them already.
func (d *Driver) Import(ctx context.Context, id, path string, sizeGiB int) error {
	return d.call(ctx, func() error { return d.make(ctx, volume.Info{ID: id, SizeGiB: sizeGiB}, "", &rawFile{path: path}) }, id)
}

// rawFile is a file or device of the host that a volume begins with; nil: none.
type rawFile struct {
	path string
	size int64 // once it was checked
}

// check looks whether it is there and has at most so many bytes.
func (r *rawFile) check(most int64) error {
	if r == nil {
		return nil
	}
	if !filepath.IsAbs(r.path) {
		return fmt.Errorf("the path of what is imported is not absolute: %w", errdefs.ErrInvalidArgument)
	}
	info, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("what is imported: %w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if mode := info.Mode(); !mode.IsRegular() && mode&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		return fmt.Errorf("what is imported is neither a file nor a block device: %w", errdefs.ErrInvalidArgument)
	}
	f, err := os.Open(r.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if r.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if r.size > most {
		return fmt.Errorf("the volume is smaller than the %d bytes of what is imported: %w", r.size, errdefs.ErrInvalidArgument)
	}
	return nil
}

// copy writes it to a device that reads as zeros.
func (r *rawFile) copy(ctx context.Context, to string) error {
	if r == nil {
		return nil
	}
	source, err := os.Open(r.path)
	if err != nil {
		return err
	}
	defer source.Close()
	buffer, zeros := make([]byte, 256<<10), make([]byte, 256<<10)
	return writeDevice(ctx, to, 0, r.size, func(w *os.File, offset, n int64) error {
		for end := offset + n; offset < end; offset += int64(len(buffer)) {
			part := buffer[:min(int64(len(buffer)), end-offset)]
			if _, err := source.ReadAt(part, offset); err != nil {
				return err
			}
			if bytes.Equal(part, zeros[:len(part)]) {
				continue
			}
			if _, err := w.WriteAt(part, offset); err != nil {
				return err
			}
		}
		return nil
	})
}
