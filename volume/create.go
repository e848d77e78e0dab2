package volume

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// MaxGiB is the largest size of a volume.
const MaxGiB = 1 << 20 // 1 PiB

// CreateRequest asks for a volume.
type CreateRequest struct {
	Name    string // for people: at most 255 characters; may be empty
	SizeGiB int    // 1 to MaxGiB; 0: the size of what it is made of

	// Snapshot, Source or Image is what it begins with: a snapshot's id, that of a volume that is available, or that of an image with a disk
	// that the caller can see and that is active. At most one; none: zeros.
	Snapshot string
	Source   string
	Image    string `json:",omitempty"`

	// Token makes repeating the request safe: the same token and request return what the first one made, as it is now,
	// for as long as it exists. A changed request under a used token is FailedPrecondition. Tokens belong to the project. At
	// most 64 printable ASCII characters; "": none.
	Token string
}

// Create makes a volume: it checks the request, the quota and that there is room, records the volume on its host, and returns
// the record at once, in the state "creating"; [Service.WaitFor] waits for more. InvalidArgument names the field,
// ResourceExhausted is a quota or that no host has room, NotFound an unknown reference.
func (s *Service) Create(ctx context.Context, req CreateRequest) (v Volume, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "volume:create", "")
	if err != nil {
		return v, err
	}
	if err := req.check(); err != nil {
		return v, err
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error { v, err = create(tx, s.cfg.Members, caller, req); return err })
	if err != nil {
		return Volume{}, err
	}
	return v, nil
}

func (req CreateRequest) check() error {
	given := 0
	for _, from := range []string{req.Snapshot, req.Source, req.Image} {
		if from != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return wrong("of Snapshot, Source and Image %d are given, at most one is possible", given)
	case req.SizeGiB < 0 || req.SizeGiB > MaxGiB:
		return wrong("SizeGiB is %d, must be 1 to %d", req.SizeGiB, MaxGiB)
	case req.SizeGiB == 0 && given == 0:
		return wrong("SizeGiB is 0, must be 1 to %d where there is neither Snapshot nor Source nor Image", MaxGiB)
	}
	return checkNames(req.Name, req.Token)
}

// create does the work of Create in one transaction.
func create(tx *state.Tx, members *scheduler.Members, caller auth.Caller, req CreateRequest) (v Volume, err error) {
	h := hash(req)
	if req.Token != "" {
		if made, err := Volumes.One(tx, "token", caller.ProjectID+"/"+req.Token); err == nil {
			if made.TokenHash != h {
				return v, usedToken(req.Token)
			}
			return made, nil
		}
	}
	v = Volume{ID: uuid.NewString(), ProjectID: caller.ProjectID, UserID: caller.UserID, Name: req.Name, SizeGiB: req.SizeGiB,
		SnapshotID: req.Snapshot, SourceID: req.Source, ImageID: req.Image, State: StateCreating, Token: req.Token, TokenHash: h, Created: time.Now().UTC()}
	least, err := v.from(tx, caller)
	if err != nil {
		return v, err
	}
	if v.SizeGiB == 0 {
		v.SizeGiB = least
	}
	if v.SizeGiB < least {
		return v, wrong("SizeGiB is %d, must be at least %d, the size of what it is made of", v.SizeGiB, least)
	}
	if err := auth.CheckQuota(tx, v.ProjectID, auth.Amounts{Volumes: 1, Gigabytes: v.SizeGiB}, ProjectUse(tx, v.ProjectID)); err != nil {
		return v, err
	}
	if v.HostID == "" {
		v.HostID, err = place(tx, members, v.SizeGiB)
	} else {
		err = placeOn(tx, v.HostID, v.SizeGiB)
	}
	if err != nil {
		return v, err
	}
	if err := Volumes.Insert(tx, v); err != nil {
		return v, err
	}
	return v, v.begin(tx, kindCreate, createDeadline, work{})
}

