package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// File is a file to be written into a disk.
type File struct {
	Name    string // absolute, of letters, digits and ._-; its directory must be there
	Content []byte // at most 1 MiB
}

// diskTools are what a disk with files of its own takes.
type diskTools interface {
	Convert(ctx context.Context, src string, srcFormat inspect.Format, dst string, dstFormat inspect.Format, maxBytes int64) error
}

type fileWriter interface {
	Write(ctx context.Context, disk, name string, content []byte) error
}

const rawFile = "disk.raw"

// DiskWithFiles is [Cache.Disk], but with files written into the ext2, ext3 or ext4 file system of the image, as root's and with mode 0644. The disk
// is a raw file of the instance alone, for which all of the image is copied: the copy that instances share is never written.
//
// It is idempotent: a disk that is there stays as it is, with all the guest wrote, whatever files are named. Its errors are those of Disk; an image
// without such a file system, or without a file's directory, is InvalidArgument, one that was not unmounted
// FailedPrecondition. After an error there is no disk.
func (c *Cache) DiskWithFiles(ctx context.Context, instanceID string, img Image, sizeGiB int, files []File) (Disk, error) {
	if err := checkDisk(instanceID, img, sizeGiB); err != nil {
		return Disk{}, err
	}
	unlock, err := c.busy.lock(ctx, instanceID)
	if err != nil {
		return Disk{}, err
	}
	defer unlock()
	switch {
	case c.exists(instancePath(instanceID, rawFile)):
		return c.rawDisk(instanceID)
	case c.exists(instancePath(instanceID, diskFile)):
		return Disk{}, fmt.Errorf("instance %s has a disk without files of its own: %w", instanceID, errdefs.ErrFailedPrecondition)
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
	if err := c.makeRaw(ctx, instanceID, base, img.Format, size, files); err != nil {
		return Disk{}, err
	}
	return c.rawDisk(instanceID)
}

// makeRaw makes the disk under a name of its own, flushes it, and gives it its name.
func (c *Cache) makeRaw(ctx context.Context, instanceID, base string, format Format, size int64, files []File) error {
	if err := c.removeNewDisks(instanceID); err != nil {
		return err
	}
	tmp := instancePath(instanceID, newDisk+rand.Text())
	err := c.tools.Convert(ctx, c.abs(base), format, c.abs(tmp), inspect.Raw, size)
	if err == nil {
		err = c.grow(tmp, size)
	}
	for _, f := range files {
		if err == nil {
			err = c.writer.Write(ctx, c.abs(tmp), f.Name, f.Content)
		}
	}
	if err == nil {
		err = c.syncFile(tmp)
	}
	if err == nil {
		err = c.root.Rename(tmp, instancePath(instanceID, rawFile))
	}
	if err != nil {
		_ = c.root.Remove(tmp) // what stays goes with the next attempt or with Release
		return diskError(err)
	}
	_ = c.root.Remove(base) // the instance needs the base no more; if it stays, it goes with the instance
	return c.syncInstance(instanceID)
}

// grow makes a raw disk as large as it is to be: what is behind its content is a hole.
func (c *Cache) grow(name string, size int64) error {
	f, err := c.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// rawDisk describes the disk that [Cache.DiskWithFiles] made. Its format is known by its name, and never looked for in what the guest
// wrote.
func (c *Cache) rawDisk(instanceID string) (Disk, error) {
	name := instancePath(instanceID, rawFile)
	info, err := fs.Stat(c.root.FS(), name)
	if err != nil {
		return Disk{}, err
	}
	return Disk{Path: c.abs(name), Format: Raw, VirtualBytes: info.Size()}, nil
}

// bootFiles adds the kernel and the ramdisk that the instance has.
func (c *Cache) bootFiles(instanceID string, all *InstanceFiles) error {
	entries, err := fs.ReadDir(c.root.FS(), path.Join(instancesDir, instanceID))
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch path.Ext(e.Name()) {
		case "." + string(Kernel):
			all.Kernel = c.abs(instancePath(instanceID, e.Name()))
		case "." + string(Ramdisk):
			all.Ramdisk = c.abs(instancePath(instanceID, e.Name()))
		}
	}
	return nil
}
