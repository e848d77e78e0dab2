package operation

import (
	"context"
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
	resting map[string]rest   // by operation
	strange map[string]bool   // kinds that were met and are not known
}

// drive is one operation being done. Its fields but the first two belong to the runner's mutex.
type drive struct {
	id     string
	cancel context.CancelCauseFunc // drops the operation

	asked     context.CancelCauseFunc // ends the step that is being done; nil between steps
	cancelled bool                    // the store says that the operation was asked to stop

	epoch  uint64      // under which it was taken; 0 before
	expiry *time.Timer // drops it when its lease has run out; nil before, and for the only worker
}

// rest is a pause after an operation was dropped because the store did not take what was to be recorded. It is not in the
// record for the same reason.
type rest struct {
	drops int
	until time.Time
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
		running: map[string]*drive{}, resting: map[string]rest{}, strange: map[string]bool{}}
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
	if !r.cfg.Exclusive { // else there is nobody to keep leases from
		drives.Go(func() { r.renew(ctx) })
	}
	for {
		next := r.scan(ctx, &drives)
		timer := time.NewTimer(next)
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
