package compute

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// BootVolume says which volume an instance boots from: one that there is, or one that is made for it.
type BootVolume struct {
	// Exactly one of these: a volume that is available, or what a new one is made of, as in a volume.CreateRequest.
	Volume, Snapshot, Image string

	SizeGiB int // of a new volume; 0: that of what it is made of

	// DeleteOnTermination has the volume deleted when the instance is terminated, and one that was made for it also if the launch fails. Else
	// it is available then.
	DeleteOnTermination bool
}

// bootDevice is what an instance's guest calls the volume that it boots from.
const bootDevice = "vda"

// actions are what a caller must be allowed to do besides running instances.
func (b *BootVolume) actions() []string {
	switch {
	case b == nil:
		return nil
	case b.Volume != "":
		return []string{"compute:volume:attach"}
	}
	return []string{"compute:volume:attach", "volume:create"}
}

func (b *BootVolume) check() error {
	if b == nil {
		return nil
	}
	given := 0
	for _, from := range []string{b.Volume, b.Snapshot, b.Image} {
		if from != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return fmt.Errorf("compute: BootVolume names %d of Volume, Snapshot and Image, must name one: %w", given, errdefs.ErrInvalidArgument)
	case b.SizeGiB != 0 && b.Volume != "":
		return fmt.Errorf("compute: BootVolume.SizeGiB is %d, must be 0 with Volume, which has a size: %w", b.SizeGiB, errdefs.ErrInvalidArgument)
	}
	return nil
}

// bootOf fills in what an instance that boots from a volume boots with: what the image of the volume says, as long as the caller can see
// that; without it, the volume boots by itself. It takes no disk of its host.
func (i *Instance) bootOf(r state.Reader, caller auth.Caller, b BootVolume) error {
	i.Flavor.DiskGiB = 0
	imageID := b.Image
	switch {
	case b.Volume != "":
		v, err := volume.Owned(r, caller, b.Volume)
		if err != nil {
			return err
		}
		if v.ProjectID != i.ProjectID {
			return fmt.Errorf("compute: BootVolume.Volume %s is another project's: %w", v.ID, errdefs.ErrInvalidArgument)
		}
		imageID = v.ImageID
	case b.Snapshot != "":
		if s, err := volume.Snapshots.Get(r, b.Snapshot); err == nil { // whose it is, is looked at when the volume is made
			imageID = s.ImageID
		}
	}
	if b.Image == "" {
		if img, err := image.Visible(r, caller, imageID); err != nil || img.Status != image.Active {
			return nil
		}
	}
	return i.boot(r, caller, imageID)
}

// claimBoot gives the instance, which has its host, its volume.
func (i *Instance) claimBoot(tx *state.Tx, members *scheduler.Members, caller auth.Caller, b BootVolume) error {
	r := volume.Reservation{VolumeID: b.Volume, InstanceID: i.ID, NodeID: i.HostID, Device: bootDevice, Initiator: InitiatorOf(i.HostID),
		DeleteOnTermination: b.DeleteOnTermination}
	var at volume.Attachment
	var err error
	if b.Volume != "" {
		at, err = volume.Reserve(tx, caller, r)
	} else {
		i.BootMade = true
		at, err = volume.CreateReserved(tx, members, caller, volume.CreateRequest{Name: i.Name, SizeGiB: b.SizeGiB, Snapshot: b.Snapshot, Image: b.Image}, r)
	}
	i.BootVolume = at.VolumeID
	return err
}

// bootAttachment returns the attachment of the volume that an instance boots from; not found if it has none, or has no more.
func bootAttachment(r state.Reader, i Instance) (at volume.Attachment, found bool) {
	if i.BootVolume == "" {
		return at, false
	}
	at, err := volume.Attachments.Get(r, i.BootVolume)
	return at, err == nil && at.InstanceID == i.ID
}

// awaitBoot waits until the volume that the instance boots from is made and exported.
func (a *Agent) awaitBoot(ctx context.Context, w *work) error {
	var i Instance
	var at volume.Attachment
	err := a.cfg.Store.View(func(r *state.View) (err error) {
		if i, err = Instances.Get(r, w.InstanceID); err == nil {
			at, _ = bootAttachment(r, i)
		}
		return err
	})
	if err != nil || i.BootVolume == "" {
		return err
	}
	return a.awaitExport(ctx, &volumeWork{*w, i.BootVolume, at.Epoch})
}

// confirmBoot records that the instance uses the volume that it boots from.
func confirmBoot(tx *state.Tx, w *work) error {
	i, err := Instances.Get(tx, w.InstanceID)
	if err != nil {
		return ended(err)
	}
	if at, found := bootAttachment(tx, i); found {
		return ended(volume.Confirm(tx, at.VolumeID, at.Epoch, ""))
	}
	return nil
}

// releaseBoot gives the volume back that an instance was to boot from, whose launch failed. What others made is deleted only if the
// instance is being terminated.
func releaseBoot(tx *state.Tx, w *work, reason string) error {
	i, err := Instances.Get(tx, w.InstanceID)
	if err != nil || i.BootVolume == "" {
		return ended(err)
	}
	at, found := bootAttachment(tx, i)
	if !found {
		if i.BootMade {
			return volume.Discard(tx, i.BootVolume)
		}
		return nil
	}
	v, err := volume.Volumes.Get(tx, i.BootVolume)
	if err != nil {
		return ended(err)
	}
	return volume.Release(tx, at.VolumeID, at.Epoch, reason, v.DeleteOnTermination && (i.BootMade || i.Task == TaskDeleting))
}
