package file

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// promise takes room for a call, until release: by then what it made is there to be counted.
func (d *Driver) promise(id string, bytes int64) (release func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, free, err := d.room()
	if err != nil {
		return nil, err
	}
	if bytes > free {
		return nil, fmt.Errorf("volume %s: %d GiB asked, %d free: %w", id, bytes/gib, max(0, free)/gib, errdefs.ErrResourceExhausted)
	}
	d.promised[id] = bytes
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.promised, id)
	}, nil
}

// room returns how much there is and how much of it can still be given away, in bytes. d.mu is held.
func (d *Driver) room() (total, free int64, err error) {
	all, err := d.all()
	if err != nil {
		return 0, 0, err
	}
	var given, unwritten int64
	for _, e := range all {
		given += e.bytes
		unwritten += max(0, e.bytes-e.allocated)
	}
	for _, more := range d.promised {
		given, unwritten = given+more, unwritten+more
	}
	if d.cfg.TotalGiB > 0 {
		total = int64(d.cfg.TotalGiB) * gib
		return total, total - given, nil
	}
	dir, err := d.root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer dir.Close()
	total, available, err := statfs(dir)
	// What files share counts in each of them as written, so what was given bounds it too.
	return total, min(available-unwritten, total-given), err
}
