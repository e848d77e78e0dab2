package operation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Config is what a [Runner] is made of.
type Config struct {
	Store *state.Store // required
	Owner string       // required: the runner does the operations of this owner
	Kinds []Definition // required: those that it may meet

	// Exclusive says that no two runners of this owner live at once (a host's agent holds a lock), so that a new one
	// need not wait for its predecessor's leases to run out.
	Exclusive bool

	Lease    time.Duration // how long a worker that says nothing is believed alive; 0: 15 s
	Tick     time.Duration // how often to look at the store though no one rang; 0: 5 s
	Parallel int           // operations done at once; 0: 32

	Hooks  Hooks
	Logger *slog.Logger // nil: silent
}

// Hooks watch a runner, for tests and traces.
type Hooks struct {
	// Point is called before and after every step's Do and Undo and every transaction, with words for where it is. If it
	// returns an error, the worker drops the operation there and then, and records nothing: as if it had been killed.
	Point func(r Record, where string) error
}

// Runner does the operations of one owner.
type Runner struct {
	cfg    Config
	kinds  map[string]Definition
	holder string
	bell   chan struct{}

	mu      sync.Mutex
	running map[string]*drive // by object
	held    map[string]uint64 // epoch under which this runner took an operation
}

// drive is one operation being done.
type drive struct {
	id     string
	cancel context.CancelCauseFunc
	// asked is closed to have the drive look at its record again: it was cancelled.
	asked context.CancelCauseFunc
}

// NewRunner checks the configuration. It starts nothing.
func NewRunner(cfg Config) (*Runner, error) {
	switch {
	case cfg.Store == nil:
		return nil, fmt.Errorf("operation: Config.Store is required: %w", errdefs.ErrInvalidArgument)
	case cfg.Owner == "":
		return nil, fmt.Errorf("operation: Config.Owner is required: %w", errdefs.ErrInvalidArgument)
	case cfg.Lease < 0 || cfg.Tick < 0 || cfg.Parallel < 0:
		return nil, fmt.Errorf("operation: Config.Lease, Tick and Parallel must be at least 0: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Lease == 0 {
		cfg.Lease = 15 * time.Second
	}
	if cfg.Tick == 0 {
		cfg.Tick = 5 * time.Second
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 32
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Runner{cfg: cfg, kinds: map[string]Definition{}, holder: uuid.NewString(), bell: make(chan struct{}, 1),
		running: map[string]*drive{}, held: map[string]uint64{}}
	for _, d := range cfg.Kinds {
		if _, twice := r.kinds[d.name]; twice {
			return nil, fmt.Errorf("operation: kind %q is given twice: %w", d.name, errdefs.ErrInvalidArgument)
		}
		r.kinds[d.name] = d
	}
	return r, nil
}

// Ring has the runner look for open operations now. It never blocks.
func (r *Runner) Ring() {
	select {
	case r.bell <- struct{}{}:
	default:
	}
}

// Run does operations until ctx ends, then returns nil when every one it was at has been dropped. What was dropped is
// taken up where it was by the next runner.
func (r *Runner) Run(ctx context.Context) error {
	var drives sync.WaitGroup
	defer drives.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	drives.Go(func() { r.renew(ctx) })
	for {
		next := r.scan(ctx, &drives)
		timer := time.NewTimer(min(next, r.cfg.Tick))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-r.bell:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// scan starts what can be started and returns how long until something else may be.
func (r *Runner) scan(ctx context.Context, drives *sync.WaitGroup) time.Duration {
	heads := map[string]Record{} // the first operation of each object
	_ = r.cfg.Store.View(func(v *state.View) error {
		for rec := range Table.By(v, "owner", r.cfg.Owner) {
			first := rec
			for other := range Table.By(v, "object", rec.Object) {
				if other.Seq < first.Seq {
					first = other
				}
			}
			if first.Owner == r.cfg.Owner {
				heads[rec.Object] = first
			}
		}
		return nil
	})
	next := r.cfg.Tick
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for object, rec := range heads {
		if d := r.running[object]; d != nil {
			if rec.Cancel && d.id == rec.ID && d.asked != nil {
				d.asked(errCancelled)
			}
			continue
		}
		if len(r.running) >= r.cfg.Parallel {
			break // whoever ends rings
		}
		if wait := r.wait(rec, now); wait > 0 {
			next = min(next, wait)
			continue
		}
		dctx, cancel := context.WithCancelCause(ctx)
		d := &drive{id: rec.ID, cancel: cancel}
		r.running[object] = d
		drives.Go(func() {
			defer cancel(nil)
			r.drive(dctx, d, rec)
			r.mu.Lock()
			delete(r.running, object)
			delete(r.held, rec.ID)
			r.mu.Unlock()
			if ctx.Err() == nil {
				r.Ring()
			}
		})
	}
	return next
}

// wait returns how long an operation can't be taken yet.
func (r *Runner) wait(rec Record, now time.Time) time.Duration {
	wait := time.Duration(0)
	if rec.Holder != "" && rec.Holder != r.holder && !r.cfg.Exclusive {
		wait = rec.Lease.Sub(now)
	}
	if !rec.Cancel || rec.Undoing {
		wait = max(wait, rec.Retry.Sub(now))
	}
	return wait
}

// renew keeps the leases of what is being done, and ends what another worker has taken.
func (r *Runner) renew(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.Lease / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		r.mu.Lock()
		held := make(map[string]uint64, len(r.held))
		for id, epoch := range r.held {
			held[id] = epoch
		}
		r.mu.Unlock()
		if len(held) == 0 {
			continue
		}
		var lost []string
		err := r.cfg.Store.Update(ctx, func(tx *state.Tx) error {
			lost = lost[:0]
			for id, epoch := range held {
				rec, err := Table.Get(tx, id)
				if err != nil {
					continue // ended meanwhile
				}
				if rec.Epoch != epoch {
					lost = append(lost, id)
					continue
				}
				rec.Lease = time.Now().Add(r.cfg.Lease).UTC()
				if err := Table.Put(tx, rec); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("operation: leases could not be renewed", "owner", r.cfg.Owner, "error", err)
		}
		r.mu.Lock()
		for _, d := range r.running {
			for _, id := range lost {
				if d.id == id {
					d.cancel(errLost)
				}
			}
		}
		r.mu.Unlock()
	}
}

// take makes the operation this worker's, under a new epoch.
func (r *Runner) take(ctx context.Context, id string) (rec Record, err error) {
	err = r.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if rec, err = Table.Get(tx, id); err != nil {
			return err
		}
		if wait := r.wait(rec, time.Now()); wait > 0 {
			return errLost
		}
		rec.Epoch++
		rec.Holder = r.holder
		rec.Lease = time.Now().Add(r.cfg.Lease).UTC()
		return Table.Put(tx, rec)
	})
	if err == nil {
		r.mu.Lock()
		r.held[id] = rec.Epoch
		r.mu.Unlock()
	}
	return rec, err
}

// backoff is how long to wait after the n-th failure.
func backoff(n int) time.Duration {
	return min(250*time.Millisecond<<min(n, 10), 30*time.Second)
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
