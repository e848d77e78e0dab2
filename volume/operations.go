package volume

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// work is what an operation keeps.
type work struct {
	VolumeID   string
	SnapshotID string // of those on a snapshot
	Epoch      uint64 // of those on an attachment
	SizeGiB    int    // of an extension
	OldGiB     int    // the size before it; if it failed, that after it
	Target     Target // of an export: where it is
	Next       string // who else may log in, when it was admitted
	Delete     bool   // of a release: the volume is deleted then
	ImageID    string // of the making of an image
	CopyID     string // the volume that is made of its snapshot for it
	Upload     uint64 // the attempt that has brought its content
}

// The kinds of operations on volumes.
const (
	kindCreate         = "volume.create"
	kindDelete         = "volume.delete"
	kindExtend         = "volume.extend"
	kindExport         = "volume.export"
	kindRelease        = "volume.release"
	kindAdmit          = "volume.admit"
	kindSnapshot       = "volume.snapshot"
	kindDeleteSnapshot = "volume.snapshot.delete"
	kindImage          = "volume.image"
)

const (
	// createDeadline bounds what may copy a whole volume.
	createDeadline = 4 * time.Hour
	// actionDeadline bounds the rest.
	actionDeadline = 10 * time.Minute
)

func ownerOf(hostID string) string { return "volume-host/" + hostID }

func (a *Agent) kinds() []operation.Definition {
	return []operation.Definition{
		operation.Define(operation.Kind[work]{
			Name:  kindCreate,
			Steps: []operation.Step[work]{{Name: "device", Do: a.create, Undo: a.remove}},
			Done: func(tx *state.Tx, w *work) error {
				return created(tx, w, func(v *Volume) {
					if v.State == StateCreating { // else it has a consumer already
						v.State = StateAvailable
					}
					v.Fault = ""
				})
			},
			Failed: func(tx *state.Tx, w *work, reason string) error {
				return notCreated(tx, w, reason)
			},
			Problem: problem,
		}),
		// A half-removed volume is of no use, so a deletion only goes forward.
		operation.Define(operation.Kind[work]{
			Name:    kindDelete,
			Persist: true,
			Steps:   []operation.Step[work]{{Name: "export", Do: a.unexport}, {Name: "device", Do: a.remove}},
			Done: func(tx *state.Tx, w *work) error {
				return ignoreMissing(Volumes.Delete(tx, w.VolumeID))
			},
			Problem: problem,
		}),
		operation.Define(operation.Kind[work]{
			Name: kindExtend,
			// What was made larger is not made smaller: undoing it looks what size there is.
			Steps: []operation.Step[work]{{Name: "device", Do: a.extend, Undo: a.measure}},
			Done:  a.extended,
			Failed: func(tx *state.Tx, w *work, reason string) error {
				return change(tx, w, func(v *Volume) { v.rest(tx); v.SizeGiB, v.Fault = w.OldGiB, reason })
			},
			Problem: problem,
		}),
		operation.Define(operation.Kind[work]{
			Name:    kindExport,
			Steps:   []operation.Step[work]{{Name: "export", Do: a.export, Undo: a.unexport}},
			Done:    exported,
			Failed:  notExported,
			Problem: problem,
		}),
		// The consumer has let go, or is gone: there is no way back.
		operation.Define(operation.Kind[work]{
			Name:    kindRelease,
			Persist: true,
			Steps:   []operation.Step[work]{{Name: "export", Do: a.unexport}},
			Done:    released,
			Problem: problem,
		}),
		// Who else may log in is as the attachment says when it is done; who may not any more must not go on, so there is no way back.
		operation.Define(operation.Kind[work]{
			Name:    kindAdmit,
			Persist: true,
			Steps:   []operation.Step[work]{{Name: "export", Do: a.admit}},
			Done:    admitted,
			Problem: problem,
		}),
		operation.Define(operation.Kind[work]{
			Name:  kindSnapshot,
			Steps: []operation.Step[work]{{Name: "device", Do: a.snapshot, Undo: a.removeSnapshot}},
			Done: func(tx *state.Tx, w *work) error {
				return changeSnapshot(tx, w, func(s *Snapshot) { s.State, s.Fault = StateAvailable, "" })
			},
			Failed: func(tx *state.Tx, w *work, reason string) error {
				return changeSnapshot(tx, w, func(s *Snapshot) { s.State, s.Fault = StateError, reason })
			},
			Problem: snapshotProblem,
		}),
		operation.Define(operation.Kind[work]{
			Name:    kindDeleteSnapshot,
			Persist: true,
			Steps:   []operation.Step[work]{{Name: "device", Do: a.removeSnapshot}},
			Done: func(tx *state.Tx, w *work) error {
				return ignoreMissing(Snapshots.Delete(tx, w.SnapshotID))
			},
			Problem: snapshotProblem,
		}),
		a.makeImage(),
	}
}

