package compute

import (
	"context"
	"iter"
	"net"
	"time"
)

// Hypervisor runs virtual machines on one host. It is the interface that a driver implements: compute/libvirt for
// real machines, compute/fakecompute for tests. The suite in compute/computetest checks every sentence below.
//
// # Life cycle
//
//	           Create                Stop, guest powers off
//	(nothing) ─────────► Running ──────────────────────────► Shutoff
//	                     │    ▲ ◄──────────── Start ───────────┘
//	               Pause │    │ Resume
//	                     ▼    │
//	                     Paused        Destroy: from any state to (nothing)
//
// A domain is what the hypervisor knows of a machine. It carries the machine's id and epoch, so that what runs can be
// compared with what the store says. A driver keeps no state of its own between calls: all it needs comes in by [Machine],
// and all it knows is what the hypervisor tells it. Disks, taps and the directories of console logs exist before
// Create and outlive Destroy; their owner is the agent.
//
// A machine that crashed is shut off in all respects; only [Domain.Power] and the event tell the difference.
//
// # Rules for all methods
//
// All methods are safe for concurrent use; the agent never makes two calls for one machine at once, but may make calls
// for many machines. Every method returns soon after its context ends, with the context's error unwrapped; the work may
// then have happened or not, and repeating the call settles it. Errors are of a class of containerd/errdefs: an unknown
// id is NotFound (unless the method says otherwise), a machine in the wrong state FailedPrecondition, a bad Machine InvalidArgument, a
// hypervisor that can't be reached Unavailable. Drivers don't retry, except to reconnect; the agent does. A domain that
// this library did not make is unknown to all methods but Create, Destroy, List and Events: the others say NotFound.
type Hypervisor interface {
	// Describe tells what the host has and what runs it. The figures are physical; what the scheduler may promise
	// of them is not the driver's business.
	Describe(ctx context.Context) (HostInfo, error)

	// Create makes the domain and starts it, and returns when it runs. What [Machine.Validate] refuses is
	// InvalidArgument. Create is idempotent: if a domain with m's id and epoch runs already, it returns nil; if that
	// domain is paused, it resumes; if it is shut off (an earlier Create was cut short), it gets m's parts and starts. A
	// domain with the same id and another epoch, or one that this library did not make, is AlreadyExists and is not
	// touched. A Create that fails may leave a domain that is shut off, never one that runs with other parts than m's.
	Create(ctx context.Context, m Machine) error

	// Destroy ends the machine at once and forgets its domain. An unknown id is success. A domain whose epoch is
	// not epoch is FailedPrecondition and is not touched: it belongs to another attempt than the caller's. A domain
	// that this library did not make is never touched, whatever its id: FailedPrecondition.
	Destroy(ctx context.Context, id string, epoch uint64) error

	// Start starts a domain that is shut off. One that runs already is success; one that is paused is
	// FailedPrecondition.
	Start(ctx context.Context, id string) error

	// Stop asks the guest to power off and waits for it up to grace, then takes the power away. With grace 0 it
	// takes the power away at once; so it does when the machine is paused, for its guest can't answer. The domain is
	// kept, shut off. One that is shut off already is success.
	Stop(ctx context.Context, id string, grace time.Duration) error

	// Reboot restarts a running machine: soft asks the guest and returns at once, hard resets the processor as a
	// reset button does. A domain that does not run, or is paused, is FailedPrecondition.
	Reboot(ctx context.Context, id string, hard bool) error

	// Pause halts the processors of a running machine. One that is paused already is success; one that is shut off
	// is FailedPrecondition.
	Pause(ctx context.Context, id string) error

	// Resume lets a paused machine go on. One that runs already is success; one that is shut off is
	// FailedPrecondition.
	Resume(ctx context.Context, id string) error

	// List returns every domain of the hypervisor, also those that this library did not make (with Ours false),
	// in no order.
	List(ctx context.Context) ([]Domain, error)

	// Events yields a change of power state soon after it happened, of every domain of the hypervisor; the last one
	// of a domain that is destroyed is [PowerShutoff]. After every (re)connection to the hypervisor,
	// the first one included, it first yields one event with Resync set, because changes may have been missed:
	// the consumer then calls List. It ends when ctx ends, and without an error then; it reconnects by itself, with
	// back-off, and never ends otherwise. A consumer that is slow delays events but no other call; one that is far
	// behind may get a Resync in place of what it missed. A driver may yield a Resync whenever it can't tell.
	Events(ctx context.Context) iter.Seq[PowerEvent]

	// Console returns the last max bytes that the machine wrote to its first serial port, across restarts of the
	// domain and of this process, and nothing (not an error) if it has written nothing yet. A max below 1 is
	// InvalidArgument.
	Console(ctx context.Context, id string, max int) ([]byte, error)
}

