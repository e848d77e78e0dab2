package linklocal

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Config is what a [Server] is made of.
type Config struct {
	// Serve answers the connections of a listener, all of one bridge, until ctx ends or the listener fails; required. Each is a
	// [network.PeerConn], and has a method SetHopLimit(int) error. It is called for each bridge, at the same time.
	Serve func(ctx context.Context, l net.Listener) error

	// NetNS is the path of the network namespace that the bridges are in; "": the one that the process started in.
	NetNS string

	Logger *slog.Logger // nil: silent
}

// Server is a [network.Server]. Its methods are safe for concurrent use.
type Server struct {
	cfg Config

	mu      sync.Mutex
	bridges map[string]bool // those to listen on
	running bool

	changed chan struct{} // bridges came or went, perhaps
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Serve == nil {
		return nil, fmt.Errorf("linklocal: Config.Serve is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, bridges: map[string]bool{}, changed: make(chan struct{}, 1)}, nil
}

// serves tells whether the node answers on a bridge: where it has no address, guests reach another.
func serves(b network.Bridge) bool { return b.Gateway.IsValid() && b.Gateway.Addr().Is4() }

// Apply replaces the bridges that the server listens on with those of d on which the node has an address, and makes the kernel's
// rules so. Connections on a bridge that stays go on.
func (s *Server) Apply(ctx context.Context, d network.Desired) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[string]bool{}
	for _, b := range d.Bridges {
		if b.Name == "" {
			return fmt.Errorf("linklocal: a bridge's Name is empty: %w", errdefs.ErrInvalidArgument)
		}
		if serves(b) {
			wanted[b.Name] = true
		}
	}
	return s.set(wanted)
}

// Plug adds the bridge, if it is new. When it returns, nothing that a guest on it sends to the address leaves the node.
func (s *Server) Plug(ctx context.Context, b network.Bridge, t network.Tap) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.Name == "" || t.Bridge != b.Name {
		return fmt.Errorf("linklocal: tap %q is on bridge %q, not on %q: %w", t.Name, t.Bridge, b.Name, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bridges[b.Name] == serves(b) {
		signal(s.changed) // it may be another of the same name
		return nil
	}
	wanted := map[string]bool{}
	for name := range s.bridges {
		wanted[name] = name != b.Name
	}
	wanted[b.Name] = serves(b)
	return s.set(wanted)
}

// Unplug does nothing: whose an address is no more, the records say, and a bridge that goes leaves with the next Apply.
func (s *Server) Unplug(ctx context.Context, _ string) error { return ctx.Err() }

// set needs mu.
func (s *Server) set(wanted map[string]bool) error {
	for name, want := range wanted {
		if !want {
			delete(wanted, name)
		}
	}
	if err := s.setRules(wanted); err != nil {
		return fmt.Errorf("linklocal: %w", err)
	}
	s.bridges = wanted
	signal(s.changed)
	return nil
}

// signal rings a bell that somebody who is busy will hear later.
func signal(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}
