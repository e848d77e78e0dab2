package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// BootFile makes the content of img, a kernel or a ramdisk, a file of the instance and returns its absolute path.
// The file is shared with other instances and read-only. It is idempotent, with the errors of [Cache.Disk].
func (c *Cache) BootFile(ctx context.Context, instanceID string, img Image) (string, error) {
	if err := checkName("id of an instance", instanceID); err != nil {
		return "", err
	}
	if err := checkUsable(img); err != nil {
		return "", err
	}
	if img.Format.Disk() {
		return "", fmt.Errorf("image %s is a %s image, must be a kernel (aki) or a ramdisk (ari): %w", img.ID, img.Format,
			errdefs.ErrInvalidArgument)
	}
	unlock, err := c.busy.lock(ctx, instanceID)
	if err != nil {
		return "", err
	}
	defer unlock()
	own, _, err := c.adopt(ctx, instanceID, img)
	if err != nil {
		return "", err
	}
	return c.abs(own), c.syncInstance(instanceID)
}

// InstanceFiles is what an instance has on this node.
type InstanceFiles struct {
	Disk            Disk
	Kernel, Ramdisk string // absolute paths; empty where the instance has none
}

// BootFiles returns what [Cache.BootFile] made for an instance that has no disk here: nothing, if nothing was made. Whether that is all is for
// the caller to know.
func (c *Cache) BootFiles(ctx context.Context, instanceID string) (all InstanceFiles, err error) {
	if err := checkName("id of an instance", instanceID); err != nil {
		return all, err
	}
	unlock, err := c.busy.lock(ctx, instanceID)
	if err != nil {
		return all, err
	}
	defer unlock()
	if c.exists(path.Join(instancesDir, instanceID)) {
		err = c.bootFiles(instanceID, &all)
	}
	return all, err
}

// Files returns what [Cache.Disk] and [Cache.BootFile] made for an instance, from what is on the node alone: an instance
// can be started again when its image is long deleted. An instance without a disk is NotFound, and so whoever
// makes the boot files before the disk never sees a part of them. A disk that is damaged, or whose base is gone, is DataLoss.
func (c *Cache) Files(ctx context.Context, instanceID string) (InstanceFiles, error) {
	if err := checkName("id of an instance", instanceID); err != nil {
		return InstanceFiles{}, err
	}
	unlock, err := c.busy.lock(ctx, instanceID)
	if err != nil {
		return InstanceFiles{}, err
	}
	defer unlock()
	if c.exists(instancePath(instanceID, rawFile)) {
		raw, err := c.rawDisk(instanceID)
		if err != nil {
			return InstanceFiles{}, err
		}
		all := InstanceFiles{Disk: raw}
		return all, c.bootFiles(instanceID, &all)
	}
	f, err := c.root.Open(instancePath(instanceID, diskFile))
	if errors.Is(err, fs.ErrNotExist) {
		return InstanceFiles{}, fmt.Errorf("instance %s has no disk on this node: %w", instanceID, errdefs.ErrNotFound)
	}
	if err != nil {
		return InstanceFiles{}, err
	}
	defer f.Close()
	overlay, err := inspect.ReadOverlay(f)
	if err != nil {
		return InstanceFiles{}, fmt.Errorf("disk of instance %s: %w", instanceID, err)
	}
	base := instancePath(instanceID, filepath.Base(overlay.Backing))
	format := Format(strings.TrimPrefix(path.Ext(base), "."))
	if overlay.Backing != c.abs(base) || !format.Disk() || !c.exists(base) {
		return InstanceFiles{}, fmt.Errorf("disk of instance %s is over another file than its base here: %w", instanceID,
			errdefs.ErrDataLoss)
	}
	all := InstanceFiles{Disk: c.disk(instanceID, base, format, overlay.VirtualBytes)}
	return all, c.bootFiles(instanceID, &all)
}
