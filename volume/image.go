package volume

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// ImageRequest asks for an image of what a volume or a snapshot holds.
type ImageRequest struct {
	Volume   string // the id of a volume that is available; of one in use, a snapshot is made first
	Snapshot string // or that of a snapshot
	Name     string // required; as of an image
	Token    string // as in [CreateRequest]: the same token and request return what the first one made
}

// CreateImage makes a private image, in the format qcow2, of what a volume or a snapshot holds, which can't be deleted or, if it is a volume, attached, until that is
// done. It boots with what the image booted with that the volume was made of. CreateImage returns the record at once, in the status
// [image.Uploading]; it becomes [image.Active] when all of the content is there, or [image.Failed] with the reason. InvalidArgument names the field, and
// NotFound is an unknown reference.
func (s *Service) CreateImage(ctx context.Context, req ImageRequest) (img image.Image, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "volume:image", "")
	if err != nil {
		return img, err
	}
	if _, err := s.cfg.Policy.Authorize(ctx, "image:register", ""); err != nil {
		return img, err
	}
	if (req.Volume == "") == (req.Snapshot == "") {
		return img, wrong("exactly one of Volume and Snapshot must be given")
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error { img, err = createImage(tx, caller, req); return err })
	if err != nil {
		return image.Image{}, err
	}
	return img, nil
}

func createImage(tx *state.Tx, caller auth.Caller, req ImageRequest) (image.Image, error) {
	v := Volume{ID: req.Volume}
	w := work{}
	if req.Snapshot != "" {
		from, err := ownedSnapshot(tx, caller, req.Snapshot)
		if err != nil {
			return image.Image{}, err
		}
		v.ID, w.SnapshotID, w.SizeGiB, w.CopyID = from.VolumeID, from.ID, from.SizeGiB, uuid.NewString()
	}
	v, err := Owned(tx, caller, v.ID)
	if err != nil {
		return image.Image{}, err
	}
	spec := image.Spec{Name: req.Name, Format: image.QCOW2, Token: req.Token}
	caller.ProjectID = v.ProjectID
	if of, err := image.Visible(tx, caller, v.ImageID); err == nil {
		spec.KernelID, spec.RamdiskID, spec.Properties = of.KernelID, of.RamdiskID, of.Properties
	}
	img, made, err := image.Expect(tx, caller, v.HostID, spec)
	if err != nil || !made {
		return img, err
	}
	if err := claimImage(tx, v, w.SnapshotID); err != nil {
		return img, err
	}
	w.ImageID = img.ID
	if w.CopyID == "" {
		return img, v.begin(tx, kindImage, createDeadline, w)
	}
	w.VolumeID = v.ID // nothing is done to that, so that nothing that is to be done to it waits
	_, err = operation.Begin(tx, operation.Intent{Kind: kindImage, Owner: ownerOf(v.HostID), Object: object(w.CopyID), Data: w, Deadline: createDeadline})
	return img, err
}

// claimImage keeps what an image is made of.
func claimImage(tx *state.Tx, v Volume, snapshotID string) error {
	if snapshotID == "" {
		if v.AttachedTo != "" || v.State != StateAvailable {
			return fmt.Errorf("volume %s is %s, must be available for an image: of one in use, make a snapshot, and an image of that: %w", v.ID, v.State,
				errdefs.ErrFailedPrecondition)
		}
		v.Copies++
		return Volumes.Put(tx, v)
	}
	from, err := Snapshots.Get(tx, snapshotID)
	if err != nil {
		return err
	}
	if from.State != StateAvailable {
		return fmt.Errorf("snapshot %s is %s, must be available: %w", from.ID, from.State, errdefs.ErrFailedPrecondition)
	}
	from.Copies++
	return Snapshots.Put(tx, from)
}

// imageMade gives back what an image was made of.
func imageMade(tx *state.Tx, w *work) error {
	if w.SnapshotID == "" {
		v, err := Volumes.Get(tx, w.VolumeID)
		if err != nil {
			return ignoreMissing(err)
		}
		v.Copies--
		return Volumes.Put(tx, v)
	}
	s, err := Snapshots.Get(tx, w.SnapshotID)
	if err != nil {
		return ignoreMissing(err)
	}
	s.Copies--
	return Snapshots.Put(tx, s)
}

// makeImage is the operation that brings the content of an image to where images are.
func (a *Agent) makeImage() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindImage,
		Steps: []operation.Step[work]{
			{Name: "copy", Do: a.copySnapshot, Undo: a.removeCopy},
			{Name: "content", Do: a.bringImage}, // No Undo: what was stored of an image that failed is swept away.
			{Name: "tidy", Do: a.removeCopy},
		},
		Done: func(tx *state.Tx, w *work) error {
			if err := imageMade(tx, w); err != nil {
				return err
			}
			return image.Arrived(tx, w.ImageID, a.cfg.HostID, w.Upload)
		},
		Failed: func(tx *state.Tx, w *work, reason string) error {
			if err := imageMade(tx, w); err != nil {
				return err
			}
			return image.Lost(tx, w.ImageID, a.cfg.HostID, reason)
		},
	})
}

// copySnapshot makes a volume of a snapshot, to be read: a snapshot has no path.
func (a *Agent) copySnapshot(ctx context.Context, w *work) error {
	if w.SnapshotID == "" {
		return nil
	}
	return a.cfg.Driver.Clone(ctx, w.CopyID, w.SnapshotID, w.SizeGiB)
}

func (a *Agent) removeCopy(ctx context.Context, w *work) error {
	if w.SnapshotID == "" {
		return nil
	}
	return a.cfg.Driver.Delete(ctx, w.CopyID)
}

func (a *Agent) bringImage(ctx context.Context, w *work) error {
	if a.cfg.Images == nil {
		return fmt.Errorf("host %s has nothing to do with images: %w", a.cfg.HostName, errdefs.ErrFailedPrecondition)
	}
	id := w.VolumeID
	if w.SnapshotID != "" {
		id = w.CopyID
	}
	path, err := a.cfg.Driver.Path(ctx, id)
	if err != nil {
		return err
	}
	var img image.Image
	if err := a.cfg.Store.Update(ctx, func(tx *state.Tx) error { img, err = image.Attempt(tx, w.ImageID, a.cfg.HostID); return err }); err != nil {
		if errdefs.IsAborted(err) { // nobody waits for it
			err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
		return err
	}
	w.Upload = img.Upload
	return a.cfg.Images.Keep(ctx, img, path)
}
