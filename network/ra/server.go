package ra

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Config is what a [Server] is made of.
type Config struct {
	// NetNS is the path of the network namespace that the bridges are in; "": the one that the process started in.
	NetNS string

	// Interval is how often what nobody asked for is sent, at least; 0: 200 s.
	Interval time.Duration

	Logger *slog.Logger // nil: silent
}

const maxInterval = 10 * time.Minute

// Server is a [network.Server]. Its methods are safe for concurrent use.
type Server struct {
	cfg Config

	mu      sync.Mutex
	bridges map[string]network.Bridge // those with a prefix
	running bool

	changed chan struct{} // bridges came, went or became others
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Interval != 0 && (cfg.Interval < 4*time.Second || cfg.Interval > maxInterval) {
		return nil, fmt.Errorf("ra: Config.Interval is %v, must be between 4 s and %v: %w", cfg.Interval, maxInterval, errdefs.ErrInvalidArgument)
	}
	if cfg.Interval == 0 {
		cfg.Interval = 200 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, bridges: map[string]network.Bridge{}, changed: make(chan struct{}, 1)}, nil
}

func check(b network.Bridge) error {
	switch {
	case b.Name == "":
		return fmt.Errorf("ra: a bridge's Name is empty: %w", errdefs.ErrInvalidArgument)
	case b.Prefix6.IsValid() && (b.Prefix6.Bits() != 64 || !b.Prefix6.Addr().Is6()):
		return fmt.Errorf("ra: Prefix6 of bridge %q is %v, must be an IPv6 /64: %w", b.Name, b.Prefix6, errdefs.ErrInvalidArgument)
	}
	return nil
}

func served(b network.Bridge) bool { return b.Prefix6.IsValid() && !b.NoServer }

// Apply replaces the bridges that the server advertises on with those of d that have a prefix. A bridge without a name, and a
// prefix that is no IPv6 /64, is InvalidArgument, and nothing was changed.
func (s *Server) Apply(ctx context.Context, d network.Desired) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	all := map[string]network.Bridge{}
	for _, b := range d.Clone().Bridges {
		if err := check(b); err != nil {
			return err
		}
		if served(b) {
			all[b.Name] = b
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bridges = all
	signal(s.changed) // also if nothing changed: a bridge may be another of the same name
	return nil
}

// Plug adds the bridge, or replaces what is said on it.
func (s *Server) Plug(ctx context.Context, b network.Bridge, t network.Tap) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(b); err != nil {
		return err
	}
	if t.Bridge != b.Name {
		return fmt.Errorf("ra: tap %q is on bridge %q, not on %q: %w", t.Name, t.Bridge, b.Name, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if served(b) {
		s.bridges[b.Name] = network.Desired{Bridges: []network.Bridge{b}}.Clone().Bridges[0]
	} else {
		delete(s.bridges, b.Name)
	}
	signal(s.changed)
	return nil
}

// Unplug does nothing: what is advertised is the bridge's, and one that goes leaves with the next Apply.
func (s *Server) Unplug(ctx context.Context, _ string) error { return ctx.Err() }

// same tells whether two bridges are told the same.
func same(a, b network.Bridge) bool {
	return a.Prefix6 == b.Prefix6 && a.Gateway6 == b.Gateway6 && a.MTU == b.MTU && a.Domain == b.Domain && slices.Equal(a.DNS, b.DNS) && a.Name == b.Name
}

// signal rings a bell that somebody who is busy will hear later.
func signal(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}
