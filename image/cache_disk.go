package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// Disk is an instance's disk, ready to be given to a hypervisor.
type Disk struct {
	Path         string // absolute
	Format       Format // to be given on with the path, never probed: QCOW2, or Raw of one with files of its own
	VirtualBytes int64  // what the guest sees

	// Base is what shows through where Path was not written to: an absolute path, read-only, with nothing below it. "" of a raw disk.
	Base       string
	BaseFormat Format
}

// disk describes an instance's disk of size bytes over a base, both paths within the root.
func (c *Cache) disk(instanceID, base string, format Format, size int64) Disk {
	return Disk{Path: c.abs(instancePath(instanceID, diskFile)), Format: QCOW2, VirtualBytes: size, Base: c.abs(base),
		BaseFormat: format}
}

const (
	diskFile   = "disk.qcow2"
	newDisk    = "disk.new-" // beginning of the name of a disk that is being made
	maxDiskGiB = 1 << 20
)

// Disk makes the root disk of an instance, of sizeGiB GiB, with the content of img, which must be an active raw or
// qcow2 image; with sizeGiB 0 the disk is as large as the image's. It returns when the disk is on stable storage.
//
// It is idempotent: if the disk is there it is returned as it is, with all the guest wrote. One that was made of
// another image or with another size is FailedPrecondition; [Cache.Release] it first. A size smaller than the
// image's disk is InvalidArgument, content that is not what img says DataLoss, an image whose content inspection
// refuses InvalidArgument, a full disk or an exceeded limit ResourceExhausted. After an error, and after a kill, the
// instance may be in [Cache.List] without having a disk: repeat the call or Release it.
func (c *Cache) Disk(ctx context.Context, instanceID string, img Image, sizeGiB int) (Disk, error) {
	if err := checkDisk(instanceID, img, sizeGiB); err != nil {
		return Disk{}, err
	}
	unlock, err := c.busy.lock(ctx, instanceID)
	if err != nil {
		return Disk{}, err
	}
	defer unlock()
	if c.exists(instancePath(instanceID, rawFile)) {
		return Disk{}, fmt.Errorf("instance %s has a disk with files of its own: %w", instanceID, errdefs.ErrFailedPrecondition)
	}
	old, err := c.existingDisk(instanceID, img, sizeGiB)
	if !errors.Is(err, fs.ErrNotExist) {
		return old, err
	}
	base, info, err := c.adopt(ctx, instanceID, img)
	if err != nil {
		return Disk{}, err
	}
	size := int64(sizeGiB) << 30
	if sizeGiB == 0 {
		size = info.VirtualBytes
	}
	if size < info.VirtualBytes {
		return Disk{}, tooSmall(img, sizeGiB, info.VirtualBytes)
	}
	if err := c.makeOverlay(ctx, instanceID, size, base, img.Format); err != nil {
		return Disk{}, err
	}
	return c.disk(instanceID, base, img.Format, size), nil
}

func checkDisk(instanceID string, img Image, sizeGiB int) error {
	if err := checkName("id of an instance", instanceID); err != nil {
		return err
	}
	if err := checkUsable(img); err != nil {
		return err
	}
	switch {
	case !img.Format.Disk():
		return fmt.Errorf("image %s is a %s image, a disk needs raw or qcow2: %w", img.ID, img.Format, errdefs.ErrInvalidArgument)
	case sizeGiB < 0 || sizeGiB > maxDiskGiB:
		return fmt.Errorf("size of a disk is %d GiB, must be 0 to %d: %w", sizeGiB, maxDiskGiB, errdefs.ErrInvalidArgument)
	case sizeGiB > 0 && int64(sizeGiB)<<30 < img.VirtualBytes:
		return tooSmall(img, sizeGiB, img.VirtualBytes)
	}
	return nil
}

func tooSmall(img Image, sizeGiB int, virtual int64) error {
	return fmt.Errorf("disk of %d GiB is too small for image %s, whose disk has %d bytes: %w", sizeGiB, img.ID, virtual,
		errdefs.ErrInvalidArgument)
}

// existingDisk returns the disk that the instance has, if it is the one that is asked for, or fs.ErrNotExist.
func (c *Cache) existingDisk(instanceID string, img Image, sizeGiB int) (Disk, error) {
	f, err := c.root.Open(instancePath(instanceID, diskFile))
	if err != nil {
		return Disk{}, err
	}
	defer f.Close()
	overlay, err := inspect.ReadOverlay(f)
	if err != nil {
		return Disk{}, fmt.Errorf("disk of instance %s: %w", instanceID, err)
	}
	own := instancePath(instanceID, baseName(img))
	if overlay.Backing != c.abs(own) {
		return Disk{}, fmt.Errorf("instance %s has a disk of another image than %s: %w", instanceID, img.ID,
			errdefs.ErrFailedPrecondition)
	}
	info, err := c.inspect(own, img)
	if errors.Is(err, fs.ErrNotExist) {
		return Disk{}, fmt.Errorf("disk of instance %s has lost its base: %w", instanceID, errdefs.ErrDataLoss)
	}
	if err != nil {
		return Disk{}, err
	}
	want := int64(sizeGiB) << 30
	if sizeGiB == 0 {
		want = info.VirtualBytes
	}
	if overlay.VirtualBytes != want {
		return Disk{}, fmt.Errorf("instance %s has a disk of %d bytes, not the %d asked for: %w", instanceID,
			overlay.VirtualBytes, want, errdefs.ErrFailedPrecondition)
	}
	return c.disk(instanceID, own, img.Format, want), nil
}

// makeOverlay makes the disk under a name of its own, flushes it, and gives it its name.
func (c *Cache) makeOverlay(ctx context.Context, instanceID string, size int64, base string, format Format) error {
	if err := c.removeNewDisks(instanceID); err != nil {
		return err
	}
	tmp := instancePath(instanceID, newDisk+rand.Text())
	err := c.overlays.CreateOverlay(ctx, c.abs(tmp), size, c.abs(base), format)
	if err == nil {
		err = c.syncFile(tmp)
	}
	if err == nil {
		err = c.root.Rename(tmp, instancePath(instanceID, diskFile))
	}
	if err != nil {
		_ = c.root.Remove(tmp) // what stays goes with the next attempt or with Release
		return diskError(err)
	}
	return c.syncInstance(instanceID)
}

// removeNewDisks removes what attempts that were killed left behind.
func (c *Cache) removeNewDisks(instanceID string) error {
	dir := path.Join(instancesDir, instanceID)
	entries, err := fs.ReadDir(c.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newDisk) {
			if err := c.root.Remove(path.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cache) syncFile(name string) error {
	f, err := c.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (c *Cache) syncInstance(instanceID string) error {
	if err := syncDir(c.root, path.Join(instancesDir, instanceID)); err != nil {
		return err
	}
	return syncDir(c.root, instancesDir)
}
