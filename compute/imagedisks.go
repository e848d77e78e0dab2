package compute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// ImageDisksConfig is what [ImageDisks] are made of.
type ImageDisksConfig struct {
	Store *state.Store // required: where the records of images are
	Cache *image.Cache // required: the host's; whoever made it closes it, when no agent uses it any more

	// ConsoleDir holds the console logs and config drives, each in a directory of its instance. It is made if it does not exist, its parent
	// must. Required.
	ConsoleDir string

	// Unused is how long a copy of an image is kept that no instance uses; 0: 24 h.
	Unused time.Duration
}

// ImageDisks are [Disks] made from images by the host's [image.Cache]: the root disk is an overlay on the host's one copy of
// the image, as large as the flavor says, or a copy of its own if the image's property inject_network is "interfaces": then
// /etc/network/interfaces is written into it, into the file system of its root; kernel and ramdisk are those that the image is registered with.
//
// What is on the host is enough to start an instance again: its image may be deleted meanwhile.
type ImageDisks struct {
	cfg ImageDisksConfig
}

var (
	_ Disks   = (*ImageDisks)(nil)
	_ Sweeper = (*ImageDisks)(nil)
)

// NewImageDisks checks the configuration and makes the directory. It starts nothing and holds nothing open.
func NewImageDisks(cfg ImageDisksConfig) (*ImageDisks, error) {
	bad := func(format string, args ...any) (*ImageDisks, error) {
		return nil, fmt.Errorf("compute: ImageDisksConfig."+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case cfg.Store == nil:
		return bad("Store is required")
	case cfg.Cache == nil:
		return bad("Cache is required")
	case cfg.ConsoleDir == "":
		return bad("ConsoleDir is required")
	case cfg.Unused < 0:
		return bad("Unused is %v, must be at least 0", cfg.Unused)
	}
	if cfg.Unused == 0 {
		cfg.Unused = 24 * time.Hour
	}
	var err error
	if cfg.ConsoleDir, err = filepath.Abs(cfg.ConsoleDir); err != nil {
		return nil, err
	}
	if err := makeDir(cfg.ConsoleDir); err != nil {
		return nil, err
	}
	return &ImageDisks{cfg}, nil
}

// Make implements [Disks].
func (d *ImageDisks) Make(ctx context.Context, i Instance) (Files, error) {
	if err := checkInstanceID(i.ID); err != nil {
		return Files{}, err
	}
	have, err := d.files(ctx, i)
	if errdefs.IsNotFound(err) {
		if err = d.fetch(ctx, i); err == nil {
			have, err = d.files(ctx, i)
		}
	}
	if err != nil {
		return Files{}, err
	}
	dir := filepath.Join(d.cfg.ConsoleDir, i.ID)
	if err := makeDir(dir); err != nil {
		return Files{}, err
	}
	drive, err := d.drive(ctx, i, dir)
	if err != nil {
		return Files{}, err
	}
	if i.BootVolume != "" {
		return Files{Kernel: have.Kernel, Ramdisk: have.Ramdisk, Cmdline: i.Cmdline, Disks: drive, ConsoleLog: filepath.Join(dir, "console.log")}, nil
	}
	root := Disk{Path: have.Disk.Path, Format: string(have.Disk.Format), Serial: rootSerial(i.ID)}
	if have.Disk.Base != "" {
		root.Backing = []BackingFile{{Path: have.Disk.Base, Format: string(have.Disk.BaseFormat)}}
	}
	return Files{Kernel: have.Kernel, Ramdisk: have.Ramdisk, Cmdline: i.Cmdline, Disks: append([]Disk{root}, drive...),
		ConsoleLog: filepath.Join(dir, "console.log")}, nil
}

// files returns what the instance has here; NotFound: not all of it.
func (d *ImageDisks) files(ctx context.Context, i Instance) (image.InstanceFiles, error) {
	if i.BootVolume == "" {
		return d.cfg.Cache.Files(ctx, i.ID)
	}
	have, err := d.cfg.Cache.BootFiles(ctx, i.ID)
	if err == nil && (i.KernelID != "" && have.Kernel == "" || i.RamdiskID != "" && have.Ramdisk == "") {
		err = fmt.Errorf("instance %s has no kernel or no ramdisk here: %w", i.ID, errdefs.ErrNotFound)
	}
	return have, err
}

// An image that has no cloud-init, and has this property, gets its network's configuration written into its root file system.
const (
	injects           = "inject_network"
	injectsInterfaces = "interfaces" // /etc/network/interfaces, of Debian's ifupdown and busybox
)

// fetch makes the instance's files out of its image. The boot files come first: an instance that has a disk has them all.
func (d *ImageDisks) fetch(ctx context.Context, i Instance) error {
	records := map[string]image.Image{}
	err := d.cfg.Store.View(func(v *state.View) error {
		for _, id := range []string{i.ImageID, i.KernelID, i.RamdiskID} {
			if id == "" || id == i.ImageID && i.BootVolume != "" {
				continue
			}
			img, err := image.Images.Get(v, id)
			if err != nil {
				return err
			}
			records[id] = img
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range []string{i.KernelID, i.RamdiskID} {
		if id == "" {
			continue
		}
		if _, err := d.cfg.Cache.BootFile(ctx, i.ID, records[id]); err != nil {
			return err
		}
	}
	if i.BootVolume != "" {
		return nil
	}
	img := records[i.ImageID]
	if img.Properties[injects] != injectsInterfaces {
		_, err = d.cfg.Cache.Disk(ctx, i.ID, img, i.Flavor.DiskGiB)
		return err
	}
	var g guestdata.Guest
	if err := d.cfg.Store.View(func(v *state.View) (err error) { g, err = GuestData(v, i.ID); return err }); err != nil {
		return err
	}
	_, err = d.cfg.Cache.DiskWithFiles(ctx, i.ID, img, i.Flavor.DiskGiB, []image.File{{Name: "/etc/network/interfaces", Content: g.Interfaces()}})
	return err
}

// Remove implements [Disks].
func (d *ImageDisks) Remove(ctx context.Context, instanceID string) error {
	if err := checkInstanceID(instanceID); err != nil {
		return err
	}
	if err := d.cfg.Cache.Release(ctx, instanceID); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(d.cfg.ConsoleDir, instanceID))
}

// List implements [Disks].
func (d *ImageDisks) List(ctx context.Context) ([]string, error) {
	ids, err := d.cfg.Cache.List(ctx)
	if err != nil {
		return nil, err
	}
	logs, err := os.ReadDir(d.cfg.ConsoleDir)
	if err != nil {
		return nil, err
	}
	for _, e := range logs {
		if isUUID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Sweep implements [Sweeper]: it removes the copies of images that no instance has used for as long as the configuration
// says. One that an instance uses stays, whatever happened to the image.
func (d *ImageDisks) Sweep(ctx context.Context) error {
	_, err := d.cfg.Cache.Sweep(ctx, d.cfg.Unused)
	return err
}

// makeDir makes a directory that can be entered but not listed by others: a hypervisor that does not run as root must get
// at the files in it.
func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// checkInstanceID keeps what is no id out of paths.
func checkInstanceID(id string) error {
	if !isUUID(id) {
		return fmt.Errorf("compute: instance %.64q is not a UUID in its 36-character lower-case form: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// rootSerial is what the guest sees as the serial number of its root disk: as much of the id as there is room for.
func rootSerial(id string) string { return strings.ReplaceAll(id, "-", "")[:mostSerial] }
