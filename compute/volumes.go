package compute

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// AttachRequest asks for a volume to be a disk of an instance.
type AttachRequest struct {
	Instance string // required: an id
	Volume   string // required: the id of a volume that is available
	// Device is what the guest is to call it, with or without "/dev/": "vdb" to "vdz" is on virtio-blk, "sda" to "sdz" on virtio-scsi. "": the
	// first of "vdb" to "vdz" that is free.
	Device string

	// DeleteOnTermination has the volume deleted when the instance is terminated.
	DeleteOnTermination bool
}

// AttachVolume gives a volume to an instance that is active or stopped, and returns the device's name at once; the volume is
// "in-use" when the instance has it, or "available" again, with the reason in its Fault, if that can't be. The name is a wish:
// guests find the volume by its serial number, [VolumeSerial].
func (s *Service) AttachVolume(ctx context.Context, req AttachRequest) (device string, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "compute:volume:attach", "")
	if err != nil {
		return "", err
	}
	device = strings.TrimPrefix(req.Device, "/dev/")
	if device != "" && !validDevice.MatchString(device) {
		return "", fmt.Errorf("compute: Device is %.40q, must be \"vdb\" to \"vdz\" or \"sda\" to \"sdz\": %w", req.Device, errdefs.ErrInvalidArgument)
	}
	wish := device
	err = s.begin(ctx, "compute:volume:attach", req.Instance, func(tx *state.Tx, i *Instance) error {
		if i.Task != TaskNone || (i.State != StateActive && i.State != StateStopped) {
			return fmt.Errorf("instance %s is %s %s, must be active or stopped: %w", i.ID, i.State, i.Task, errdefs.ErrFailedPrecondition)
		}
		var err error
		if device, err = freeDevice(tx, *i, wish); err != nil {
			return err
		}
		at, err := volume.Reserve(tx, caller, volume.Reservation{VolumeID: req.Volume, InstanceID: i.ID, NodeID: i.HostID, Device: device,
			Initiator: InitiatorOf(i.HostID), DeleteOnTermination: req.DeleteOnTermination})
		if err != nil {
			return err
		}
		v, err := volume.Volumes.Get(tx, at.VolumeID)
		if err != nil {
			return err
		}
		if v.ProjectID != i.ProjectID {
			return fmt.Errorf("compute: volume %s is another project's than instance %s: %w", v.ID, i.ID, errdefs.ErrInvalidArgument)
		}
		_, err = operation.Begin(tx, i.volumeOperation(kindAttach, at))
		return err
	})
	return device, err
}

var validDevice = regexp.MustCompile(`^(vd[b-z]|sd[a-z])$`)

// freeDevice returns the device that is asked for, or the first that none of the instance's volumes has.
func freeDevice(r state.Reader, i Instance, asked string) (string, error) {
	var taken []string
	if i.ConfigDrive != "" {
		taken = append(taken, "vdb") // its second disk, behind what it boots from
	}
	for at := range volume.Attachments.By(r, "instance", i.ID) {
		taken = append(taken, at.Device)
	}
	switch {
	case slices.Contains(taken, asked):
		return "", fmt.Errorf("compute: Device %s of instance %s is taken: %w", asked, i.ID, errdefs.ErrAlreadyExists)
	case len(taken) >= mostDisks-1:
		return "", fmt.Errorf("compute: instance %s has %d volumes, at most %d are possible: %w", i.ID, len(taken), mostDisks-1, errdefs.ErrResourceExhausted)
	case asked != "":
		return asked, nil
	}
	letter := 'b'
	for slices.Contains(taken, "vd"+string(letter)) {
		letter++
	}
	return "vd" + string(letter), nil
}

func (i Instance) volumeOperation(kind string, at volume.Attachment) operation.Intent {
	in := i.operation(kind, actionDeadline)
	in.Data = volumeWork{work{i.ID, i.Epoch}, at.VolumeID, at.Epoch}
	return in
}

// DetachVolume takes a volume from the instance that has it, whose guest is asked to let go. It returns at once; the
// volume is "available" when it is free, or "in-use" again, with the reason in its Fault, if the guest does not let go.
// One that is being detached already, or is attached to nothing, is success.
func (s *Service) DetachVolume(ctx context.Context, volumeID string) error {
	caller, err := s.cfg.Policy.Authorize(ctx, "compute:volume:detach", "")
	if err != nil {
		return err
	}
	var at volume.Attachment
	err = s.cfg.Store.View(func(r *state.View) error {
		if _, err := volume.Owned(r, caller, volumeID); err != nil {
			return err
		}
		at, err = volume.Attachments.Get(r, volumeID)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err == nil && at.InstanceID == "" {
			return fmt.Errorf("volume %s is attached to %s, which is no instance: %w", volumeID, at.Consumer, errdefs.ErrFailedPrecondition)
		}
		return err
	})
	if err != nil || at.VolumeID == "" {
		return err
	}
	return s.begin(ctx, "compute:volume:detach", at.InstanceID, func(tx *state.Tx, i *Instance) error {
		v, err := volume.Volumes.Get(tx, volumeID)
		if err != nil {
			return err
		}
		if v.State == volume.StateDetaching || v.Epoch != at.Epoch {
			return errNothing
		}
		if i.BootVolume == volumeID {
			return fmt.Errorf("instance %s boots from volume %s, and can't be without it: %w", i.ID, volumeID, errdefs.ErrFailedPrecondition)
		}
		if i.Task == TaskDeleting {
			return errNothing // with the instance
		}
		if i.Task == TaskMigrating {
			return fmt.Errorf("instance %s is %s, and its volumes are on two hosts: %w", i.ID, i.Task, errdefs.ErrFailedPrecondition)
		}
		if err := volume.Leave(tx, volumeID, at.Epoch); err != nil {
			return err
		}
		_, err = operation.Begin(tx, i.volumeOperation(kindDetach, at))
		return err
	})
}

