package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// AgentConfig is what an [Agent] is made of.
type AgentConfig struct {
	Store   *state.Store  // required
	HostID  string        // required: the node's id
	Manager Manager       // required: the node's data path
	DHCP    DHCPServer    // nil: this node answers no DHCP
	Servers []Server      // what else serves this node's guests
	Repair  time.Duration // how often to look for drift; 0: 4 s, so that it is repaired within 5
	Logger  *slog.Logger  // nil: silent
}

// Agent keeps the data path of one node as the records say. Its methods are safe for concurrent use.
type Agent struct {
	cfg     AgentConfig
	servers servers // all of them

	// turn makes one of "look at the records, then change the node", so that a stale plan can't bring back a tap
	// that is gone. Whoever waits for it can give up.
	turn chan struct{}

	looks, failures, drifts, repairs atomic.Uint64

	// groups is what the data path has of security groups, and local those that taps of the node are in. They save looking at the node,
	// and belong to who has the turn.
	groups   map[string]Group
	local    map[string]bool
	floating []Floating
	taps     map[string][]string // the groups that each port's tap is in

	// strays are the ports that the node had taps of when the agent first looked, and that were another node's. nil: it has not looked.
	strays map[string]bool

	changed chan struct{} // closed, and another one, when taps come or go; of who has the turn
}

// NewAgent checks the configuration. It starts nothing.
func NewAgent(cfg AgentConfig) (*Agent, error) {
	switch {
	case cfg.Store == nil:
		return nil, fmt.Errorf("network: AgentConfig.Store is required: %w", errdefs.ErrInvalidArgument)
	case cfg.HostID == "":
		return nil, fmt.Errorf("network: AgentConfig.HostID is required: %w", errdefs.ErrInvalidArgument)
	case cfg.Manager == nil:
		return nil, fmt.Errorf("network: AgentConfig.Manager is required: %w", errdefs.ErrInvalidArgument)
	case cfg.Repair < 0:
		return nil, fmt.Errorf("network: AgentConfig.Repair is %v, must be at least 0: %w", cfg.Repair, errdefs.ErrInvalidArgument)
	}
	if cfg.Repair == 0 {
		cfg.Repair = 4 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, turn: make(chan struct{}, 1), groups: map[string]Group{}, local: map[string]bool{}, taps: map[string][]string{}, changed: make(chan struct{})}
	if cfg.DHCP != nil {
		a.servers = append(a.servers, cfg.DHCP)
	}
	a.servers = append(a.servers, cfg.Servers...)
	return a, nil
}

