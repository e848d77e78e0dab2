package dhcp

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Config is what a [Server] is made of.
type Config struct {
	// Dir is the directory of the lease journal, which belongs to this server alone; required. It is made if it does not exist.
	Dir string

	// NetNS is the path of the network namespace that the bridges are in; "": the one that the process started in.
	NetNS string

	Logger *slog.Logger // nil: silent
}

// Server is a [network.DHCPServer]. Its methods are safe for concurrent use.
type Server struct {
	cfg Config
	log *limited // of what clients do
	own *limited // of what goes wrong with us, which clients must not be able to drown

	mu      sync.RWMutex
	bridges map[string]*bridge
	taps    map[string]*port
	applied bool             // the tables hold all there is, so a lease of no port is over
	leases  map[string]lease // by tap; kept by the journal's goroutine, and forgotten by whoever removes a tap
	ended   map[string]lease // forgotten, but not in the journal yet
	running bool

	changed chan struct{} // bridges came or went
	forgot  chan struct{} // ended is not empty
	queue   chan *answer  // answers that wait for the journal
	spare   chan *answer  // answers to be used again
	count   counters

	committed func() // for tests: called when leases are on disk, before anyone is told
}

// New checks the configuration and makes Config.Dir. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, fmt.Errorf("dhcp: Config.Dir is required: %w", errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("dhcp: Config.Dir: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, log: &limited{to: cfg.Logger}, own: &limited{to: cfg.Logger},
		bridges: map[string]*bridge{}, taps: map[string]*port{}, leases: map[string]lease{}, ended: map[string]lease{},
		changed: make(chan struct{}, 1), forgot: make(chan struct{}, 1),
		queue: make(chan *answer, queueLength), spare: make(chan *answer, queueLength),
	}, nil
}

// Apply replaces all that the server knows: it answers on d's bridges, to d's taps. Clients of a bridge or tap that stays
// notice nothing; a lease whose tap is not in d, or has another hardware address or fixed IP there, is forgotten. A tap on a
// bridge that is not in d, a tap's name that two have, and a hardware address or fixed IP that two taps of one bridge have are
// InvalidArgument, and nothing was changed. A tap without an IPv4 address in its bridge's subnet gets no answer.
func (s *Server) Apply(ctx context.Context, d network.Desired) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bridges := make(map[string]*bridge, len(d.Bridges))
	for _, def := range d.Bridges {
		if bridges[def.Name] != nil {
			return fmt.Errorf("dhcp: Bridges has %q twice: %w", def.Name, errdefs.ErrInvalidArgument)
		}
		b, err := newBridge(def)
		if err != nil {
			return err
		}
		bridges[def.Name] = b
	}
	taps := make(map[string]*port, len(d.Taps))
	for _, def := range d.Taps {
		if taps[def.Name] != nil {
			return fmt.Errorf("dhcp: Taps has %q twice: %w", def.Name, errdefs.ErrInvalidArgument)
		}
		b := bridges[def.Bridge]
		if b == nil {
			return fmt.Errorf("dhcp: tap %q is on bridge %q, which is not there: %w", def.Name, def.Bridge, errdefs.ErrInvalidArgument)
		}
		p, err := newPort(b, def)
		if err != nil {
			return err
		}
		if old := s.taps[def.Name]; old != nil && old.same(p) {
			p = old
		}
		if err := b.add(p); err != nil {
			return err
		}
		taps[def.Name] = p
	}
	s.bridges, s.taps, s.applied = bridges, taps, true
	s.forgetStrangers()
	signal(s.changed)
	return nil
}

// Plug adds or replaces one tap, and its bridge if it is new or differs. It refuses what Apply refuses.
func (s *Server) Plug(ctx context.Context, def network.Bridge, t network.Tap) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.Bridge != def.Name {
		return fmt.Errorf("dhcp: tap %q is on bridge %q, not on %q: %w", t.Name, t.Bridge, def.Name, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bridges[def.Name]
	if b == nil || !b.same(def) {
		fresh, err := newBridge(def)
		if err != nil {
			return err
		}
		if b != nil {
			if err := fresh.adopt(b, t.Name); err != nil {
				return err
			}
		}
		b = fresh
	}
	p, err := newPort(b, t)
	if err != nil {
		return err
	}
	if err := b.free(p); err != nil {
		return err
	}
	if old := s.taps[t.Name]; old != nil {
		if old.same(p) {
			p = old
		}
		s.bridges[old.tap.Bridge].remove(old)
		b.remove(old)
	}
	if b != s.bridges[def.Name] {
		for _, q := range b.clients {
			s.taps[q.tap.Name] = q
		}
		s.bridges[def.Name] = b
	}
	_ = b.add(p) // free, as was seen above
	s.taps[t.Name] = p
	if l, ok := s.leases[t.Name]; ok && !l.of(p) {
		s.forget(l)
	}
	signal(s.changed)
	return nil
}

// Unplug forgets the tap with this name and its lease: the client is not answered from now on, and the journal hears of it
// with the next group. An unknown tap is success.
func (s *Server) Unplug(ctx context.Context, tap string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.taps[tap]; p != nil {
		s.bridges[p.tap.Bridge].remove(p)
		delete(s.taps, tap)
	}
	if l, ok := s.leases[tap]; ok {
		s.forget(l)
	} else if !s.running {
		s.ended[tap] = lease{tap: tap} // what the journal has is read when Run begins
	}
	return nil
}

// forgetStrangers ends the leases of taps that are not there any more. It needs mu.
func (s *Server) forgetStrangers() {
	if !s.applied {
		return
	}
	for _, l := range s.leases {
		if p := s.taps[l.tap]; p == nil || !l.of(p) {
			s.forget(l)
		}
	}
}

// forget ends a lease here, and soon in the journal. It needs mu.
func (s *Server) forget(l lease) {
	delete(s.leases, l.tap)
	s.ended[l.tap] = l
	signal(s.forgot)
}

// Lease is what a client was told: that an address is its own until a time.
type Lease struct {
	Bridge, Tap, Port string // Bridge and Port are "" while the server has not been given the tap
	MAC               net.HardwareAddr
	Addr              netip.Addr
	Since             time.Time // when the client got the address; renewing it does not change this
	Expires           time.Time
}

// Leases returns the leases that have not run out, in the order of their taps' names. It knows those of earlier runs
// once Run has read the journal.
func (s *Server) Leases() []Lease {
	now := time.Now().UnixMilli()
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]Lease, 0, len(s.leases))
	for l := range maps.Values(s.leases) {
		if l.until <= now {
			continue
		}
		one := Lease{Tap: l.tap, MAC: slices.Clone(l.mac[:]), Addr: netip.AddrFrom4(l.addr),
			Since: time.UnixMilli(l.since).UTC(), Expires: time.UnixMilli(l.until).UTC()}
		if p := s.taps[l.tap]; p != nil {
			one.Bridge, one.Port = p.tap.Bridge, p.tap.Port
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Lease) int { return strings.Compare(a.Tap, b.Tap) })
	return all
}

// signal rings a bell that somebody who is busy will hear later.
func signal(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}
