package iscsi

import (
	"context"
	"time"
)

// Target makes volumes available to initiators. It is what the agent of a host needs of an iSCSI target, and small enough to put another one
// in the place of [Server]. All methods are safe for concurrent use.
type Target interface {
	// Export makes a volume available and returns when its initiators can log in.
	//
	// An export of the same IQN with an older epoch is replaced: its sessions are ended, and when Export returns nothing of
	// them touches the volume any more; the caller may then close the older Store. With the same epoch and the same contents
	// Export does nothing; with other Initiators, the sessions of those that are no longer among them are ended in the same way, and
	// the rest goes on; with other contents it is AlreadyExists. A newer epoch than this one, now or before, is
	// FailedPrecondition. If ctx ends while sessions are being ended, its error is returned, nobody can log in, and the call
	// is to be repeated. Fields that can't be are InvalidArgument.
	Export(ctx context.Context, export Export) error

	// Unexport ends an export with its sessions, as a newer Export would. One that is not there is success. An epoch
	// older than the export's is FailedPrecondition.
	Unexport(ctx context.Context, iqn string, epoch uint64) error

	// Sessions returns who is logged in, in no order.
	Sessions() []Session

	// Hold has the writes to an export wait, and returns when none is under way; all go on when release is called. An unknown export is NotFound.
	Hold(ctx context.Context, iqn string) (release func(), err error)

	// Resized tells the initiators of an export that the size of its store has changed. An unknown export is NotFound.
	Resized(iqn string) error
}

// Export is a volume with those who may use it.
type Export struct {
	// IQN names the target: "iqn.", "eui." or "naa." and at most 223 bytes in all. Required.
	IQN string
	// LUN is the number of the volume in the target, below 16,384. Zero is what most expect.
	LUN uint16
	// Volume names the volume in the world: it is the serial number that initiators see, and what their names of the disk are made of. At most 36
	// printable bytes. Required.
	Volume string
	// Store is where the data is. Required. The caller closes it after Unexport or the next Export.
	Store Store
	// ReadOnly refuses all that writes.
	ReadOnly bool
	// Epoch counts the attachments of the volume. Zero is the oldest.
	Epoch uint64
	// Initiators are who may log in. None: nobody.
	Initiators []Initiator
}

// Initiator may use an export.
type Initiator struct {
	// IQN is the initiator's name. Required.
	IQN string
	// User and Secret are what the initiator proves to know, by CHAP. Without both its name is enough. A secret has 12 bytes
	// or more, RFC 7143 section 12.1.4.1, at most 255.
	User, Secret string
	// MutualUser and MutualSecret are what the target proves to know if the initiator asks. Both or none; the secret must not be the other.
	MutualUser, MutualSecret string
}

// Session is an initiator that is logged in.
type Session struct {
	IQN       string // of the target
	Epoch     uint64 // of the export
	Initiator string // its IQN
	ISID      uint64 // which of the initiator's sessions it is: 48 bits
	TSIH      uint16 // the target's number of it
	Address   string // of the initiator
	Since     time.Time
}

// Store is where the data of a volume is. All methods are called concurrently. [OpenFile] returns one.
type Store interface {
	// ReadAt and WriteAt are those of io.ReaderAt and io.WriterAt.
	ReadAt(p []byte, offset int64) (int, error)
	WriteAt(p []byte, offset int64) (int, error)
	// Sync returns when all that was written is on stable storage.
	Sync() error
	// Discard has a range read as zeros, and gives its space back where it can.
	Discard(offset, length int64) error
	// Size is how long the volume is, in bytes. What is not a whole block of 512 bytes is not exported.
	Size() (int64, error)
}