// The steps. Each may be cut short at any place and done again from its beginning, and each that undoes may find that there
// is nothing to undo.

func (a *Agent) create(ctx context.Context, w *work) error {
	v, err := a.volume(w.VolumeID)
	switch {
	case err != nil:
		return err
	case v.SnapshotID != "":
		return a.cfg.Driver.Clone(ctx, v.ID, v.SnapshotID, v.SizeGiB)
	case v.SourceID != "":
		return a.cfg.Driver.Clone(ctx, v.ID, v.SourceID, v.SizeGiB)
	case v.ImageID != "":
		return a.createOfImage(ctx, v)
	}
	return a.cfg.Driver.Create(ctx, v.ID, v.SizeGiB)
}

// createOfImage makes a volume with what an image holds.
func (a *Agent) createOfImage(ctx context.Context, v Volume) error {
	all, err := a.cfg.Driver.List(ctx)
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.ID == v.ID && i.Of == "" && i.SizeGiB == v.SizeGiB {
			return nil // it was made, and only that had no time to be recorded: the image may be gone
		}
	}
	if a.cfg.Images == nil {
		return fmt.Errorf("host %s has no images, and makes no volumes of them: %w", a.cfg.HostName, errdefs.ErrFailedPrecondition)
	}
	var img image.Image
	if err := a.cfg.Store.View(func(r *state.View) error { img, err = image.Images.Get(r, v.ImageID); return err }); err != nil {
		return err
	}
	return a.cfg.Images.Raw(ctx, img, func(path string) error { return a.cfg.Driver.Import(ctx, v.ID, path, v.SizeGiB) })
}

func (a *Agent) remove(ctx context.Context, w *work) error {
	return a.cfg.Driver.Delete(ctx, w.VolumeID)
}

func (a *Agent) extend(ctx context.Context, w *work) error {
	// With the lock, or an export might begin with the old size after its initiators were told.
	unlock, err := a.locks.Lock(ctx, w.VolumeID)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.cfg.Driver.Extend(ctx, w.VolumeID, w.SizeGiB); err != nil {
		return err
	}
	// A device that was being made larger when the last agent ended could not be exported again by this one.
	if err := a.exportAgain(ctx, w.VolumeID); err != nil {
		return err
	}
	return a.cfg.Exporter.Resized(ctx, w.VolumeID)
}

func (a *Agent) measure(ctx context.Context, w *work) error {
	all, err := a.cfg.Driver.List(ctx)
	for _, i := range all {
		if i.ID == w.VolumeID {
			w.OldGiB = i.SizeGiB
		}
	}
	return err
}

// HoldLimit is how long a snapshot has who uses the volume wait at most. Initiators take it for a slow disk: the kernel's gives up after 30 s.
const HoldLimit = 10 * time.Second

