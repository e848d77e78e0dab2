package compute

import "context"

// Plugger is what a [Hypervisor] has besides that can give disks to machines that run, and take them away. Without it volumes are
// attached to stopped instances only. The rules for all methods of a Hypervisor are those of these methods too.
type Plugger interface {
	// PlugDisk gives a running or paused machine a disk, and returns when the machine has it. The disk has a Serial and a
	// Device; what [Disk.Validate] refuses is InvalidArgument. A disk with this serial that the machine has already is
	// success; another one with this device is AlreadyExists. The device says what it is on, virtio-blk or virtio-scsi. A machine that is shut off is FailedPrecondition. The disk is the
	// machine's until it is shut off or the disk is taken away: what it has afterwards, the next Create says.
	PlugDisk(ctx context.Context, id string, d Disk) error

	// UnplugDisk asks the guest to let go of the disk with a serial, and returns when it has. A guest that does not is
	// asked again now and then, until ctx ends; it may let go later then. A disk that the machine does not have is
	// success, and so is a machine that is shut off.
	UnplugDisk(ctx context.Context, id, serial string) error

	// GrowDisk has a machine see that the disk with a serial is bytes large, which what is behind it is already, and returns when the guest
	// is told. A disk that the machine does not have is success, and so is a machine that is shut off: it starts with what there is. Less
	// than the disk has is InvalidArgument or FailedPrecondition, and changes nothing.
	GrowDisk(ctx context.Context, id, serial string, bytes int64) error

	// DisksOf returns the serials of the disks that a machine has, in no order; none if it is shut off.
	DisksOf(ctx context.Context, id string) ([]string, error)
}

// ISCSI is a disk behind a network, which the hypervisor reaches by itself, as QEMU does.
type ISCSI struct {
	Portal    string // "address:port"
	IQN       string // of the target
	LUN       uint16
	Initiator string // the IQN that the hypervisor says it is

	// User and Secret are what it proves to know, by CHAP. The hypervisor doesn't keep them: a machine with such a disk is
	// started by Create, not by Start.
	User, Secret string
}
