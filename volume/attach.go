package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// Reservation says who is to use a volume.
type Reservation struct {
	VolumeID   string
	Consumer   string // required, unless InstanceID is given
	InstanceID string
	NodeID     string // the cloud's host from which it is used
	Device     string
	Initiator  string // required: the IQN that may log in

	DeleteOnTermination bool
}

// Reserve gives a volume to a consumer, as one part of a transaction: it is "attaching" then, with a new epoch and a new secret, and
// its host is to export it. [Attachment.Ready] says when that has happened; if it can't, the attachment is gone and the
// volume's Fault says why. Whoever reserves then calls [Confirm] or [Release]. A volume that is not available is
// FailedPrecondition.
func Reserve(tx *state.Tx, caller auth.Caller, r Reservation) (Attachment, error) {
	v, err := Owned(tx, caller, r.VolumeID)
	if err != nil {
		return Attachment{}, err
	}
	if r.Consumer == "" {
		r.Consumer = r.InstanceID
	}
	switch {
	case r.Consumer == "" || len(r.Consumer) > 255:
		return Attachment{}, wrong("Consumer has %d bytes, must have 1 to 255", len(r.Consumer))
	case r.Initiator == "" || len(r.Initiator) > 223:
		return Attachment{}, wrong("Initiator has %d bytes, must have 1 to 223 (RFC 7143 section 4.2.7)", len(r.Initiator))
	}
	if err := v.free(); err != nil {
		return Attachment{}, err
	}
	return v.reserve(tx, r)
}

// CreateReserved is [Service.Create] and [Reserve] in one part of a transaction: the volume is "attaching" from the beginning, belongs to
// nobody else in between, and is exported when it is made. Members is as in [ServiceConfig]. r.VolumeID is empty. If it can't be made, the attachment is gone, and the volume
// is in error with the reason in its Fault, for [Discard].
func CreateReserved(tx *state.Tx, members *scheduler.Members, caller auth.Caller, req CreateRequest, r Reservation) (Attachment, error) {
	if err := req.check(); err != nil {
		return Attachment{}, err
	}
	v, err := create(tx, members, caller, req)
	if err != nil {
		return Attachment{}, err
	}
	if r.Consumer == "" {
		r.Consumer = r.InstanceID
	}
	return v.reserve(tx, r)
}

// Discard deletes a volume that could not be made and was to be deleted on termination. Another one stays as it is.
func Discard(tx *state.Tx, volumeID string) error {
	v, err := Volumes.Get(tx, volumeID)
	if err != nil || v.State != StateError || !v.DeleteOnTermination {
		return ignoreMissing(err)
	}
	if err := v.remove(tx); err != nil {
		return err
	}
	return Volumes.Put(tx, v)
}

func (v Volume) reserve(tx *state.Tx, r Reservation) (Attachment, error) {
	v.Epoch++
	v.State, v.AttachedTo, v.Device, v.DeleteOnTermination, v.Fault = StateAttaching, r.Consumer, r.Device, r.DeleteOnTermination, ""
	a := Attachment{VolumeID: v.ID, HostID: v.HostID, Epoch: v.Epoch, Consumer: r.Consumer, InstanceID: r.InstanceID, NodeID: r.NodeID,
		Device: r.Device, Initiator: r.Initiator, User: "attachment-" + strconv.FormatUint(v.Epoch, 10), Secret: secret(), Begun: time.Now().UTC()}
	if err := Attachments.Insert(tx, a); err != nil {
		return Attachment{}, err
	}
	if err := Volumes.Put(tx, v); err != nil {
		return Attachment{}, err
	}
	return a, v.begin(tx, kindExport, actionDeadline, work{Epoch: v.Epoch})
}

