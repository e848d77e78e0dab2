package compute

import (
	"context"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Connection is a volume that is exported to this host.
type Connection struct {
	VolumeID  string
	Epoch     uint64 // of the attachment
	Target    volume.Target
	Initiator string // the IQN that may log in: that of this host
	User      string // CHAP
	Secret    string
	Device    string // what the guest is to call it, such as "vdb"
}

// Connector makes exported volumes disks of machines on this host. [QEMUInitiator] leaves the work to the hypervisor; compute/openiscsi has
// the kernel log in, and machines get its block device. All methods are safe for concurrent use and idempotent; the agent never makes two
// calls for one volume at once.
type Connector interface {
	// Connect makes a volume reachable and returns the disk that a machine gets, with the connection's Device, and
	// [VolumeSerial] as its Serial. What is connected already stays as it is, and the disk is the same. What older epochs of the
	// volume have left on this host is ended first.
	Connect(ctx context.Context, c Connection) (Disk, error)

	// Disconnect ends what Connect began; no machine has the disk any more. One that is not connected is success. What a newer
	// epoch of the volume has stays.
	Disconnect(ctx context.Context, c Connection) error

	// Grow has the host see that a volume is bytes large, which it is already where it is exported, and returns when the host does. One
	// that is not connected is success. Who uses the disk is to be told besides.
	Grow(ctx context.Context, c Connection, bytes int64) error
}

// QEMUInitiator is the [Connector] that has QEMU's own initiator reach the volume: nothing is done on the host.
type QEMUInitiator struct{}

// Connect implements [Connector].
func (QEMUInitiator) Connect(_ context.Context, c Connection) (Disk, error) {
	return Disk{Format: "raw", Serial: VolumeSerial(c.VolumeID), Device: c.Device, ISCSI: &ISCSI{Portal: c.Target.Portal, IQN: c.Target.IQN,
		LUN: c.Target.LUN, Initiator: c.Initiator, User: c.User, Secret: c.Secret}}, nil
}

// Disconnect implements [Connector].
func (QEMUInitiator) Disconnect(context.Context, Connection) error { return nil }

// Grow implements [Connector].
func (QEMUInitiator) Grow(context.Context, Connection, int64) error { return nil }

// VolumeSerial is what a guest sees as the serial number of a volume: as much of the id as there is room for.
func VolumeSerial(id string) string {
	id = strings.ReplaceAll(id, "-", "")
	return id[:min(len(id), mostSerial)]
}

// InitiatorOf is the name under which a host reaches volumes.
func InitiatorOf(hostID string) string {
	return "iqn.2026-01.cloud.dewpoint:host-" + strings.ToLower(strings.ReplaceAll(hostID, "_", "-"))
}

// connectionOf is how this host reaches a volume of an instance: the one that is on it, or is coming.
func (a *Agent) connectionOf(at volume.Attachment) Connection {
	return Connection{VolumeID: at.VolumeID, Epoch: at.Epoch, Target: at.Target, Initiator: InitiatorOf(a.cfg.Host.ID), User: at.User,
		Secret: at.Secret, Device: at.Device}
}

// attachments returns those of an instance that are not being ended.
func attachments(r state.Reader, instanceID string) (all []volume.Attachment) {
	for at := range volume.Attachments.By(r, "instance", instanceID) {
		if !at.Ending {
			all = append(all, at)
		}
	}
	return all
}
