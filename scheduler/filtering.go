package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Config is what the scheduler of [New] is made of.
type Config struct {
	// Used tells what the instances on a host take, read through r. Required; compute.Used is what a cloud uses.
	Used func(r state.Reader, hostID string) Resources

	// Members tells which hosts are alive. Nil: what hosts write about themselves is believed, so that a wrong clock makes a
	// host that lives look dead, or one that is dead alive.
	Members *Members

	Filters  []Filter  // nil: DefaultFilters(Ratios{})
	Weighers []Weigher // nil: DefaultWeighers()

	// Sample is how many hosts of the zone that is asked for, picked at random, are looked at first; only if none of them
	// will do are all looked at. Where there are no more than four times as many, all are looked at always. 0: 16.
	Sample int
}

// Filtering is the reference scheduler: it filters, then weighs. A request's Host, Zone and Except narrow the search before the
// filters are asked, whatever these are.
type Filtering struct{ cfg Config }

// New checks the configuration and returns a scheduler.
func New(cfg Config) (*Filtering, error) {
	if cfg.Used == nil {
		return nil, fmt.Errorf("scheduler: Config.Used is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Sample < 0 {
		return nil, fmt.Errorf("scheduler: Config.Sample is %d, must be at least 0: %w", cfg.Sample, errdefs.ErrInvalidArgument)
	}
	if cfg.Sample == 0 {
		cfg.Sample = 16
	}
	if cfg.Filters == nil {
		cfg.Filters = DefaultFilters(Ratios{})
	}
	if cfg.Weighers == nil {
		cfg.Weighers = DefaultWeighers()
	}
	return &Filtering{cfg}, nil
}

// Place implements [Scheduler].
func (f *Filtering) Place(tx *state.Tx, req Request, n int) ([]string, error) {
	if n < 1 {
		return nil, fmt.Errorf("scheduler: asked to place %d instances, must be at least 1: %w", n, errdefs.ErrInvalidArgument)
	}
	if req.VCPUs < 0 || req.MemoryMiB < 0 || req.DiskGiB < 0 {
		return nil, fmt.Errorf("scheduler: Request.Resources are %+v, none may be below 0: %w", req.Resources, errdefs.ErrInvalidArgument)
	}
	l := look{cfg: f.cfg, r: tx.Unguarded(), req: req, now: time.Now(), given: map[string]Resources{}}
	placed := make([]string, 0, n)
	for len(placed) < n {
		c := l.best()
		if c == nil {
			return nil, l.refusal(n, len(placed))
		}
		// What makes the choice right was read without a guard, from this transaction's own state. Reading it once more has
		// the log compare it with what other writers have made of it.
		if _, err := Hosts.Get(tx, c.ID); err != nil {
			return nil, err
		}
		f.cfg.Used(tx, c.ID)
		c.Used = c.Used.Plus(req.Resources)
		l.given[c.ID] = l.given[c.ID].Plus(req.Resources)
		placed = append(placed, c.ID)
	}
	return placed, nil
}

// Unplaced is a refusal that explains itself. It is under [ErrNoValidHost].
type Unplaced struct {
	Wanted int            // instances asked for
	Placed int            // how many of them would have had a place
	Hosts  int            // of the cloud
	Failed map[string]int // how many hosts failed which filter; a host fails the first one that it does not pass
}

// Error says how many hosts failed which filter, most first.
func (u *Unplaced) Error() string {
	var b strings.Builder
	b.WriteString(noValidHost)
	switch {
	case u.Hosts == 0:
		b.WriteString(": the cloud has no hosts")
	default:
		names := make([]string, 0, len(u.Failed))
		for name := range u.Failed {
			names = append(names, name)
		}
		slices.SortFunc(names, func(a, b string) int {
			if d := u.Failed[b] - u.Failed[a]; d != 0 {
				return d
			}
			return strings.Compare(a, b)
		})
		for i, name := range names {
			sep := ", "
			if i == 0 {
				sep = fmt.Sprintf(": of %d hosts, ", u.Hosts)
			}
			fmt.Fprintf(&b, "%s%d failed %s", sep, u.Failed[name], name)
		}
	}
	if u.Wanted > 1 {
		fmt.Fprintf(&b, " (room for %d of %d)", u.Placed, u.Wanted)
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrNoValidHost) true.
func (u *Unplaced) Unwrap() error { return ErrNoValidHost }
