package fakecompute

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// maxConsole is what the console of a domain keeps, in bytes.
const maxConsole = 64 << 10

// Host is a pretended machine with its domains. It lives as long as the test wants, whatever happens to its drivers. All
// methods are safe for concurrent use. What they direct takes effect at once.
type Host struct {
	mu      sync.Mutex
	domains map[string]*domain
	faults  []*Injected
	calls   map[Method]int
	streams map[*stream]struct{}
	lost    chan struct{} // closed when the connection is lost
	up      chan struct{} // closed when there is a connection

	lan      *lan                       // nil: it can't be reached by others
	address  string                     // on the lan
	expected map[string]compute.Machine // that are to come
}

type domain struct {
	id, name string
	ours     bool
	deaf     bool
	power    compute.PowerState
	left     bool // it is off because it has moved to another host
	machine  compute.Machine
	console  []byte
	sizes    map[string]int64 // of disks, by serial, that were told since it runs
}

// NewHost returns a host without domains.
func NewHost() *Host {
	up := make(chan struct{})
	close(up)
	return &Host{
		domains: map[string]*domain{}, calls: map[Method]int{}, streams: map[*stream]struct{}{},
		lost: make(chan struct{}), up: up, expected: map[string]compute.Machine{},
	}
}

// Domains returns what runs on the host, as List does, but is not subject to faults and lost connections.
func (h *Host) Domains() []compute.Domain {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list()
}

// Machine returns the machine that the domain of this id was made from.
func (h *Host) Machine(id string) (m compute.Machine, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[id]
	if d == nil || !d.ours {
		return m, false
	}
	return d.machine, true
}

// DiskSize returns the bytes that a domain was told last, since it runs, of the disk with a serial; 0: nothing.
func (h *Host) DiskSize(id, serial string) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[id]; d != nil {
		return d.sizes[serial]
	}
	return 0
}

// AddForeign adds a domain that the library did not make, or replaces it. Only ID, Name and Power count; a Power of
// [compute.PowerUnknown] is [compute.PowerRunning].
func (h *Host) AddForeign(d compute.Domain) {
	if d.Power == compute.PowerUnknown {
		d.Power = compute.PowerRunning
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f := &domain{id: d.ID, name: d.Name}
	h.domains[d.ID] = f
	h.set(f, d.Power)
}

// Remove takes a domain away as if somebody had removed it by hand. An unknown id is nothing to do.
func (h *Host) Remove(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[id]; d != nil {
		if d.on() {
			h.set(d, compute.PowerShutoff)
		}
		delete(h.domains, id)
	}
}

// PowerOff makes the guest of a domain power off by itself. An unknown id is NotFound, one that is off FailedPrecondition.
func (h *Host) PowerOff(id string) error { return h.end(id, compute.PowerShutoff) }

// Crash makes a domain crash. An unknown id is NotFound, one that is off FailedPrecondition.
func (h *Host) Crash(id string) error { return h.end(id, compute.PowerCrashed) }

// Deaf makes the guest of a domain ignore, from now on, that it is asked to power off or to reboot. An unknown id is NotFound.
func (h *Host) Deaf(id string) error {
	return h.do(id, func(d *domain) error { d.deaf = true; return nil })
}

// Print makes the guest of a domain write to its console. An unknown id is NotFound.
func (h *Host) Print(id, text string) error {
	return h.do(id, func(d *domain) error { d.print(text); return nil })
}

// Reset takes the power from the whole host: all its domains are off, and the connection is lost and made anew.
func (h *Host) Reset() {
	h.Disconnect()
	h.mu.Lock()
	for _, d := range h.domains {
		d.power, d.left, d.sizes = compute.PowerShutoff, false, nil
	}
	clear(h.expected)
	h.mu.Unlock()
	h.Connect()
}

func (h *Host) end(id string, p compute.PowerState) error {
	return h.do(id, func(d *domain) error {
		if !d.on() {
			return wrongState(d)
		}
		h.set(d, p)
		return nil
	})
}

func (h *Host) do(id string, f func(*domain) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[id]
	if d == nil {
		return fmt.Errorf("domain %s: %w", id, errdefs.ErrNotFound)
	}
	return f(d)
}

// callFor is call for the methods that know only domains of ours.
func (h *Host) callFor(ctx context.Context, method Method, id string, effect func(*domain) error) error {
	return h.call(ctx, method, id, func() error {
		d, err := h.find(id)
		if err != nil {
			return err
		}
		return effect(d)
	})
}

// The functions below expect mu to be held.

func (h *Host) find(id string) (*domain, error) {
	d := h.domains[id]
	if d == nil || !d.ours {
		return nil, fmt.Errorf("domain %s: %w", id, errdefs.ErrNotFound)
	}
	return d, nil
}

func (h *Host) list() []compute.Domain {
	all := make([]compute.Domain, 0, len(h.domains))
	for _, d := range h.domains {
		all = append(all, compute.Domain{ID: d.id, Name: d.name, Epoch: d.machine.Epoch, Ours: d.ours, Power: d.power})
	}
	return all
}

func (h *Host) boot(d *domain) {
	d.print(d.banner())
	d.left = false
	h.set(d, compute.PowerRunning)
}

func (h *Host) set(d *domain, p compute.PowerState) {
	if d.power != p {
		if d.power = p; !d.on() {
			d.sizes = nil
		}
		h.tell(compute.PowerEvent{ID: d.id, Power: p})
	}
}

func (d *domain) on() bool { return d.power == compute.PowerRunning || d.power == compute.PowerPaused }

func (d *domain) banner() string { return "fakecompute: " + d.name + " boots\n" }

func (d *domain) print(text string) {
	if !d.ours || d.machine.ConsoleLog == "" {
		return
	}
	d.console = append(d.console, text...)
	if over := len(d.console) - maxConsole; over > 0 {
		d.console = append([]byte(nil), d.console[over:]...)
	}
}
