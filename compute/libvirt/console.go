package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"libvirt.org/go/libvirtxml"
)

// Console implements compute.Hypervisor. It reads the file that the domain names, so it must run on the host. virtlogd moves
// a file that is full aside, to the same name with .0, .1 and so on: the one that was moved last is read, too.
func (h *Hypervisor) Console(ctx context.Context, id string, max int) ([]byte, error) {
	if max < 1 {
		return nil, fmt.Errorf("libvirt: console of %s: max is %d, must be at least 1: %w", id, max, errdefs.ErrInvalidArgument)
	}
	var log string
	err := h.do(ctx, func(w wire) error {
		d, err := find(w, id)
		if err != nil {
			return err
		}
		text, err := w.DomainGetXMLDesc(d, 0)
		if err != nil {
			return err
		}
		log, err = consoleLog(text)
		return err
	})
	if err != nil || log == "" {
		return nil, err
	}
	now, err := tail(log, max)
	if err != nil {
		return nil, err
	}
	if len(now) < max {
		before, err := tail(log+".0", max-len(now))
		if err != nil {
			return nil, err
		}
		now = append(before, now...)
	}
	return now, nil
}

// consoleLog returns the file that the first serial port of a domain is written to; "" if there is none.
func consoleLog(description string) (string, error) {
	var d libvirtxml.Domain
	if err := d.Unmarshal(description); err != nil {
		return "", fmt.Errorf("libvirt: a domain that can't be read: %w: %w", err, errdefs.ErrInternal)
	}
	if d.Devices == nil || len(d.Devices.Serials) == 0 || d.Devices.Serials[0].Log == nil {
		return "", nil
	}
	return d.Devices.Serials[0].Log.File, nil
}

// tail returns the last max bytes of a file; of one that is not there, nothing.
func tail(path string, max int) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("libvirt: console log: %w: %w", err, errdefs.ErrInternal)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("libvirt: console log: %w: %w", err, errdefs.ErrInternal)
	}
	b := make([]byte, min(size, int64(max)))
	n, err := f.ReadAt(b, size-int64(len(b)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("libvirt: console log: %w: %w", err, errdefs.ErrInternal)
	}
	return b[:n], nil
}
