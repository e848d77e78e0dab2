package volume

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// SnapshotRequest asks for a snapshot.
type SnapshotRequest struct {
	Volume string // required: the id of a volume that is available or in use
	Name   string // for people: at most 255 characters; may be empty
	Token  string // as in [CreateRequest]
}

// Snapshot keeps what a volume holds. Of one that is in use it keeps what a loss of power at one moment would have left: all that was flushed before
// the call is in it, and who uses it goes on; a store that can't do that by itself has writes wait, at most [HoldLimit], and the snapshot is in error
// if that is not enough. Quota and room are taken for its whole size. It returns the record at once, in the state "creating".
func (s *Service) Snapshot(ctx context.Context, req SnapshotRequest) (made Snapshot, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "volume:snapshot:create", "")
	if err != nil {
		return made, err
	}
	if err := checkNames(req.Name, req.Token); err != nil {
		return made, err
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error { made, err = snapshot(tx, caller, req); return err })
	if err != nil {
		return Snapshot{}, err
	}
	return made, nil
}

func snapshot(tx *state.Tx, caller auth.Caller, req SnapshotRequest) (made Snapshot, err error) {
	h := hash(req)
	if req.Token != "" {
		if made, err := Snapshots.One(tx, "token", caller.ProjectID+"/"+req.Token); err == nil {
			if made.TokenHash != h {
				return made, usedToken(req.Token)
			}
			return made, nil
		}
	}
	v, err := Owned(tx, caller, req.Volume)
	if err != nil {
		return made, err
	}
	if v.State != StateAvailable && v.State != StateInUse {
		return made, fmt.Errorf("volume %s is %s, must be available or in-use for a snapshot: %w", v.ID, v.State, errdefs.ErrFailedPrecondition)
	}
	made = Snapshot{ID: uuid.NewString(), VolumeID: v.ID, ProjectID: v.ProjectID, UserID: caller.UserID, Name: req.Name, SizeGiB: v.SizeGiB,
		HostID: v.HostID, ImageID: v.ImageID, State: StateCreating, Token: req.Token, TokenHash: h, Created: time.Now().UTC()}
	if err := auth.CheckQuota(tx, v.ProjectID, auth.Amounts{Gigabytes: v.SizeGiB}, ProjectUse(tx, v.ProjectID)); err != nil {
		return made, err
	}
	if err := placeOn(tx, v.HostID, v.SizeGiB); err != nil {
		return made, err
	}
	if err := Snapshots.Insert(tx, made); err != nil {
		return made, err
	}
	return made, v.begin(tx, kindSnapshot, createDeadline, work{SnapshotID: made.ID})
}

func ownedSnapshot(r state.Reader, caller auth.Caller, id string) (Snapshot, error) {
	s, err := Snapshots.Get(r, id)
	if err != nil || (s.ProjectID != caller.ProjectID && !caller.Admin) {
		return Snapshot{}, fmt.Errorf("snapshot %.64q: %w", id, errdefs.ErrNotFound)
	}
	return s, nil
}

// GetSnapshot returns a snapshot.
func (s *Service) GetSnapshot(ctx context.Context, id string) (found Snapshot, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "volume:snapshot:get", "")
	if err != nil {
		return found, err
	}
	err = s.cfg.Store.View(func(r *state.View) error { found, err = ownedSnapshot(r, caller, id); return err })
	return found, err
}

// ListSnapshots returns snapshots in the order of their ids.
func (s *Service) ListSnapshots(ctx context.Context, o ListOptions) ([]Snapshot, error) {
	return list(ctx, s, "volume:snapshot:list", Snapshots, o, func(s Snapshot) string { return s.ID })
}

// WaitSnapshot returns the snapshot when until says true of it, as [Service.Wait] does.
func (s *Service) WaitSnapshot(ctx context.Context, id string, until func(Snapshot) bool) (found Snapshot, err error) {
	if found, err = s.GetSnapshot(ctx, id); err != nil {
		return found, err
	}
	err = Snapshots.Await(ctx, s.cfg.Store, id, func(rec Snapshot, there bool) (bool, error) {
		if !there {
			return false, fmt.Errorf("snapshot %s: %w", id, errdefs.ErrNotFound)
		}
		found = rec
		return until(rec), nil
	})
	return found, err
}

// DeleteSnapshot removes a snapshot in any state. One that is being deleted already is success; one that a volume is being
// made of is FailedPrecondition.
func (s *Service) DeleteSnapshot(ctx context.Context, id string) error {
	caller, err := s.cfg.Policy.Authorize(ctx, "volume:snapshot:delete", "")
	if err != nil {
		return err
	}
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		found, err := ownedSnapshot(tx, caller, id)
		switch {
		case err != nil:
			return err
		case found.State == StateDeleting:
			return nil
		case found.Copies > 0:
			return fmt.Errorf("snapshot %s: %d volumes and images are being made of it: %w", id, found.Copies, errdefs.ErrFailedPrecondition)
		}
		found.State = StateDeleting
		if err := Snapshots.Put(tx, found); err != nil {
			return err
		}
		_, err = operation.Begin(tx, operation.Intent{Kind: kindDeleteSnapshot, Owner: ownerOf(found.HostID), Object: object(found.VolumeID),
			Data: work{VolumeID: found.VolumeID, SnapshotID: found.ID}})
		return err
	})
}
