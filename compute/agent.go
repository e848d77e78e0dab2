package compute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// Ports is what the agent needs of the network on its node: [network.Agent].
type Ports interface {
	// Plug makes the port's tap and returns its name; Unplug removes it. Both are idempotent.
	Plug(ctx context.Context, portID string) (tap string, err error)
	Unplug(ctx context.Context, portID string) error
}

// AgentConfig is what an [Agent] is made of.
type AgentConfig struct {
	Store      *state.Store       // required
	Bus        queue.Bus          // required
	Host       scheduler.Host     // required: ID and Name; a zero Total is asked of the hypervisor
	Hypervisor Hypervisor         // required
	Network    Ports              // required
	Disks      Disks              // required
	Addresses  *network.Addresses // required
	Connector  Connector          // how volumes reach machines; nil: [QEMUInitiator]

	DiskGiB   int           // what instances may take of the host's disk; 0: no limit to speak of (1 PiB)
	StopGrace time.Duration // how long a guest may take to power off, at most 5 min; 0: 60 s
	// DetachGrace is how long a guest may take to let go of a volume, before it is asked anew; 0: 30 s.
	DetachGrace time.Duration
	Heartbeat   time.Duration // how often the host gives a sign of life, at most [scheduler.MaxHeartbeat]; 0: 10 s
	Sync        time.Duration // how often power states are compared though the hypervisor told of no change; 0: 60 s
	Sweep       time.Duration // how often [Sweeper.Sweep] is called, if the Disks have it; 0: 1 h
	Tick        time.Duration // how often the agent looks for work though nobody rang; 0: 5 s
	Parallel    int           // operations at once; 0: 32

	Hooks  operation.Hooks
	Logger *slog.Logger // nil: silent
}

// never is longer than any agent lives.
const never = time.Duration(1<<63 - 1)

// maxStopGrace leaves an operation that stops a guest time enough to take its power away.
const maxStopGrace = actionDeadline / 2

// Agent does on one host what the records say: it does the operations of the instances there, keeps their power states
// true, and answers for their consoles.
//
// Of one host, at most one agent runs at a time, in any process. A new one asks on the bus whether there is another, and
// does not begin if that answers; if nothing answers, it takes the host over at once, and a predecessor that lives after
// all, but could not be asked, ends with its next sign of life. A host is its ID, not its name: an agent that comes with another name renames the host, and one that comes with
// another ID is another host, which finds its predecessor's domains to be orphans (see [Agent.Orphans]).
type Agent struct {
	cfg     AgentConfig
	runner  *operation.Runner
	orphans orphans
}

// Topic returns the topic that a host's agent serves.
func Topic(hostID string) string { return "compute." + hostID }

// whoTopic is where a host's agent answers that it is there.
func whoTopic(hostID string) string { return Topic(hostID) + ".who" }

func ownerOf(hostID string) string { return "host/" + hostID }

type (
	// doorbell says that there is work on record, as of a revision that the agent may not have seen yet.
	doorbell       struct{ Revision state.Revision }
	consoleRequest struct {
		InstanceID string
		Max        int
	}
	consoleAnswer struct{ Output []byte }
)

