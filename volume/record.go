package volume

import (
	"time"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Volume is a disk of a project.
type Volume struct {
	ID        string
	ProjectID string
	UserID    string
	Name      string
	SizeGiB   int
	HostID    string // whose driver has it

	SnapshotID string // what it was made of; "": not of a snapshot
	SourceID   string // the volume that it was made of; "": of none
	// ImageID is the image that it, or what it was made of, was made of: what it boots with is that image's. "": of none.
	ImageID string

	State State
	// Fault says, in words for its owner, why it is in error, why the last thing that was tried failed, or why what is being
	// done does not move. It stays until the next thing succeeds.
	Fault string

	Epoch      uint64 // of its newest attachment; 0: it never had one
	AttachedTo string // an instance's id, or what [Service.Attach] was told; "": it is free
	Device     string // what the instance was told to call it
	// DeleteOnTermination has the volume deleted with the instance that it is attached to.
	DeleteOnTermination bool

	Copies int // how many volumes and images are being made of it just now

	Token     string // the caller's idempotency token
	TokenHash string // of the request that came with it
	Created   time.Time
}

// State is what a volume or snapshot is.
type State string

// The states of volumes; those of snapshots are StateCreating, StateAvailable, StateDeleting and StateError. What is deleted is gone.
const (
	StateCreating  State = "creating"
	StateAvailable State = "available"
	StateAttaching State = "attaching"
	StateInUse     State = "in-use"
	StateDetaching State = "detaching"
	StateExtending State = "extending" // also while it is attached
	StateDeleting  State = "deleting"
	StateError     State = "error" // it could not be made; Fault says why
)

// object names the volume in operations. What is done to its snapshots is done to it.
func object(volumeID string) string { return "volume/" + volumeID }

// Snapshot is what a volume held at one moment. It is on the volume's host.
type Snapshot struct {
	ID        string
	VolumeID  string
	ProjectID string
	UserID    string
	Name      string
	SizeGiB   int
	HostID    string
	ImageID   string // of the volume
	State     State
	Fault     string // as of a volume
	Copies    int    // how many volumes and images are being made of it just now

	Token     string
	TokenHash string
	Created   time.Time
}

// Attachment is the right of one consumer to use a volume, from when it is given until nothing of it is left.
type Attachment struct {
	VolumeID   string
	HostID     string // the volume's
	Epoch      uint64
	Consumer   string // who uses it
	InstanceID string // the same, if it is an instance
	NodeID     string // the host from which it is used; "" if that is none of the cloud's
	Device     string

	Initiator string // the IQN that may log in
	User      string // CHAP
	Secret    string // CHAP; see the package's documentation

	// Next is the IQN that may log in too, of the host that the consumer is moving to; "": it stays. See [Admit].
	Next     string
	Admitted bool // Next can log in

	Target Target // where it is, once it is exported
	Ready  bool   // it is exported
	Ending bool   // it is being ended
	Begun  time.Time
}

// Use is what volumes and snapshots take.
type Use struct{ Volumes, GiB int }

// Plus returns the sum of two amounts.
func (u Use) Plus(o Use) Use { return Use{u.Volumes + o.Volumes, u.GiB + o.GiB} }

// Minus returns the difference of two amounts.
func (u Use) Minus(o Use) Use { return Use{u.Volumes - o.Volumes, u.GiB - o.GiB} }

func tokenOf(projectID, token string) []string {
	if token == "" {
		return nil
	}
	return []string{projectID + "/" + token}
}

func filed(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

// The tables of this package, and what is derived from them.
var (
	Volumes = state.NewTable("volume", func(v Volume) string { return v.ID },
		state.Index("project", func(v Volume) []string { return []string{v.ProjectID} }),
		state.Index("host", func(v Volume) []string { return []string{v.HostID} }),
		state.Unique("token", func(v Volume) []string { return tokenOf(v.ProjectID, v.Token) }))

	Snapshots = state.NewTable("volume-snapshot", func(s Snapshot) string { return s.ID },
		state.Index("project", func(s Snapshot) []string { return []string{s.ProjectID} }),
		state.Index("host", func(s Snapshot) []string { return []string{s.HostID} }),
		state.Index("volume", func(s Snapshot) []string { return []string{s.VolumeID} }),
		state.Unique("token", func(s Snapshot) []string { return tokenOf(s.ProjectID, s.Token) }))

	Attachments = state.NewTable("volume-attachment", func(a Attachment) string { return a.VolumeID },
		state.Index("host", func(a Attachment) []string { return []string{a.HostID} }),
		state.Index("node", func(a Attachment) []string { return filed(a.NodeID) }),
		state.Index("instance", func(a Attachment) []string { return filed(a.InstanceID) }))

	Hosts = state.NewTable("volume-host", func(h Host) string { return h.ID })

	// VolumeUse and SnapshotUse are what a project takes of its quota, what is in error included.
	VolumeUse   = state.NewSum("volume-use", Volumes, func(v Volume) (string, Use) { return v.ProjectID, Use{1, v.SizeGiB} })
	SnapshotUse = state.NewSum("volume-snapshot-use", Snapshots, func(s Snapshot) (string, Use) { return s.ProjectID, Use{0, s.SizeGiB} })

	// VolumeHostUse and SnapshotHostUse are what is taken of a host. What is in error takes nothing: it has been undone.
	VolumeHostUse = state.NewSum("volume-host-use", Volumes, func(v Volume) (string, Use) {
		if v.State == StateError {
			return "", Use{}
		}
		return v.HostID, Use{1, v.SizeGiB}
	})
	SnapshotHostUse = state.NewSum("volume-snapshot-host-use", Snapshots, func(s Snapshot) (string, Use) {
		if s.State == StateError {
			return "", Use{}
		}
		return s.HostID, Use{0, s.SizeGiB}
	})
)

// Schema returns what a store needs for this package.
func Schema() []state.Schema {
	return []state.Schema{Volumes, Snapshots, Attachments, Hosts, VolumeUse, SnapshotUse, VolumeHostUse, SnapshotHostUse}
}

// ProjectUse returns what a project uses of its quota: its volumes, and the size of these and of their snapshots.
func ProjectUse(r state.Reader, projectID string) auth.Amounts {
	u := VolumeUse.Get(r, projectID).Plus(SnapshotUse.Get(r, projectID))
	return auth.Amounts{Volumes: u.Volumes, Gigabytes: u.GiB}
}
