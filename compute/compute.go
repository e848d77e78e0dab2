package compute

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Instance is a virtual machine of a project.
type Instance struct {
	ID            string
	ProjectID     string
	UserID        string
	Name          string
	Hostname      string // what the guest is called on its network
	ReservationID string // shared by the instances of one request
	LaunchIndex   int    // which of them it is, from 0

	Flavor    Flavor // as it was at launch
	ImageID   string // what it boots; of a volume, what that was made of, "" if nobody knows
	KernelID  string // what boots the image, as it said at launch; "": it boots by itself
	RamdiskID string // "": none
	Cmdline   string // of the kernel; "" without one
	KeyName   string
	PublicKey string // authorized_keys line of the key pair; "" without one
	UserData  []byte

	// BootVolume is the volume that it boots from; "": it has a disk of its own. BootMade: the volume was made for it.
	BootVolume string
	BootMade   bool

	ConfigDrive string // the format of its config drive: [DriveOpenStack] or [DriveNoCloud]; "": it has none

	HostID string // where it runs
	Zone   string
	// Elsewhere are the ids of the hosts that it has left, or did not come to, and that have not removed yet what they have of it.
	Elsewhere []string
	Ports     []string // ids of its network ports, in the order of its cards

	State State
	Task  Task       // what is being done to it
	Power PowerState // what its domain was last seen to do
	// Fault says, in words for its owner, why it is in error, why it stopped by itself, or why what is being done to it does
	// not move. What it tells of a thing that failed stays until the next thing succeeds.
	Fault string
	Epoch uint64 // which attempt at its domain
	// Generation rises with every change that an operation makes, so that what was observed before one is not
	// written after it.
	Generation uint64

	Token     string // the caller's idempotency token
	TokenHash string // of the request that came with it

	Created  time.Time
	Launched time.Time // when it first ran; zero before
}

// Clone returns a copy that shares nothing.
func (i Instance) Clone() Instance {
	i.Ports = append([]string(nil), i.Ports...)
	i.UserData = append([]byte(nil), i.UserData...)
	i.Elsewhere = append([]string(nil), i.Elsewhere...)
	return i
}

// claims tells whether the instance takes up room on its host.
func (i Instance) claims() bool { return i.HostID != "" && i.State != StateError }

// tokenKey is what the instances that were made under one token are found by.
func tokenKey(projectID, token string) string { return projectID + "/" + token }

// object names the instance in operations.
func (i Instance) object() string { return "instance/" + i.ID }

// Use is what the instances of a project take of its quota.
type Use struct{ Instances, Cores, MemoryMiB int }

// Plus returns the sum of two amounts.
func (u Use) Plus(o Use) Use {
	return Use{u.Instances + o.Instances, u.Cores + o.Cores, u.MemoryMiB + o.MemoryMiB}
}

// Minus returns the difference of two amounts.
func (u Use) Minus(o Use) Use {
	return Use{u.Instances - o.Instances, u.Cores - o.Cores, u.MemoryMiB - o.MemoryMiB}
}

// The tables of this package, and what is derived from them.
var (
	Instances = state.NewTable("instance", func(i Instance) string { return i.ID },
		state.Index("project", func(i Instance) []string { return []string{i.ProjectID} }),
		state.Index("host", func(i Instance) []string {
			if i.HostID == "" {
				return nil
			}
			return []string{i.HostID}
		}),
		state.Index("token", func(i Instance) []string {
			if i.Token == "" {
				return nil
			}
			return []string{tokenKey(i.ProjectID, i.Token)}
		}),
		state.Unique("token-index", func(i Instance) []string {
			if i.Token == "" {
				return nil
			}
			return []string{fmt.Sprintf("%s/%d", tokenKey(i.ProjectID, i.Token), i.LaunchIndex)}
		}))

	// HostUse is what the instances of a host take of it, besides those that are on their way to it: see [Used]. An instance in error
	// takes nothing: it has been undone.
	HostUse = state.NewSum("host-use", Instances, func(i Instance) (string, scheduler.Resources) {
		if !i.claims() {
			return "", scheduler.Resources{}
		}
		return i.HostID, i.Flavor.Resources()
	})

	// ProjectUse is what the instances of a project take of its quota, those in error included, until they are gone.
	ProjectUse = state.NewSum("project-use", Instances, func(i Instance) (string, Use) {
		return i.ProjectID, Use{1, i.Flavor.VCPUs, i.Flavor.MemoryMiB}
	})
)

// Schema returns what a store needs for this package.
func Schema() []state.Schema {
	return []state.Schema{Flavors, Instances, HostUse, ProjectUse, Migrations, ComingUse}
}

// Used returns what of a host is given away: to the instances on it, and to those that are moving to it.
func Used(r state.Reader, hostID string) scheduler.Resources {
	return HostUse.Get(r, hostID).Plus(ComingUse.Get(r, hostID))
}

// State is what an instance is.
type State string

// The states of an instance. A terminated one is gone.
const (
	StateBuilding State = "building" // it never ran yet
	StateActive   State = "active"
	StatePaused   State = "paused"
	StateStopped  State = "stopped"
	StateError    State = "error" // its launch failed and was undone; Fault says why
)

// Task is what is being done to an instance; empty when nothing is.
type Task string

// The tasks of an instance.
const (
	TaskNone       Task = ""
	TaskSpawning   Task = "spawning"
	TaskRebooting  Task = "rebooting"
	TaskHardReboot Task = "rebooting_hard"
	TaskStarting   Task = "starting"
	TaskStopping   Task = "stopping"
	TaskDeleting   Task = "deleting"
	TaskNetworking Task = "networking" // a fixed IP comes or goes, or limits change
	TaskMigrating  Task = "migrating"  // it moves to another host while it runs
)

// allowed is the state machine: from which states an action may begin. Another task must not be under way, except that
// anything may be terminated at any time.
var allowed = map[Task][]State{
	TaskRebooting:  {StateActive},
	TaskHardReboot: {StateActive, StatePaused},
	TaskStarting:   {StateStopped},
	TaskStopping:   {StateActive, StatePaused},
	TaskNetworking: {StateActive, StatePaused, StateStopped},
	TaskMigrating:  {StateActive},
}

// may returns why a task can't begin now.
func (i Instance) may(task Task) error {
	if i.Task != TaskNone {
		return fmt.Errorf("instance %s is %s: %w", i.ID, i.Task, errdefs.ErrFailedPrecondition)
	}
	for _, s := range allowed[task] {
		if i.State == s {
			return nil
		}
	}
	return fmt.Errorf("instance %s is %s, must be one of %v for %s: %w", i.ID, i.State, allowed[task], task, errdefs.ErrFailedPrecondition)
}

// Status returns the word that users know the state by, as in the OpenStack Compute API.
func (i Instance) Status() string {
	switch {
	case i.Task == TaskDeleting:
		return "DELETING"
	case i.Task == TaskRebooting:
		return "REBOOT"
	case i.Task == TaskHardReboot:
		return "HARD_REBOOT"
	case i.Task == TaskMigrating:
		return "MIGRATING"
	}
	switch i.State {
	case StateBuilding:
		return "BUILD"
	case StateActive:
		return "ACTIVE"
	case StatePaused:
		return "PAUSED"
	case StateStopped:
		return "SHUTOFF"
	case StateError:
		return "ERROR"
	}
	return "UNKNOWN"
}
