package volume

import (
	"context"
)

// Driver makes the block devices that volumes are. It is the interface that a driver implements: volume/fakevolume for
// tests; the suite in volume/volumetest checks every sentence below.
//
// # Life cycle
//
//	        Create, Clone, Import                   Delete
//	(nothing) ────────────────► volume ─ Extend ─┐ ─────────► (nothing)
//	                              ▲   └──────────┘
//	                        Clone │ │ Snapshot
//	                              │ ▼
//	                            snapshot ── DeleteSnapshot ──► (nothing)
//
// A driver keeps no records: the service above it knows which volumes there should be, and the driver which there
// are. All methods are safe for concurrent use; the service never makes two calls for one volume at once. Every method is
// idempotent, so that a call that was cut short is repeated until it succeeds. Each returns soon after its context
// ends, with the context's error unwrapped; a repetition settles what was left half-done. Errors are of a class of
// containerd/errdefs: an unknown id is NotFound (unless the method says otherwise), a full store is
// ResourceExhausted, a store that can't be reached Unavailable.
//
// Ids are UUIDs in their 36-character form; anything else is InvalidArgument. Sizes are whole GiB.
type Driver interface {
	// Create makes a volume of size GiB whose contents read as zeros. One that exists with this id and size is
	// success; with another size it is AlreadyExists. A size below 1 is InvalidArgument.
	Create(ctx context.Context, id string, sizeGiB int) error

	// Clone makes a volume like Create whose contents begin as those of a volume or snapshot, as they are at
	// the call, and that is independent of it from then on. A size smaller than the source's is InvalidArgument. What
	// is beyond the source reads as zeros.
	Clone(ctx context.Context, id, source string, sizeGiB int) error

	// Import makes a volume like Create whose contents begin as those of a raw file or device of this host, by its absolute path,
	// which does not change during the call. What is beyond it reads as zeros. A path with nothing there is NotFound, one of
	// something else InvalidArgument, as is a size smaller than the file's.
	Import(ctx context.Context, id, path string, sizeGiB int) error

	// Extend makes the volume sizeGiB large; what is new reads as zeros. One that is that large already is success;
	// a smaller size is InvalidArgument. The volume may be in use meanwhile: who has it open goes on, and has all of it then.
	Extend(ctx context.Context, id string, sizeGiB int) error

	// Delete removes a volume, and nothing that it held can be read from any volume made later. An unknown id is
	// success. One with snapshots is FailedPrecondition.
	Delete(ctx context.Context, id string) error

	// Snapshot keeps the contents of a volume as they are at the call, under the id snapshot. The volume may be in use: then the
	// snapshot is what a loss of power at one moment of the call would have left, so that all that was flushed before the call is in it.
	// A driver that can't promise that is a [Copier]. One that exists with this id, of this volume, is success; of another volume it is AlreadyExists.
	Snapshot(ctx context.Context, snapshot, volume string) error

	// DeleteSnapshot removes a snapshot. An unknown id is success.
	DeleteSnapshot(ctx context.Context, snapshot string) error

	// Path returns the file or device on this host through which the volume is read and written, with its format,
	// which is always "raw".
	Path(ctx context.Context, id string) (string, error)

	// List returns what there is, in no order. Volumes that this library did not make are not in it.
	List(ctx context.Context) ([]Info, error)

	// Stats tells how large the store is.
	Stats(ctx context.Context) (Stats, error)
}

// Copier is what a [Driver] has besides that may have to copy a volume to make a snapshot of it, which takes time.
type Copier interface {
	// SnapshotHeld is Snapshot, and promises what that does, for a volume whose writers can be made to wait: hold returns when none writes
	// any more, and from then on none does until release is called. It is called at most once, only if that is needed, and release before
	// SnapshotHeld returns. The context ends when the writers have waited too long.
	SnapshotHeld(ctx context.Context, snapshot, volume string, hold func(ctx context.Context) (release func(), err error)) error
}

// Info is a volume or a snapshot as the driver sees it.
type Info struct {
	ID      string
	SizeGiB int
	Of      string // of a snapshot: the volume it was taken of; "": a volume
}

// Stats is what a store has.
type Stats struct {
	TotalGiB int
	FreeGiB  int // what can still be given away
}