// secret returns 24 random bytes as text, which is more than CHAP asks for (RFC 7143 section 12.1.4.1: 12).
func secret() string {
	var b [24]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// held returns a volume and its attachment of an epoch; NotFound if that has ended.
func held(tx *state.Tx, volumeID string, epoch uint64) (v Volume, a Attachment, err error) {
	if a, err = Attachments.Get(tx, volumeID); err == nil && a.Epoch == epoch {
		v, err = Volumes.Get(tx, volumeID)
		return v, a, err
	}
	return v, a, fmt.Errorf("volume %s: its attachment %d has ended: %w", volumeID, epoch, errdefs.ErrNotFound)
}

// Confirm records that a consumer uses the volume that it reserved: it is "in-use". A fault, if it is not empty, says why it still is, as when a
// guest did not let go. An attachment that has ended, or is about to, is NotFound.
func Confirm(tx *state.Tx, volumeID string, epoch uint64, fault string) error {
	v, a, err := held(tx, volumeID, epoch)
	if err != nil {
		return err
	}
	if a.Ending {
		return fmt.Errorf("volume %s: its attachment %d is being ended: %w", volumeID, epoch, errdefs.ErrNotFound)
	}
	v.State, v.Fault = StateInUse, fault
	return Volumes.Put(tx, v)
}

// Explain shows on the volume, as its Fault, why what its consumer does does not move. An attachment that has ended is NotFound.
func Explain(tx *state.Tx, volumeID string, epoch uint64, fault string) error {
	v, _, err := held(tx, volumeID, epoch)
	if err != nil {
		return err
	}
	v.Fault = fault
	return Volumes.Put(tx, v)
}

// Leave records that a consumer is about to let the volume go: it is "detaching". The consumer then calls [Release], or [Confirm] if it can't.
func Leave(tx *state.Tx, volumeID string, epoch uint64) error {
	v, a, err := held(tx, volumeID, epoch)
	if err != nil {
		return err
	}
	if v.State != StateInUse || a.Ending {
		return fmt.Errorf("volume %s is %s, must be in-use: %w", v.ID, v.State, errdefs.ErrFailedPrecondition)
	}
	v.State = StateDetaching
	return Volumes.Put(tx, v)
}

// Admit lets a second initiator use the volume besides the first, with the same secret, as one part of a transaction: that of the host that the
// consumer is moving to. [Attachment.Admitted] says when it can log in. Whoever admits then calls [Settle]. An attachment that has ended,
// or is about to, is NotFound.
func Admit(tx *state.Tx, volumeID string, epoch uint64, initiator string) error {
	return readmit(tx, volumeID, epoch, func(a *Attachment) { a.Next = initiator })
}

// Settle ends what [Admit] began: the consumer is on one of the two hosts, the node, and nobody but its initiator may log in. The sessions of
// the other are ended. An attachment that has ended, or is about to, is NotFound.
func Settle(tx *state.Tx, volumeID string, epoch uint64, node, initiator string) error {
	return readmit(tx, volumeID, epoch, func(a *Attachment) { a.NodeID, a.Initiator, a.Next = node, initiator, "" })
}

func readmit(tx *state.Tx, volumeID string, epoch uint64, change func(*Attachment)) error {
	v, a, err := held(tx, volumeID, epoch)
	if err != nil {
		return err
	}
	if a.Ending {
		return fmt.Errorf("volume %s: its attachment %d is being ended: %w", volumeID, epoch, errdefs.ErrNotFound)
	}
	a.Admitted = false
	change(&a)
	if err := Attachments.Put(tx, a); err != nil {
		return err
	}
	return v.begin(tx, kindAdmit, 0, work{Epoch: epoch})
}

// Release ends an attachment: the volume is "detaching" until its host has ended every session, and "available" then. The
// reason, which may be empty, becomes its Fault. With deletion it is deleted then instead. One that has ended is success.
func Release(tx *state.Tx, volumeID string, epoch uint64, reason string, deletion bool) error {
	v, a, err := held(tx, volumeID, epoch)
	if errdefs.IsNotFound(err) || (err == nil && a.Ending) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := operation.Cancel(tx, object(v.ID), kindExport); err != nil {
		return err
	}
	a.Ending = true
	if err := Attachments.Put(tx, a); err != nil {
		return err
	}
	v.State, v.Fault = StateDetaching, reason
	if err := Volumes.Put(tx, v); err != nil {
		return err
	}
	return v.begin(tx, kindRelease, 0, work{Epoch: epoch, Delete: deletion})
}

// AttachRequest asks for the use of a volume by something that is not an instance of the cloud.
type AttachRequest struct {
	Volume    string // required: an id
	Consumer  string // required: who uses it, for people; at most 255 bytes
	Initiator string // required: the IQN that may log in
}

// Attach gives a volume to a consumer outside the cloud; compute.Service does it for instances. It returns at once;
// when the volume is "in-use", [Service.Connection] tells where it is. A volume is attached to one consumer at a time: one that is not available is FailedPrecondition.
func (s *Service) Attach(ctx context.Context, req AttachRequest) (v Volume, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "volume:attach", "")
	if err != nil {
		return v, err
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if _, err := Reserve(tx, caller, Reservation{VolumeID: req.Volume, Consumer: req.Consumer, Initiator: req.Initiator}); err != nil {
			return err
		}
		v, err = Volumes.Get(tx, req.Volume)
		return err
	})
	return v, err
}

// Detach ends the use of a volume by a consumer outside the cloud, whose sessions are ended. One that is not attached is
// success; one that is attached to an instance is FailedPrecondition: compute.Service detaches that. With force, which is for administrators, that is
// ended too, whatever the instance's host does.
func (s *Service) Detach(ctx context.Context, id string, force bool) error {
	action := "volume:detach"
	if force {
		action = "volume:detach:force"
	}
	caller, err := s.cfg.Policy.Authorize(ctx, action, "")
	if err != nil {
		return err
	}
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		v, err := Owned(tx, caller, id)
		if err != nil {
			return err
		}
		a, err := Attachments.Get(tx, id)
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case a.InstanceID != "" && !force:
			return fmt.Errorf("volume %s is attached to instance %s: detach it from that: %w", id, a.InstanceID, errdefs.ErrFailedPrecondition)
		}
		return Release(tx, v.ID, a.Epoch, "", false)
	})
}

// Connection is how a consumer reaches a volume.
type Connection struct {
	Target
	User, Secret string // CHAP
}

// Connection returns how the consumer of a volume reaches it, once it is "in-use". For one that is attached to an
// instance, or to nothing, it is FailedPrecondition.
func (s *Service) Connection(ctx context.Context, id string) (c Connection, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "volume:connection", "")
	if err != nil {
		return c, err
	}
	err = s.cfg.Store.View(func(r *state.View) error {
		v, err := Owned(r, caller, id)
		if err != nil {
			return err
		}
		a, err := Attachments.Get(r, id)
		if err != nil || a.InstanceID != "" || a.Ending || !a.Ready {
			return fmt.Errorf("volume %s is %s, must be in-use by something other than an instance: %w", id, v.State, errdefs.ErrFailedPrecondition)
		}
		c = Connection{a.Target, a.User, a.Secret}
		return nil
	})
	return c, err
}