func (a *Agent) snapshot(ctx context.Context, w *work) error {
	copier, ok := a.cfg.Driver.(Copier)
	if !ok {
		return a.cfg.Driver.Snapshot(ctx, w.SnapshotID, w.VolumeID)
	}
	unlock, err := a.locks.Lock(ctx, w.VolumeID)
	if err != nil {
		return err
	}
	defer unlock()
	late := fmt.Errorf("volume %s is in use, and could not be copied in the %v for which writes may wait: its host needs a file system with "+
		"reflinks for that (XFS, Btrfs), or the volume must be detached: %w", w.VolumeID, HoldLimit, errdefs.ErrFailedPrecondition)
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err = copier.SnapshotHeld(limited, w.SnapshotID, w.VolumeID, func(ctx context.Context) (func(), error) {
		if _, found, err := a.attachment(w.VolumeID); err != nil || !found {
			return func() {}, err // nobody writes
		}
		limit := time.AfterFunc(HoldLimit, func() { cancel(late) })
		release, err := a.cfg.Exporter.Hold(ctx, w.VolumeID)
		if err != nil {
			limit.Stop()
			return nil, err
		}
		return func() { limit.Stop(); release() }, nil
	})
	if err != nil && context.Cause(limited) == late {
		return late
	}
	return err
}

func (a *Agent) removeSnapshot(ctx context.Context, w *work) error {
	return a.cfg.Driver.DeleteSnapshot(ctx, w.SnapshotID)
}

func (a *Agent) export(ctx context.Context, w *work) error {
	unlock, err := a.locks.Lock(ctx, w.VolumeID)
	if err != nil {
		return err
	}
	defer unlock()
	at, found, err := a.attachment(w.VolumeID)
	switch {
	case err != nil:
		return err
	case !found || at.Epoch != w.Epoch || at.Ending:
		return fmt.Errorf("attachment %d of volume %s has ended: %w", w.Epoch, w.VolumeID, errdefs.ErrFailedPrecondition)
	}
	w.Target, err = a.exportNow(ctx, at)
	return err
}

// admit has the export let in whom the attachment names now.
func (a *Agent) admit(ctx context.Context, w *work) error {
	unlock, err := a.locks.Lock(ctx, w.VolumeID)
	if err != nil {
		return err
	}
	defer unlock()
	at, found, err := a.attachment(w.VolumeID)
	if err != nil || !found || at.Epoch != w.Epoch || at.Ending {
		return err
	}
	w.Next = at.Next
	w.Target, err = a.exportNow(ctx, at)
	return err
}

// exportNow exports a volume as its attachment says. The volume is locked.
func (a *Agent) exportNow(ctx context.Context, at Attachment) (Target, error) {
	path, err := a.cfg.Driver.Path(ctx, at.VolumeID)
	if err != nil {
		return Target{}, err
	}
	return a.cfg.Exporter.Export(ctx, Export{VolumeID: at.VolumeID, Epoch: at.Epoch, Path: path, Initiator: at.Initiator, Also: at.Next,
		User: at.User, Secret: at.Secret})
}

func (a *Agent) unexport(ctx context.Context, w *work) error {
	unlock, err := a.locks.Lock(ctx, w.VolumeID)
	if err != nil {
		return err
	}
	defer unlock()
	err = a.cfg.Exporter.Unexport(ctx, w.VolumeID, w.Epoch)
	if errdefs.IsFailedPrecondition(err) { // a newer epoch has it, and has ended this one
		return nil
	}
	return err
}

// The effects on records. That there is no record any more is no error: an operation must be able to end.

