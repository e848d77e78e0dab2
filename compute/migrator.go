package compute

import "context"

// Migrator is what a [Hypervisor] has besides that can hand a machine that runs to another host. Without it on both hosts instances stay where
// they are. The rules for all methods of a Hypervisor are those of these methods too.
//
//	destination   Prepare ───────────────────────► Create, where it arrived   (or Destroy, where it did not)
//	source                  Migrate ─────────────► Destroy                    (or Abort, and it runs on)
//
// At no instant does a machine run on two hosts. It runs on the source until all that it is has arrived; then it is paused at the
// destination, and it is the caller, who first records where it is, that has it go on.
type Migrator interface {
	// Prepare has this host expect a machine, which is as Create would be given it here, and returns the address that Migrate is
	// given on the other host. It makes no domain that runs. What [Machine.Validate] refuses is InvalidArgument, and a host that takes no
	// machines from others FailedPrecondition. Prepare is idempotent. What it leaves, Create and Destroy of the machine remove.
	Prepare(ctx context.Context, m Machine) (address string, err error)

	// Migrate hands the running machine with m's id to the host with an address, whose Prepare was given m; secrets of disks need
	// not be in it. Local disks that are not read-only are copied into those that m names, which exist, and which may have a Backing like
	// those here; the others are left as they are. When it returns nil, the machine is shut off here, and is at the destination, complete
	// and paused: a Create there has it go on where it was. When it returns another error than its context's, the machine runs here as
	// before, and nothing of it runs at the destination. What an earlier Migrate began that nobody waits for any more is
	// ended first. A machine that has left already is success. One that is shut off for another reason, or paused, is FailedPrecondition.
	Migrate(ctx context.Context, m Machine, address string) error

	// Abort ends a Migrate of the machine, whoever began it, and returns when it has ended: either left is true, and the machine is at the
	// destination as after a Migrate that succeeded, or it is here, and runs if it did before. Without one it changes
	// nothing, and left tells of the last one. An unknown machine has not left: it is success. A hypervisor that ended in the moment in which a machine
	// left may have forgotten that: then it is off here, shut off or crashed, and has not left.
	Abort(ctx context.Context, id string) (left bool, err error)
}