// Machine is everything a hypervisor needs to make one virtual machine.
// [Machine.Validate] checks it.
type Machine struct {
	ID        string // a UUID in its 36-character form
	Epoch     uint64 // which attempt at this machine; kept in the domain
	Name      string // for people: shown beside the id; need not be unique; at most 255 bytes, no control characters
	VCPUs     int    // 1 to 1024
	MemoryMiB int    // 1 to 67108864

	// Kernel boots the machine directly when set; otherwise it boots from the first disk. Absolute paths on the host;
	// the command line has at most 2047 bytes.
	Kernel, Ramdisk, Cmdline string

	Disks []Disk // at most 26
	NICs  []NIC  // at most 26

	ConsoleLog string // file that the first serial port is appended to; its directory exists; empty: nowhere
}

// Disk is what the machine sees as a disk: a file or block device on the host, or one behind a network.
type Disk struct {
	Path     string // an existing file or block device; "" with ISCSI
	ISCSI    *ISCSI // nil: it is at Path
	Format   string // "raw" or "qcow2": always given, never probed
	ReadOnly bool
	Serial   string // what the guest sees as the serial number; at most 20 characters
	Device   string // "vda" to "vdz" (virtio-blk) or "sda" to "sdz" (virtio-scsi), different for all disks of a machine; "": "vd" and the letter of its place among them

	// Backing is what shows through where a qcow2 file was not written to, the file right below first. What the
	// files' own headers say is not followed: with no Backing, nothing shows through. The machine only reads them. At
	// most 8.
	Backing []BackingFile
}

// BackingFile is a file below a [Disk].
type BackingFile struct {
	Path   string // an existing file
	Format string // "raw" or "qcow2"
}

// NIC is a network card joined to a tap device that the network manager made before Create.
type NIC struct {
	Tap string // name of an existing tap device
	MAC net.HardwareAddr
	MTU int // 0: 1500
}

// HostInfo is what a host has.
type HostInfo struct {
	Hypervisor  string // "QEMU/TCG", "QEMU/KVM", "fake"
	Version     string
	Arch        string // "x86_64", "aarch64"
	VCPUs       int
	MemoryMiB   int
	HostAddress string // where peers reach it, if the driver knows; may be empty
}

// Domain is a machine as the hypervisor sees it.
type Domain struct {
	ID    string
	Name  string // what the hypervisor calls it
	Epoch uint64 // 0 unless Ours
	Ours  bool   // this library made it
	Power PowerState
}

// PowerEvent is a change of a domain's power state, or, with Resync set and all else zero, the news that some may
// have been missed.
type PowerEvent struct {
	ID     string
	Power  PowerState
	Resync bool
}

// PowerState is what a domain does now.
type PowerState string

// The power states of a domain.
const (
	PowerUnknown PowerState = ""
	PowerRunning PowerState = "running"
	PowerPaused  PowerState = "paused"
	PowerShutoff PowerState = "shutoff"
	PowerCrashed PowerState = "crashed"
)
