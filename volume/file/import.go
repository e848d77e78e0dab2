package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Import implements volume.Driver. Where the file is on the volumes' own file system, and that can do it, its blocks are shared; holes stay holes.
func (d *Driver) Import(ctx context.Context, id, path string, sizeGiB int) error {
	return d.call(ctx, func() error {
		return d.make(ctx, entry{Info: volume.Info{ID: id, SizeGiB: sizeGiB}}, &origin{open: func() (*os.File, error) { return openRaw(path, int64(sizeGiB)*gib) }})
	}, id)
}

// openRaw opens a file or device that has at most so many bytes.
func openRaw(path string, most int64) (f *os.File, err error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("the path of what is imported is not absolute: %w", errdefs.ErrInvalidArgument)
	}
	// Looked at first: to open what is neither may wait for somebody.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() && mode&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		return nil, fmt.Errorf("what is imported is neither a file nor a block device: %w", errdefs.ErrInvalidArgument)
	}
	if f, err = os.Open(path); err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil && size > most {
		err = fmt.Errorf("%d GiB are smaller than the %d bytes of what is imported: %w", most/gib, size, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
