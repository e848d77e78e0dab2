package volume

import "context"

// Exporter lets other hosts reach the volumes of this one. It is what an [Agent] needs of a transport: iscsi.NewExporter,
// and a fake in volume/fakevolume. All methods are safe for concurrent use; the agent never makes two calls for one volume at
// once. Each returns soon after its context ends, with the context's error; a repetition settles what was left half-done.
type Exporter interface {
	// Export makes a volume available to one initiator and returns where, when that can log in. When it returns, no
	// session of an older epoch of the volume touches it any more. The same export again is success; one with an epoch
	// older than the newest that there is is FailedPrecondition. With another Initiator or Also in the same epoch, who is
	// one of the two still goes on, and the sessions of who is none any more have ended.
	Export(ctx context.Context, e Export) (Target, error)

	// Unexport ends a volume's export and every session of it; when it returns, nothing of them touches the volume any more, and the
	// volume's device is not open here. One that is not there is success. An epoch older than that of the export is
	// FailedPrecondition.
	Unexport(ctx context.Context, volumeID string, epoch uint64) error

	// Resized tells initiators that a volume has another size. One that is not exported is success.
	Resized(ctx context.Context, volumeID string) error

	// Hold has what writes to a volume wait, and returns when no write is under way; all go on when release is called. Reads may go
	// on meanwhile. One that is not exported is success. The agent calls nothing else for the volume before release.
	Hold(ctx context.Context, volumeID string) (release func(), err error)

	// Exports returns what there is, in no order.
	Exports(ctx context.Context) ([]Exported, error)
}

// Export is a volume, and who may use it.
type Export struct {
	VolumeID string
	Epoch    uint64
	Path     string // of the device or file, as [Driver] returned it

	Initiator string // the IQN that may log in
	Also      string // a second IQN that may, while a machine moves from the one to the other; "": none
	User      string // what they prove to know, by CHAP
	Secret    string
}

// Target is where an export is.
type Target struct {
	Portal string // "address:port"
	IQN    string
	LUN    uint16
}

// Exported is an export that there is.
type Exported struct {
	VolumeID string
	Epoch    uint64
}
