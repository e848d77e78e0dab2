package compute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
	"github.com/dewpoint-cloud/dewpoint/compute/internal/configdrive"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// What an instance may have as a config drive: a small read-only disk with what it may know about itself.
const (
	DriveOpenStack = string(configdrive.OpenStack) // OpenStack's documents, found by the label config-2
	DriveNoCloud   = string(configdrive.NoCloud)   // NoCloud's of cloud-init, found by the label cidata
	DriveNone      = "none"
)

// mandatoryDrive is the property of an image that can't do without, as in OpenStack.
const mandatoryDrive = "img_config_drive"

// chooseDrive returns which config drive an instance gets. One that nothing else tells its addresses gets one.
func chooseDrive(r state.Reader, req RunRequest, imageID string, nets []string) string {
	switch req.ConfigDrive {
	case "":
	case DriveNone:
		return ""
	default:
		return req.ConfigDrive
	}
	if img, err := image.Images.Get(r, imageID); err == nil && img.Properties[mandatoryDrive] == "mandatory" {
		return DriveOpenStack
	}
	for _, id := range nets {
		if n, err := network.Networks.Get(r, id); err == nil && !answersDHCP(n) {
			return DriveOpenStack
		}
	}
	return ""
}

// answersDHCP tells whether guests are told their addresses on the network itself.
func answersDHCP(n network.Network) bool { return n.Mode != network.Flat }

const (
	driveFile = "config.iso"
	newDrive  = "config.new-" // beginning of the name of one that is being made
)

// drive makes the instance's config drive in its directory, if it has one and none is there.
func (d *ImageDisks) drive(ctx context.Context, i Instance, dir string) ([]Disk, error) {
	if i.ConfigDrive == "" {
		return nil, nil
	}
	disk := Disk{Path: filepath.Join(dir, driveFile), Format: "raw", ReadOnly: true, Serial: "config"}
	if _, err := os.Stat(disk.Path); !errors.Is(err, fs.ErrNotExist) {
		return []Disk{disk}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var g guestdata.Guest
	if err := d.cfg.Store.View(func(v *state.View) (err error) { g, err = GuestData(v, i.ID); return err }); err != nil {
		return nil, err
	}
	if err := writeDrive(dir, i.ConfigDrive, g); err != nil {
		return nil, fmt.Errorf("compute: config drive of instance %s: %w", i.ID, err)
	}
	return []Disk{disk}, nil
}

// writeDrive writes the drive under a name of its own, flushes it, and gives it its name. It removes what attempts that were killed
// left.
func writeDrive(dir, format string, g guestdata.Guest) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newDrive) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	f, err := os.CreateTemp(dir, newDrive) // for nobody else to read; libvirt gives it to the hypervisor's user
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // unless it has been renamed
	err = configdrive.Write(f, configdrive.Format(format), g)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, driveFile)); err != nil {
		return err
	}
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// checkDrive refuses what is no config drive.
func checkDrive(format string) error {
	switch format {
	case "", DriveNone, DriveOpenStack, DriveNoCloud:
		return nil
	}
	return fmt.Errorf("compute: ConfigDrive is %.40q, must be %q, %q, %q or empty: %w", format, DriveOpenStack, DriveNoCloud, DriveNone,
		errdefs.ErrInvalidArgument)
}
