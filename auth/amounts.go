package auth

// Resource is something that a project has a quota of.
type Resource string

// The resources. Those of the first group are used up and given back, over all that a project has; those of the second
// limit one request.
const (
	Instances      Resource = "instances"
	Cores          Resource = "cores"
	MemoryMiB      Resource = "memory (MiB)"
	Volumes        Resource = "volumes"
	Gigabytes      Resource = "gigabytes" // of volumes
	FloatingIPs    Resource = "floating IPs"
	SecurityGroups Resource = "security groups"

	MetadataItems      Resource = "metadata items"       // of one instance
	InjectedFiles      Resource = "injected files"       // into one instance
	InjectedFileBytes  Resource = "injected file bytes"  // in one file
	InjectedPathBytes  Resource = "injected path bytes"  // in one file's path
	SecurityGroupRules Resource = "security group rules" // of one group
)

// Unlimited is the limit of a resource of which a project may have any amount.
const Unlimited = -1

// Amounts are so much of each resource: what is used, what is asked for, or, with [Unlimited], what is allowed. It can be the
// amount of a [state.Sum].
type Amounts struct {
	Instances      int
	Cores          int
	MemoryMiB      int
	Volumes        int
	Gigabytes      int
	FloatingIPs    int
	SecurityGroups int

	MetadataItems      int
	InjectedFiles      int
	InjectedFileBytes  int
	InjectedPathBytes  int
	SecurityGroupRules int
}

// DefaultLimits returns Nova's: 10 instances, 20 cores, 51200 MiB of memory, 10 volumes, 1000 gigabytes, 10 floating IPs, 128
// metadata items, 5 injected files of 10 KiB with paths of 255 bytes, 10 security groups of 20 rules each.
func DefaultLimits() Amounts {
	return Amounts{Instances: 10, Cores: 20, MemoryMiB: 51200, Volumes: 10, Gigabytes: 1000, FloatingIPs: 10, SecurityGroups: 10,
		MetadataItems: 128, InjectedFiles: 5, InjectedFileBytes: 10 << 10, InjectedPathBytes: 255, SecurityGroupRules: 20}
}

// Resources returns all of them, in the order in which an error names them.
func Resources() []Resource {
	return []Resource{Instances, Cores, MemoryMiB, Volumes, Gigabytes, FloatingIPs, SecurityGroups,
		MetadataItems, InjectedFiles, InjectedFileBytes, InjectedPathBytes, SecurityGroupRules}
}

// field returns where a resource is in a, nil if r is none.
func (a *Amounts) field(r Resource) *int {
	switch r {
	case Instances:
		return &a.Instances
	case Cores:
		return &a.Cores
	case MemoryMiB:
		return &a.MemoryMiB
	case Volumes:
		return &a.Volumes
	case Gigabytes:
		return &a.Gigabytes
	case FloatingIPs:
		return &a.FloatingIPs
	case SecurityGroups:
		return &a.SecurityGroups
	case SecurityGroupRules:
		return &a.SecurityGroupRules
	case MetadataItems:
		return &a.MetadataItems
	case InjectedFiles:
		return &a.InjectedFiles
	case InjectedFileBytes:
		return &a.InjectedFileBytes
	case InjectedPathBytes:
		return &a.InjectedPathBytes
	}
	return nil
}

// Of returns the amount of one resource; of one that does not exist, 0.
func (a Amounts) Of(r Resource) int {
	if f := a.field(r); f != nil {
		return *f
	}
	return 0
}

// Plus returns a + b.
func (a Amounts) Plus(b Amounts) Amounts { return a.combine(b, 1) }

// Minus returns a - b.
func (a Amounts) Minus(b Amounts) Amounts { return a.combine(b, -1) }

func (a Amounts) combine(b Amounts, sign int) Amounts {
	for _, r := range Resources() {
		*a.field(r) += sign * b.Of(r)
	}
	return a
}