// NewAgent checks the configuration. It starts nothing.
func NewAgent(cfg AgentConfig) (*Agent, error) {
	missing := ""
	switch {
	case cfg.Store == nil:
		missing = "Store"
	case cfg.Bus == nil:
		missing = "Bus"
	case cfg.Host.ID == "":
		missing = "Host.ID"
	case cfg.Host.Name == "":
		missing = "Host.Name"
	case cfg.Hypervisor == nil:
		missing = "Hypervisor"
	case cfg.Network == nil:
		missing = "Network"
	case cfg.Disks == nil:
		missing = "Disks"
	case cfg.Addresses == nil:
		missing = "Addresses"
	}
	if missing != "" {
		return nil, fmt.Errorf("compute: AgentConfig.%s is required: %w", missing, errdefs.ErrInvalidArgument)
	}
	if err := queue.CheckTopic(Topic(cfg.Host.ID)); err != nil {
		return nil, fmt.Errorf("compute: AgentConfig.Host.ID %.64q must have letters, digits, - and _ only: %w", cfg.Host.ID, err)
	}
	if cfg.DiskGiB < 0 {
		return nil, fmt.Errorf("compute: AgentConfig.DiskGiB is %d, must be at least 0: %w", cfg.DiskGiB, errdefs.ErrInvalidArgument)
	}
	if cfg.DiskGiB == 0 {
		cfg.DiskGiB = 1 << 20
	}
	for _, d := range []struct {
		name       string
		value      *time.Duration
		most, zero time.Duration
	}{
		{"StopGrace", &cfg.StopGrace, maxStopGrace, time.Minute},
		{"DetachGrace", &cfg.DetachGrace, actionDeadline, detachGrace},
		{"Heartbeat", &cfg.Heartbeat, scheduler.MaxHeartbeat, 10 * time.Second},
		{"Sync", &cfg.Sync, never, time.Minute},
		{"Sweep", &cfg.Sweep, never, time.Hour},
		{"Tick", &cfg.Tick, never, 5 * time.Second},
	} {
		if *d.value < 0 || *d.value > d.most {
			return nil, fmt.Errorf("compute: AgentConfig.%s is %v, must be 0 to %v: %w", d.name, *d.value, d.most, errdefs.ErrInvalidArgument)
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("host", cfg.Host.Name)
	if cfg.Connector == nil {
		cfg.Connector = QEMUInitiator{}
	}
	a := &Agent{cfg: cfg}
	var err error
	a.runner, err = operation.NewRunner(operation.Config{
		Store: cfg.Store, Owner: ownerOf(cfg.Host.ID), Exclusive: true, Tick: cfg.Tick, Parallel: cfg.Parallel, Hooks: cfg.Hooks, Logger: cfg.Logger,
		Kinds: []operation.Definition{a.launch(), a.terminate(), a.start(), a.stop(), a.reboot(), a.attach(), a.detach(), a.grow(), a.addIP(), a.removeIP(), a.setLimits(),
			a.migrate(), a.prepare(), a.arrive(), a.clear()},
	})
	return a, err
}

// Run registers the host and does its work until ctx ends; then it returns nil when everything it started has ended.
// Guests go on running: the next agent adopts them. It ends earlier, with an error, if it can't begin, which is AlreadyExists
// where the host's agent runs in another process; and with Aborted if another agent has taken the host over. For a
// hypervisor that can't be reached it waits; without the bus it works, only slower.
func (a *Agent) Run(ctx context.Context) error {
	run := uuid.NewString()
	if err := scheduler.Alone(ctx, a.cfg.Bus, whoTopic(a.cfg.Host.ID), a.cfg.Host.ID); err != nil {
		return ignoreEnd(ctx, fmt.Errorf("compute: %w", err))
	}
	life := ctx
	ctx, cancel := context.WithCancelCause(life)
	defer cancel(nil)
	stop, err := a.serve(ctx, a.cfg.Bus.Serve)
	switch {
	case err == nil:
		defer stop()
	case errors.Is(err, queue.ErrClosed) || !errdefs.IsUnavailable(err):
		return err
	}
	if err := a.register(ctx, run); err != nil {
		return ignoreEnd(life, err)
	}
	var parts sync.WaitGroup
	if errdefs.IsUnavailable(err) { // the work goes on without the bus: the records say what it is
		parts.Go(func() {
			soon := func(topic string, h queue.Handler) (func(), error) {
				return queue.ServeSoon(ctx, a.cfg.Bus, topic, h, a.cfg.Logger)
			}
			stop, err := a.serve(ctx, soon)
			if err != nil {
				cancel(err)
				return
			}
			<-ctx.Done()
			stop()
		})
	}
	parts.Go(func() {
		a.every(ctx, a.cfg.Heartbeat, "heartbeat", func(ctx context.Context) error {
			err := a.beat(ctx, run)
			if errdefs.IsAborted(err) {
				cancel(err)
			}
			return err
		})
	})
	parts.Go(func() { a.watchPower(ctx) })
	parts.Go(func() { a.watchMigrations(ctx) })
	if s, ok := a.cfg.Disks.(Sweeper); ok {
		parts.Go(func() { a.every(ctx, a.cfg.Sweep, "sweep", s.Sweep) })
	}
	err = a.runner.Run(ctx)
	if life.Err() == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	parts.Wait()
	return err
}

// ignoreEnd returns err unless ctx has ended, which is why there is an error then.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// every calls do at each tick until ctx ends.
func (a *Agent) every(ctx context.Context, tick time.Duration, what string, do func(context.Context) error) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := do(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("compute: "+what+" failed", "error", err)
		}
	}
}

// bellPatience is how long the record may take that a doorbell tells of; whatever takes longer is found by the next tick.
const bellPatience = 5 * time.Second

// serve answers the doorbell and console requests until stop is called. The answers end with ctx.
func (a *Agent) serve(ctx context.Context, serve func(string, queue.Handler) (func(), error)) (stop func(), err error) {
	topic := Topic(a.cfg.Host.ID)
	who, err := serve(whoTopic(a.cfg.Host.ID), scheduler.Here(a.cfg.Host.Name))
	if err != nil {
		return nil, fmt.Errorf("compute: host %s: %w", a.cfg.Host.Name, err)
	}
	bell, err := serve(topic, queue.Handle(func(_ context.Context, bell doorbell) (struct{}, error) {
		soon, cancel := context.WithTimeout(ctx, bellPatience)
		defer cancel()
		_ = a.cfg.Store.Reached(soon, bell.Revision) // the message may have been faster than the record
		a.runner.Ring()
		return struct{}{}, nil
	}))
	if err != nil {
		who()
		return nil, fmt.Errorf("compute: host %s: %w", a.cfg.Host.Name, err)
	}
	console, err := serve(topic+".console", queue.Handle(func(call context.Context, req consoleRequest) (consoleAnswer, error) {
		call, cancel := context.WithCancel(call)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		out, err := a.cfg.Hypervisor.Console(call, req.InstanceID, min(req.Max, maxConsole))
		return consoleAnswer{out}, err
	}))
	if err != nil {
		who()
		bell()
		return nil, fmt.Errorf("compute: host %s: %w", a.cfg.Host.Name, err)
	}
	return func() {
		who()
		bell()
		console()
	}, nil
}

// instance returns an instance's record as it is now.
func (a *Agent) instance(id string) (i Instance, err error) {
	err = a.cfg.Store.View(func(v *state.View) error { i, err = Instances.Get(v, id); return err })
	return i, err
}
