package compute

import "context"

// Disks makes the files of the instances of one host. [ImageDisks] makes them from images; a test that runs no guest uses a
// fake. All methods are safe for concurrent use and return soon after ctx ends; the agent never makes two calls for one
// instance at once. A call that was cut short, by the end of its process too, is settled by the next Make or Remove of that
// instance.
type Disks interface {
	// Make makes what is missing of the instance's files and returns them all. It is idempotent, and what the guest has
	// written since stays. One with a BootVolume gets no root disk: that volume is put before the Disks. It must not need what may be gone when a stopped instance is started again, such as the image.
	Make(ctx context.Context, i Instance) (Files, error)

	// Remove removes all files of the instance, which does not run; an unknown instance is success.
	Remove(ctx context.Context, instanceID string) error

	// List returns the ids of the instances that have files here, in any order, also of those that were made or removed in
	// part.
	List(ctx context.Context) ([]string, error)
}

// Sweeper is what [Disks] have besides that keep more than the files of instances, such as copies of images. The agent
// calls it now and then.
type Sweeper interface {
	// Sweep removes what no instance has used for some time. It may run beside all methods of Disks.
	Sweep(ctx context.Context) error
}

// Files is what an instance boots from and writes to. Paths on the host.
type Files struct {
	Kernel, Ramdisk, Cmdline string // as in [Machine]
	Disks                    []Disk
	ConsoleLog               string
}