// from claims what the volume is made of, until it is made, and returns its size.
func (v *Volume) from(tx *state.Tx, caller auth.Caller) (sizeGiB int, err error) {
	switch {
	case v.SnapshotID != "":
		s, err := ownedSnapshot(tx, caller, v.SnapshotID)
		if err != nil {
			return 0, err
		}
		if s.State != StateAvailable {
			return 0, fmt.Errorf("snapshot %s is %s, must be available: %w", s.ID, s.State, errdefs.ErrFailedPrecondition)
		}
		v.HostID, v.ImageID = s.HostID, s.ImageID
		s.Copies++
		return s.SizeGiB, Snapshots.Put(tx, s)
	case v.SourceID != "":
		from, err := Owned(tx, caller, v.SourceID)
		if err != nil {
			return 0, err
		}
		if from.State != StateAvailable {
			return 0, fmt.Errorf("volume %s is %s, must be available to be copied: %w", from.ID, from.State, errdefs.ErrFailedPrecondition)
		}
		v.HostID, v.ImageID = from.HostID, from.ImageID
		from.Copies++
		return from.SizeGiB, Volumes.Put(tx, from)
	case v.ImageID != "":
		img, err := image.Visible(tx, caller, v.ImageID)
		switch {
		case err != nil:
			return 0, err
		case !img.Format.Disk():
			return 0, wrong("Image %s is a %s image, a volume needs a disk (raw or qcow2)", img.ID, img.Format)
		case img.Status != image.Active:
			return 0, fmt.Errorf("image %s is %s, must be active: %w", img.ID, img.Status, errdefs.ErrFailedPrecondition)
		}
		return int((img.MinDiskBytes() + 1<<30 - 1) >> 30), nil
	}
	return 0, nil
}

// begin begins an operation on the volume, of its host's agent.
func (v Volume) begin(tx *state.Tx, kind string, deadline time.Duration, w work) error {
	w.VolumeID = v.ID
	_, err := operation.Begin(tx, operation.Intent{Kind: kind, Owner: ownerOf(v.HostID), Object: object(v.ID), Data: w, Deadline: deadline})
	return err
}

// free returns why the volume can't be changed now, nil if nothing uses it.
func (v Volume) free() error {
	switch {
	case v.AttachedTo != "":
		return fmt.Errorf("volume %s is %s, attached to %s: %w", v.ID, v.State, v.AttachedTo, errdefs.ErrFailedPrecondition)
	case v.State != StateAvailable:
		return fmt.Errorf("volume %s is %s, must be available: %w", v.ID, v.State, errdefs.ErrFailedPrecondition)
	case v.Copies > 0:
		return fmt.Errorf("volume %s: %d volumes and images are being made of it: %w", v.ID, v.Copies, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Delete removes a volume that is available, in error, or being made. One that is being deleted already is success; one
// that is attached, or has snapshots, is FailedPrecondition. When it is gone, nothing that it held can be read from another volume.
func (s *Service) Delete(ctx context.Context, id string) error {
	_, err := s.change(ctx, "volume:delete", id, func(tx *state.Tx, v *Volume) error {
		switch v.State {
		case StateDeleting:
			return nil
		case StateCreating:
			if _, err := operation.Cancel(tx, object(v.ID), kindCreate); err != nil {
				return err
			}
		case StateError:
		default:
			if err := v.free(); err != nil {
				return err
			}
		}
		for snapshot := range Snapshots.By(tx, "volume", v.ID) {
			return fmt.Errorf("volume %s has snapshot %s, which must be deleted first: %w", v.ID, snapshot.ID, errdefs.ErrFailedPrecondition)
		}
		return v.remove(tx)
	})
	return err
}

func (v *Volume) remove(tx *state.Tx) error {
	v.State = StateDeleting
	return v.begin(tx, kindDelete, 0, work{Epoch: v.Epoch})
}

// Extend makes a volume that is available or in use larger. It is "extending" until who uses it sees the new size: its instance is told; what is not of
// the cloud is told by the target, and not waited for. If its device can't be made larger, it has its old size, and the reason in its Fault. If an instance
// can't be told, the reason is in the Fault of a volume that has the new size, which the instance sees when it is next started.
func (s *Service) Extend(ctx context.Context, id string, sizeGiB int) (Volume, error) {
	return s.change(ctx, "volume:extend", id, func(tx *state.Tx, v *Volume) error {
		if sizeGiB <= v.SizeGiB || sizeGiB > MaxGiB {
			return wrong("SizeGiB is %d, must be %d (more than volume %s has) to %d", sizeGiB, v.SizeGiB+1, v.ID, MaxGiB)
		}
		if v.State != StateInUse {
			if err := v.free(); err != nil {
				return err
			}
		}
		more := sizeGiB - v.SizeGiB
		if err := auth.CheckQuota(tx, v.ProjectID, auth.Amounts{Gigabytes: more}, ProjectUse(tx, v.ProjectID)); err != nil {
			return err
		}
		if err := placeOn(tx, v.HostID, more); err != nil {
			return err
		}
		w := work{SizeGiB: sizeGiB, OldGiB: v.SizeGiB}
		v.State, v.SizeGiB = StateExtending, sizeGiB
		return v.begin(tx, kindExtend, actionDeadline, w)
	})
}