func ignoreMissing(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func change(tx *state.Tx, w *work, f func(*Volume)) error {
	v, err := Volumes.Get(tx, w.VolumeID)
	if err != nil {
		return ignoreMissing(err)
	}
	waits := v.State == StateDeleting
	f(&v)
	if waits {
		v.State = StateDeleting // its deletion is next
	}
	return Volumes.Put(tx, v)
}

func changeSnapshot(tx *state.Tx, w *work, f func(*Snapshot)) error {
	s, err := Snapshots.Get(tx, w.SnapshotID)
	if err != nil {
		return ignoreMissing(err)
	}
	waits := s.State == StateDeleting
	f(&s)
	if waits {
		s.State = StateDeleting
	}
	return Snapshots.Put(tx, s)
}

// extended ends an extension, or leaves it to the instance that has the volume.
func (a *Agent) extended(tx *state.Tx, w *work) error {
	at, err := Attachments.Get(tx, w.VolumeID)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	tell := err == nil && at.InstanceID != "" && !at.Ending && a.cfg.Grown != nil
	if err := change(tx, w, func(v *Volume) {
		if v.Fault = ""; !tell {
			v.rest(tx)
		}
	}); err != nil || !tell {
		return err
	}
	return a.cfg.Grown(tx, at)
}

// rest ends an extension in the state that the volume has by its attachment.
func (v *Volume) rest(tx *state.Tx) {
	at, err := Attachments.Get(tx, v.ID)
	switch {
	case err != nil:
		v.State = StateAvailable
	case !at.Ending: // else it is detaching
		v.State = StateInUse
	}
}

// created ends the making of a volume, and gives back what it was made of.
func created(tx *state.Tx, w *work, f func(*Volume)) error {
	v, err := Volumes.Get(tx, w.VolumeID)
	if err != nil {
		return ignoreMissing(err)
	}
	if s, err := Snapshots.Get(tx, v.SnapshotID); err == nil {
		s.Copies--
		if err := Snapshots.Put(tx, s); err != nil {
			return err
		}
	}
	if from, err := Volumes.Get(tx, v.SourceID); err == nil {
		from.Copies--
		if err := Volumes.Put(tx, from); err != nil {
			return err
		}
	}
	return change(tx, w, f)
}

// notCreated ends the making of a volume that failed, with the attachment that waited for it.
func notCreated(tx *state.Tx, w *work, reason string) error {
	at, err := Attachments.Get(tx, w.VolumeID)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	waited := err == nil
	if waited {
		if _, err := operation.Cancel(tx, object(w.VolumeID), kindExport); err != nil {
			return err
		}
		if err := Attachments.Delete(tx, w.VolumeID); err != nil {
			return err
		}
	}
	err = created(tx, w, func(v *Volume) { v.State, v.AttachedTo, v.Device, v.Fault = StateError, "", "", reason })
	if err == nil && waited && at.Ending { // its consumer is gone: nobody else will see to it
		err = Discard(tx, w.VolumeID)
	}
	return err
}

func exported(tx *state.Tx, w *work) error {
	v, at, err := held(tx, w.VolumeID, w.Epoch)
	if err != nil || at.Ending {
		return ignoreMissing(err)
	}
	at.Ready, at.Target = true, w.Target
	if at.InstanceID == "" {
		v.State, v.Fault = StateInUse, ""
		if err := Volumes.Put(tx, v); err != nil {
			return err
		}
	}
	return Attachments.Put(tx, at)
}

func admitted(tx *state.Tx, w *work) error {
	_, at, err := held(tx, w.VolumeID, w.Epoch)
	if err != nil || at.Ending {
		return ignoreMissing(err)
	}
	at.Target, at.Admitted = w.Target, at.Next != "" && at.Next == w.Next
	return Attachments.Put(tx, at)
}

func notExported(tx *state.Tx, w *work, reason string) error {
	v, at, err := held(tx, w.VolumeID, w.Epoch)
	if err != nil || at.Ending { // a release is next
		return ignoreMissing(err)
	}
	v.State, v.AttachedTo, v.Device, v.DeleteOnTermination, v.Fault = StateAvailable, "", "", false, reason
	if err := Volumes.Put(tx, v); err != nil {
		return err
	}
	return Attachments.Delete(tx, v.ID)
}

func released(tx *state.Tx, w *work) error {
	v, at, err := held(tx, w.VolumeID, w.Epoch)
	if err != nil {
		return ignoreMissing(err)
	}
	if err := Attachments.Delete(tx, at.VolumeID); err != nil {
		return err
	}
	v.State, v.AttachedTo, v.Device, v.DeleteOnTermination = StateAvailable, "", "", false
	if w.Delete {
		if err := v.remove(tx); err != nil {
			return err
		}
	}
	return Volumes.Put(tx, v)
}

// problem shows on the volume why what is being done does not move.
func problem(tx *state.Tx, w *work, reason string) error {
	return change(tx, w, func(v *Volume) { v.Fault = reason })
}

func snapshotProblem(tx *state.Tx, w *work, reason string) error {
	return changeSnapshot(tx, w, func(s *Snapshot) { s.Fault = reason })
}