// volumeWork is what an operation on an instance and a volume keeps.
type volumeWork struct {
	work
	VolumeID   string
	Attachment uint64 // its epoch
}

// attach makes a volume that the service has reserved a disk of the instance.
func (a *Agent) attach() operation.Definition {
	return operation.Define(operation.Kind[volumeWork]{
		Name: kindAttach,
		Steps: []operation.Step[volumeWork]{
			// No Undo: Failed has the export ended.
			{Name: "export", Do: a.awaitExport},
			{Name: "disk", Do: a.connect, Undo: a.disconnect},
		},
		Done: func(tx *state.Tx, w *volumeWork) error {
			return ended(volume.Confirm(tx, w.VolumeID, w.Attachment, ""))
		},
		Failed: func(tx *state.Tx, w *volumeWork, reason string) error {
			return volume.Release(tx, w.VolumeID, w.Attachment, reason, false)
		},
		Problem: problem,
	})
}

// detach takes a volume from the instance.
func (a *Agent) detach() operation.Definition {
	return operation.Define(operation.Kind[volumeWork]{
		Name: kindDetach,
		// No Undo: what the guest has let go of is not given back to it.
		Steps: []operation.Step[volumeWork]{{Name: "disk", Do: a.disconnect}},
		Done: func(tx *state.Tx, w *volumeWork) error {
			return volume.Release(tx, w.VolumeID, w.Attachment, "", false)
		},
		Failed: func(tx *state.Tx, w *volumeWork, reason string) error {
			return ended(volume.Confirm(tx, w.VolumeID, w.Attachment, reason))
		},
		Problem: problem,
	})
}

// VolumeGrown begins what tells an instance that a volume it has is larger: the hook volume.AgentConfig.Grown. Its host does it when it is rung
// ([Service.Ring]), and within [AgentConfig.Tick] at the latest.
func VolumeGrown(tx *state.Tx, at volume.Attachment) error {
	i, err := Instances.Get(tx, at.InstanceID)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err != nil || i.Task == TaskDeleting { // there is nobody to be told, or soon will be
		return ended(volume.Confirm(tx, at.VolumeID, at.Epoch, ""))
	}
	_, err = operation.Begin(tx, i.volumeOperation(kindGrow, at))
	return err
}

// grow has an instance see that a volume is larger.
func (a *Agent) grow() operation.Definition {
	return operation.Define(operation.Kind[volumeWork]{
		Name: kindGrow,
		// No Undo: what is larger stays so.
		Steps: []operation.Step[volumeWork]{{Name: "disk", Do: a.tellSize}},
		Done: func(tx *state.Tx, w *volumeWork) error {
			return ended(volume.Confirm(tx, w.VolumeID, w.Attachment, ""))
		},
		Failed: func(tx *state.Tx, w *volumeWork, reason string) error {
			return ended(volume.Confirm(tx, w.VolumeID, w.Attachment, "the instance sees the new size when it is next started: "+reason))
		},
		Problem: problem,
	})
}

func (a *Agent) tellSize(ctx context.Context, w *volumeWork) error {
	at, runs, err := a.exportedTo(w)
	if err != nil {
		return ended(err)
	}
	var v volume.Volume
	if err := a.cfg.Store.View(func(r *state.View) error { v, err = volume.Volumes.Get(r, w.VolumeID); return err }); err != nil {
		return ended(err)
	}
	bytes := int64(v.SizeGiB) << 30
	if err := a.cfg.Connector.Grow(ctx, a.connectionOf(at), bytes); err != nil || !runs {
		return err
	}
	plugger, ok := a.cfg.Hypervisor.(Plugger)
	if !ok {
		return fmt.Errorf("compute: the hypervisor can't change disks of machines that run: %w", errdefs.ErrFailedPrecondition)
	}
	return ended(plugger.GrowDisk(ctx, w.InstanceID, VolumeSerial(w.VolumeID), bytes))
}