// begin waits for the turn, and returns what ends it.
func (a *Agent) begin(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case a.turn <- struct{}{}:
		return func() { <-a.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Run makes the node as the records say, then serves its guests, has changed security groups in force, and repairs what drifts until ctx
// ends: it looks at the node every AgentConfig.Repair, logs what it had to change, and counts it ([Agent.Stats]).
func (a *Agent) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	a.run(ctx, &running)
	running.Go(func() { a.followGroups(ctx) })
	ticker := time.NewTicker(a.cfg.Repair)
	defer ticker.Stop()
	for start := true; ; start = false {
		changes, err := a.Sync(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			a.failures.Add(1)
			a.cfg.Logger.Error("network: the data path can't be made as it should be", "error", err)
		}
		a.looks.Add(1)
		if !start && len(changes) > 0 {
			a.drifts.Add(1)
		}
		for _, change := range changes {
			if start {
				a.cfg.Logger.Info("network: at start", "change", change)
			} else {
				a.cfg.Logger.Warn("network: drift repaired", "change", change, "repairs", a.repairs.Add(1))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Sync makes the whole node as the records say, and returns what it had to change. What can't be made keeps nothing else from
// being made, as far as the Manager can tell them apart.
func (a *Agent) Sync(ctx context.Context) ([]string, error) {
	end, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	return a.sync(ctx)
}

// sync is Sync with mu held.
func (a *Agent) sync(ctx context.Context) ([]string, error) {
	var d, clients Desired
	unknown := a.findStrays(ctx) // if so, nothing is removed
	if err := a.cfg.Store.View(func(v *state.View) error {
		d = a.plan(v)
		clients = answered(v, a.cfg.HostID, d)
		return nil
	}); err != nil {
		return nil, err
	}
	report, err := Report{}, unknown
	if err == nil {
		report, err = a.cfg.Manager.Apply(ctx, d)
	}
	a.local, a.groups, a.floating, a.taps = groupsOf(d.Taps), map[string]Group{}, nil, map[string][]string{}
	for _, t := range d.Taps {
		a.taps[t.Port] = t.Groups
	}
	a.tapsChanged()
	if err == nil {
		a.floating = d.Floating
		for _, g := range d.Groups {
			a.groups[g.ID] = g
		}
	}
	if ctx.Err() == nil { // also when an uplink is missing: the other networks go on
		err = errors.Join(err, a.servers.each(func(s Server) error { return s.Apply(ctx, clients) }))
	}
	return report.Changes, err
}

// Plug makes the port's tap, with its filter and its DHCP answer in force, and returns the tap's name. A port whose
// record is not plugged to this node is FailedPrecondition. Repeating it does no harm.
func (a *Agent) Plug(ctx context.Context, portID string) (tap string, err error) {
	end, err := a.begin(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	var b Bridge
	var t Tap
	err = a.cfg.Store.View(func(v *state.View) error {
		p, err := Ports.Get(v, portID)
		if err != nil {
			return err
		}
		if !p.Plugged || !p.On(a.cfg.HostID) {
			return fmt.Errorf("port %q is not plugged to node %s: %w", portID, a.cfg.HostID, errdefs.ErrFailedPrecondition)
		}
		n, err := Networks.Get(v, p.NetworkID)
		b, t = n.bridge(v, a.cfg.HostID), p.tap(n)
		return err
	})
	if err != nil {
		return "", err
	}
	a.taps[portID] = t.Groups
	a.tapsChanged()
	if err := a.tellGroups(ctx, t); err != nil {
		return "", fmt.Errorf("port %s: %w", portID, err)
	}
	if err := a.cfg.Manager.Plug(ctx, b, t); err != nil {
		return "", fmt.Errorf("port %s: %w", portID, err)
	}
	if err := a.servers.each(func(s Server) error { return s.Plug(ctx, b, t) }); err != nil {
		return "", fmt.Errorf("port %s: %w", portID, err)
	}
	return t.Name, nil
}

// Unplug removes the tap of a port whose record is no longer plugged, or is another node's, and the bridge with the network's last one on this
// node; a port that is plugged to this node is FailedPrecondition. A tap that does not exist is success.
func (a *Agent) Unplug(ctx context.Context, portID string) error {
	end, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	var tap string
	last := true
	err = a.cfg.Store.View(func(v *state.View) error {
		p, err := Ports.Get(v, portID)
		if err != nil {
			return err
		}
		if p.Plugged && p.On(a.cfg.HostID) {
			return fmt.Errorf("port %q is plugged to this node: %w", portID, errdefs.ErrFailedPrecondition)
		}
		tap = p.TapName()
		for other := range Ports.By(v, "host", a.cfg.HostID) {
			if other.Plugged && other.NetworkID == p.NetworkID {
				last = false
				break
			}
		}
		return nil
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := a.servers.each(func(s Server) error { return s.Unplug(ctx, tap) }); err != nil {
		return fmt.Errorf("port %s: %w", portID, err)
	}
	delete(a.taps, portID)
	delete(a.strays, portID)
	a.tapsChanged()
	if err := a.cfg.Manager.Unplug(ctx, tap); err != nil {
		return fmt.Errorf("port %s: %w", portID, err)
	}
	if last { // its bridge goes with it
		if _, err := a.sync(ctx); err != nil { // perhaps for another network's sake; the tap is gone, and Run tries again
			a.cfg.Logger.Warn("network: the bridge of a tap that went stays for now", "port", portID, "error", err)
		}
	}
	return nil
}
