package compute

import "context"

// Disks makes the files of the instances of one host. [ImageDisks] makes them from images; a test that runs no guest uses a
// fake.
type Disks interface {
	// Make makes what is missing of the instance's files and returns them all. It is idempotent, and what the guest has
	// written since stays.
	Make(ctx context.Context, i Instance) (Files, error)

	// Remove removes all files of the instance; an unknown instance is success.
	Remove(ctx context.Context, instanceID string) error

	// List returns the ids of the instances that have files here.
	List(ctx context.Context) ([]string, error)
}

// Files is what an instance boots from and writes to. Paths on the host.
type Files struct {
	Kernel, Ramdisk, Cmdline string // as in Machine
	Disks                    []Disk
	ConsoleLog               string
}
