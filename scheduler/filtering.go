package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Config is what the scheduler of [New] is made of.
type Config struct {
	// Used tells what the instances on a host take, read through r. Required; compute.HostUse is what a cloud uses.
	Used func(r state.Reader, hostID string) Resources

	Filters  []Filter  // nil: DefaultFilters(Ratios{})
	Weighers []Weigher // nil: DefaultWeighers()

	// Sample is how many hosts, picked at random, are looked at first; only if none of them will do are all looked at.
	// Clouds with no more than four times as many hosts look at all of them always. 0: 16.
	Sample int
}

// Filtering is the reference scheduler: it filters, then weighs.
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
	placed := make([]string, 0, n)
	given := map[string]Resources{} // by this call
	for len(placed) < n {
		id, ok := f.best(f.sample(tx, given), req, nil)
		if !ok {
			refusal := &Unplaced{Wanted: n, Placed: len(placed), Failed: map[string]int{}}
			if id, ok = f.best(f.all(tx, given), req, refusal); !ok {
				return nil, refusal
			}
		}
		// What makes the choice right is read once more, guarded.
		if _, err := Hosts.Get(tx, id); err != nil {
			return nil, err
		}
		f.cfg.Used(tx, id)
		given[id] = given[id].Plus(req.Resources)
		placed = append(placed, id)
	}
	return placed, nil
}

// sample returns some hosts at random: ids are random, so those that follow a random id are.
func (f *Filtering) sample(tx *state.Tx, given map[string]Resources) []Candidate {
	r := tx.Unguarded()
	found := f.gather(r, Hosts.From(r, uuid.NewString()), f.cfg.Sample, given)
	if len(found) < f.cfg.Sample {
		found = f.gather(r, Hosts.All(r), 4*f.cfg.Sample, given)
	}
	return found
}

func (f *Filtering) all(tx *state.Tx, given map[string]Resources) []Candidate {
	r := tx.Unguarded()
	return f.gather(r, Hosts.All(r), -1, given)
}

func (f *Filtering) gather(r state.Reader, hosts func(func(Host) bool), most int, given map[string]Resources) []Candidate {
	var found []Candidate
	now := time.Now()
	for h := range hosts {
		if len(found) == most {
			break
		}
		c := Candidate{Host: h, Used: f.cfg.Used(r, h.ID).Plus(given[h.ID]), Silent: DownAfter}
		if beat, err := Beats.Get(r, h.ID); err == nil {
			c.Silent = max(0, now.Sub(beat.At))
		}
		found = append(found, c)
	}
	return found
}

// best returns the candidate that passes all filters and weighs most; of equals, any. It counts refusals if asked.
func (f *Filtering) best(candidates []Candidate, req Request, refusal *Unplaced) (id string, ok bool) {
	top := 0.0
	ties := 0
candidates:
	for _, c := range candidates {
		for _, filter := range f.cfg.Filters {
			if !filter.Pass(req, c) {
				if refusal != nil {
					refusal.Failed[filter.Name]++
				}
				continue candidates
			}
		}
		score := 0.0
		for _, w := range f.cfg.Weighers {
			score += w.Weight * w.Score(req, c)
		}
		switch {
		case !ok || score > top:
			id, top, ok, ties = c.ID, score, true, 1
		case score == top:
			if ties++; rand.IntN(ties) == 0 {
				id = c.ID
			}
		}
	}
	if refusal != nil {
		refusal.Hosts = len(candidates)
	}
	return id, ok
}

// Unplaced is a refusal that explains itself. It is under [ErrNoValidHost].
type Unplaced struct {
	Wanted int            // instances asked for
	Placed int            // how many of them would have had a place
	Hosts  int            // hosts looked at for the next one
	Failed map[string]int // how many hosts failed which filter; a host fails the first one that it does not pass
}

// Error says how many hosts failed which filter, most first.
func (u *Unplaced) Error() string {
	var b strings.Builder
	b.WriteString(ErrNoValidHost.Error())
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