// ended ignores that an attachment has ended, as by force: an operation must be able to end.
func ended(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func problem(tx *state.Tx, w *volumeWork, reason string) error {
	return ended(volume.Explain(tx, w.VolumeID, w.Attachment, reason))
}

// awaitExport waits until the volume's host exports it.
func (a *Agent) awaitExport(ctx context.Context, w *volumeWork) error {
	return volume.Attachments.Await(ctx, a.cfg.Store, w.VolumeID, func(at volume.Attachment, found bool) (bool, error) {
		if found && at.Epoch == w.Attachment && !at.Ending {
			return at.Ready, nil
		}
		reason := "it was ended"
		_ = a.cfg.Store.View(func(r *state.View) error {
			if v, err := volume.Volumes.Get(r, w.VolumeID); err == nil && v.Fault != "" {
				reason = v.Fault
			}
			return nil
		})
		return false, fmt.Errorf("volume %s can't be exported: %s: %w", w.VolumeID, reason, errdefs.ErrFailedPrecondition)
	})
}

// exportedTo returns the attachment, and whether the instance's machine is to have it now.
func (a *Agent) exportedTo(w *volumeWork) (at volume.Attachment, runs bool, err error) {
	err = a.cfg.Store.View(func(r *state.View) error {
		i, err := Instances.Get(r, w.InstanceID)
		if err != nil {
			return err
		}
		runs = i.State == StateActive || i.State == StatePaused
		at, err = volume.Attachments.Get(r, w.VolumeID)
		if err == nil && at.Epoch != w.Attachment {
			err = fmt.Errorf("attachment %d of volume %s: %w", w.Attachment, w.VolumeID, errdefs.ErrNotFound)
		}
		return err
	})
	return at, runs, err
}

func (a *Agent) connect(ctx context.Context, w *volumeWork) error {
	at, runs, err := a.exportedTo(w)
	if err != nil || !runs { // what is off gets it when it is started
		return err
	}
	plugger, ok := a.cfg.Hypervisor.(Plugger)
	if !ok {
		return fmt.Errorf("compute: the hypervisor can't give disks to machines that run; stop the instance first: %w", errdefs.ErrFailedPrecondition)
	}
	disk, err := a.cfg.Connector.Connect(ctx, a.connectionOf(at))
	if err != nil {
		return err
	}
	return plugger.PlugDisk(ctx, w.InstanceID, disk)
}

func (a *Agent) disconnect(ctx context.Context, w *volumeWork) error {
	at, _, err := a.exportedTo(w)
	if err != nil {
		return ended(err)
	}
	if plugger, ok := a.cfg.Hypervisor.(Plugger); ok {
		limited, cancel := context.WithTimeout(ctx, a.cfg.DetachGrace)
		defer cancel()
		err := plugger.UnplugDisk(limited, w.InstanceID, VolumeSerial(w.VolumeID))
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			return fmt.Errorf("the guest of instance %s has not let go of the volume within %v: unmount it: %w", w.InstanceID, a.cfg.DetachGrace,
				errdefs.ErrUnavailable)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return a.cfg.Connector.Disconnect(ctx, a.connectionOf(at))
}

// volumeDisks returns the volumes that an instance's machine begins with.
func (a *Agent) volumeDisks(ctx context.Context, instanceID string) (disks []Disk, err error) {
	var all []volume.Attachment
	err = a.cfg.Store.View(func(r *state.View) error {
		for _, at := range attachments(r, instanceID) {
			v, err := volume.Volumes.Get(r, at.VolumeID)
			if err != nil {
				return err
			}
			if v.State == volume.StateInUse || v.State == volume.StateExtending || v.State == volume.StateDetaching || at.Device == bootDevice && at.Ready { // others are on their way, and will be plugged in
				all = append(all, at)
			}
		}
		return nil
	})
	slices.SortFunc(all, func(a, b volume.Attachment) int { return strings.Compare(a.Device, b.Device) })
	for _, at := range all {
		disk, err := a.cfg.Connector.Connect(ctx, a.connectionOf(at))
		if err != nil {
			return nil, err
		}
		disks = append(disks, disk)
	}
	return disks, err
}

// end destroys the domain and what made volumes reachable for it.
func (a *Agent) end(ctx context.Context, w *work) error {
	if err := a.destroy(ctx, w); err != nil {
		return err
	}
	var all []volume.Attachment
	err := a.cfg.Store.View(func(r *state.View) error { all = attachments(r, w.InstanceID); return nil })
	for _, at := range all {
		if err == nil {
			err = a.cfg.Connector.Disconnect(ctx, a.connectionOf(at))
		}
	}
	return err
}

// markEnded records that the domain is no more: taps are to go, and volumes are free, or go with the instance.
func (a *Agent) markEnded(tx *state.Tx, w *work) error {
	if err := a.markUnplugged(tx, w); err != nil {
		return err
	}
	for _, at := range attachments(tx, w.InstanceID) {
		v, err := volume.Volumes.Get(tx, at.VolumeID)
		if err != nil {
			return err
		}
		if err := volume.Release(tx, v.ID, at.Epoch, "", v.DeleteOnTermination); err != nil {
			return err
		}
	}
	return nil
}

// The kinds of operations on an instance and a volume.
const (
	kindAttach = "instance.volume.attach"
	kindDetach = "instance.volume.detach"
	kindGrow   = "instance.volume.grow"
)

// detachGrace is how long a guest may take to let go of a volume before that counts as a failed attempt.
const detachGrace = 30 * time.Second
