// Package scheduler picks the hosts that instances run on.
//
// Filters say which hosts can take an instance, weighers which of those is best; both are plain values, and a host
// program adds its own to the defaults. The choice is made inside the transaction that creates the instance, and the instance's
// record is the claim on the host: what a host has given away is the sum of the instances on it, read and guarded in
// that same transaction, so two schedulers can't sell one place twice.
package scheduler

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Scheduler picks hosts. [Filtering] is the reference implementation; a host program may bring its own.
type Scheduler interface {
	// Place picks a host for each of n instances with the same needs, and returns the hosts' ids, n of them, the
	// same one several times where it has room for several. It runs in the transaction tx of the caller, who records
	// the instances on these hosts in it; Place itself writes nothing. What makes a chosen host fit, it reads through tx,
	// so that the transaction is run again if that changes; it must therefore have no effect outside tx. If there is
	// no room for all n, the error is an *[Unplaced], under [ErrNoValidHost], and none are placed. It is called from many
	// goroutines, but never from two for one tx.
	Place(tx *state.Tx, req Request, n int) ([]string, error)
}

// ErrNoValidHost is a request that no host can take.
var ErrNoValidHost = fmt.Errorf(noValidHost+": %w", errdefs.ErrResourceExhausted)

const noValidHost = "no valid host"

// Resources is what a host has, or an instance needs.
type Resources struct {
	VCPUs     int
	MemoryMiB int
	DiskGiB   int
}

// Plus returns the sum of two amounts.
func (r Resources) Plus(o Resources) Resources {
	return Resources{r.VCPUs + o.VCPUs, r.MemoryMiB + o.MemoryMiB, r.DiskGiB + o.DiskGiB}
}

// Minus returns the difference of two amounts.
func (r Resources) Minus(o Resources) Resources {
	return Resources{r.VCPUs - o.VCPUs, r.MemoryMiB - o.MemoryMiB, r.DiskGiB - o.DiskGiB}
}

// Request is what an instance needs of its host.
type Request struct {
	Resources
	Zone      string // availability zone; "": any
	Host      string // a host's id or name: no other will do; "": any
	Except    string // the id of a host that won't do: the one that an instance leaves; "": none
	ProjectID string
}

// Host is a machine that runs instances.
type Host struct {
	ID   string // never changes, whatever the machine is called
	Name string // for people; unique
	Zone string // availability zone

	Total Resources

	Disabled bool   // gets nothing new
	Reason   string // why it is disabled
}

// Beat is a host's sign of life.
type Beat struct {
	HostID string
	At     time.Time // by the host's clock
	Run    string    // the life of the host's agent that it comes from: an id made when that began

	Every time.Duration `json:",omitempty"` // when the next one may be expected; 0: not said
}

// Hosts holds the hosts of the cloud, Beats when they were last heard of.
var (
	Hosts = state.NewTable("host", func(h Host) string { return h.ID },
		state.Index("zone", func(h Host) []string { return []string{h.Zone} }),
		state.Index("lot", Host.lots),
		state.Unique("name", func(h Host) []string { return []string{h.Name} }))
	Beats = state.NewTable("beat", func(b Beat) string { return b.HostID })
)

// Schema returns what a store needs for the scheduler.
func Schema() []state.Schema { return []state.Schema{Hosts, Beats} }

// DownAfter is how long after its last sign of life a host counts as down, unless it gives one so seldom that six of them would
// take longer: then it is the time of six.
const DownAfter = 60 * time.Second

// MaxHeartbeat is the longest time between two signs of life that a host may choose.
const MaxHeartbeat = 10 * time.Minute

func downAfter(every time.Duration) time.Duration { return max(DownAfter, 6*every) }
