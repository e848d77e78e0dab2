package dewpointtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// Sim is a simulated cloud while its script runs. All methods are safe for concurrent use by goroutines of the script, which
// must have ended when the script returns.
type Sim struct {
	Hosts []*Host
	Blobs *Blobs     // of all processes
	Image string     // the id of an image that boots, public
	Dice  *rand.Rand // for the script, which alone uses it: a generator that the seed has set

	cfg     Config
	ctx     context.Context // the simulation's: everything in it ends with it
	bus     *memqueue.Bus
	log     *sharedLog
	store   *state.Store // the records as they are, which no fault touches
	own     *state.Store // the same, if the simulation opened it
	procs   map[Process]*process
	order   []*process
	stormy  atomic.Bool
	all     sync.WaitGroup // processes, messages on their way
	nemesis sync.WaitGroup
	calm    context.CancelFunc // ends the nemesis

	mu       sync.Mutex
	found    []string        // violations, in the order of their discovery
	accepted map[string]bool // instances that were promised; true: somebody asked to terminate it
}

// simulate runs one history, of a complete configuration, and returns what it violated.
func simulate(cfg Config) []string {
	ctx, end := context.WithCancel(auth.NewContext(context.Background(), auth.Admin(Project)))
	s := &Sim{cfg: cfg, ctx: ctx, Blobs: NewBlobs(), bus: memqueue.New(memqueue.Config{}), log: &sharedLog{Log: memstate.New(memstate.Config{})},
		Dice: rand.New(rand.NewPCG(cfg.Seed, 1)), procs: map[Process]*process{}, accepted: map[string]bool{}, calm: func() {}}
	for n := range cfg.Controllers {
		s.add(newProcess(s, Controller(n), nil))
	}
	for n := range cfg.Hosts {
		h := newHost(cfg.Seed, n)
		s.Hosts = append(s.Hosts, h)
		s.add(newProcess(s, Node(n), h))
	}
	s.connect()
	err := s.live(ctx)
	end()
	s.all.Wait()
	err = errors.Join(err, s.bus.Close())
	if s.own != nil {
		err = errors.Join(err, s.own.Close())
	}
	if err = errors.Join(err, s.log.Close()); err != nil {
		s.violated("the simulation itself failed: %v", err)
	}
	return s.found
}

// connect lets machines move between all hosts.
func (s *Sim) connect() {
	var all []*fakecompute.Host
	for _, h := range s.Hosts {
		all = append(all, h.Machines)
	}
	fakecompute.Connected(all...)
}

func (s *Sim) add(p *process) {
	s.procs[p.name] = p
	s.order = append(s.order, p)
}

func (s *Sim) live(ctx context.Context) (err error) {
	for _, p := range s.order {
		s.all.Go(func() { p.supervise(ctx) })
	}
	if s.cfg.Shared { // a second copy of very much would take as long as all the rest
		s.store = s.Services(0).Store
	} else if s.own, err = state.Open(ctx, state.Config{Log: s.log, Schema: dewpoint.Schema()}); err != nil {
		return err
	} else {
		s.store = s.own
	}
	if err := s.furnish(ctx); err != nil {
		return err
	}
	if !s.await(ctx, s.complete) {
		return fmt.Errorf("the processes did not come up within %v", s.cfg.Patience)
	}
	for n := range s.cfg.Controllers {
		s.catchUp(s.Services(n).Store)
	}
	s.stormy.Store(true)
	stormy, calm := context.WithCancel(ctx)
	s.calm = calm
	s.unleash(stormy)
	s.cfg.Script(ctx, s)
	s.Settle(ctx)
	s.note(s.Check())
	if s.cfg.Clean {
		s.clean(ctx)
	}
	return nil
}

// Project is the project of a script's caller.
const Project = "project"

// furnish gives the cloud a network and an image.
func (s *Sim) furnish(ctx context.Context) error {
	c := s.Services(0)
	if _, err := c.Networks.Create(ctx, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/8")}); err != nil {
		return err
	}
	img, err := c.Images.Create(ctx, image.Spec{Name: "small", Format: image.Raw, Visibility: image.Public},
		strings.NewReader(strings.Repeat("\000", 512)))
	s.Image = img.ID
	return err
}

// Request returns a request for one instance of the smallest flavor, which [compute.Service.Run] accepts as it is.
func (s *Sim) Request(name string) compute.RunRequest {
	return compute.RunRequest{Name: name, Image: s.Image, Flavor: "m1.tiny"}
}

// Services returns the services of a controller. If it is dead just now, they are those of its next life. Like those of any
// process that may die, they may be Unavailable at any time.
func (s *Sim) Services(controller int) *dewpoint.Services {
	p := s.process(Controller(controller))
	for {
		if l, cloud := p.now(); l != nil {
			if services, err := cloud.Services(l.ctx); err == nil {
				return services
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
			panic("dewpointtest: the simulation is over, and there are no services any more")
		}
	}
}

// View shows the records as they are, whatever a controller has seen of them.
func (s *Sim) View(fn func(v *state.View) error) error {
	s.catchUp(s.store)
	return s.store.View(fn)
}

// catchUp waits until a store shows all that was committed before.
func (s *Sim) catchUp(store *state.Store) {
	for last := state.Revision(s.log.last.Load()); store.Revision() < last && s.ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
}

// Cloud returns what runs as a process, nil if nothing does, and for a node where [Config.Shared] is set.
func (s *Sim) Cloud(name Process) *dewpoint.Cloud {
	_, cloud := s.process(name).now()
	return cloud
}

func (s *Sim) process(name Process) *process {
	p := s.procs[name]
	if p == nil {
		panic(fmt.Sprintf("dewpointtest: there is no %v", name))
	}
	return p
}

// Kill ends a process at once: nothing that it was at is finished, and nothing more of it is heard. It is started again.
func (s *Sim) Kill(name Process) { s.process(name).kill() }

// KillAt has a process killed at the n-th of its next awaits, before or after whatever it does there; n is at least 1. It is
// started again. If it ends before, nothing happens.
func (s *Sim) KillAt(name Process, n int) {
	if l, _ := s.process(name).now(); l != nil {
		l.killAt(n)
	}
}

// Stop kills a process and keeps it from being started again, until Start.
func (s *Sim) Stop(name Process) { s.process(name).stop(true) }

// Start has a process started again that was stopped.
func (s *Sim) Start(name Process) { s.process(name).stop(false) }

// Partition cuts a process off from the log and from the bus, until Heal.
func (s *Sim) Partition(name Process) { s.process(name).cut() }

// Heal ends a partition.
func (s *Sim) Heal(name Process) { s.process(name).heal() }

// PowerOff takes the power of a host: its node and its guests are gone until PowerOn. A host that is off at the end is left out of
// what is checked.
func (s *Sim) PowerOff(host int) {
	s.Hosts[host].setOff(true)
	s.Stop(Node(host))
	s.Hosts[host].lose()
}

// PowerOn gives a host its power again: its node starts, and its guests are off until somebody starts them.
func (s *Sim) PowerOn(host int) {
	s.Hosts[host].setOff(false)
	s.Start(Node(host))
}

// Calm ends the storm: no fault strikes any more, what the faults had cut or turned off is whole and on, and processes that were
// killed come back. What the script itself turned off, stopped or cut stays so.
func (s *Sim) Calm() {
	s.stormy.Store(false)
	s.calm()
	s.nemesis.Wait()
	for _, p := range s.order {
		if l, _ := p.now(); l != nil {
			l.killAt(0)
		}
	}
}

// Settle ends the storm and waits until the cloud is at rest: every process serves, no operation is open, and Check finds nothing;
// or until [Config.Patience] is over, when Check says what is not as it should be. Then the controllers have seen it too. It returns
// early when ctx ends.
func (s *Sim) Settle(ctx context.Context) {
	s.Calm()
	s.await(ctx, func() bool { return s.complete() && s.idle() && len(s.Check()) == 0 })
	last := state.Revision(s.log.last.Load())
	s.await(ctx, func() bool { return s.seen(last) })
}

// seen tells whether all controllers that serve show what was committed up to a revision.
func (s *Sim) seen(last state.Revision) bool {
	soon, cancel := context.WithTimeout(s.ctx, time.Millisecond)
	defer cancel()
	for n := range s.cfg.Controllers {
		p := s.process(Controller(n))
		_, cloud := p.now()
		if _, cut := p.connection(); cloud == nil || cut {
			continue
		}
		if services, err := cloud.Services(soon); err == nil && services.Store.Revision() < last {
			return false
		}
	}
	return true
}

// await waits until a condition holds, or returns false after the simulation's patience.
func (s *Sim) await(ctx context.Context, holds func() bool) bool {
	for waited := time.Duration(0); !holds(); waited += time.Second {
		if waited > s.cfg.Patience || ctx.Err() != nil {
			return false
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return true
}

// complete tells whether all processes serve that are not stopped.
func (s *Sim) complete() bool {
	for _, p := range s.order {
		p.mu.Lock()
		stopped := p.stopped
		p.mu.Unlock()
		if _, cut := p.connection(); !stopped && !cut && !p.serves(s.ctx) {
			return false
		}
	}
	return true
}

// idle tells whether no operation is open that anybody could do.
func (s *Sim) idle() (idle bool) {
	idle = true
	_ = s.View(func(v *state.View) error {
		for op := range operation.Table.All(v) {
			if !s.lost(strings.TrimPrefix(op.Owner, "host/")) {
				idle = false
				break
			}
		}
		return nil
	})
	return idle
}

// lost tells whether a host is off.
func (s *Sim) lost(hostID string) bool {
	for _, h := range s.Hosts {
		if h.ID == hostID {
			return h.isOff()
		}
	}
	return false
}

// heard tells whether a host has given a sign of life since then.
func (s *Sim) heard(hostID string, since time.Time) (heard bool) {
	_ = s.store.View(func(v *state.View) error {
		b, err := scheduler.Beats.Get(v, hostID)
		heard = err == nil && !b.At.Before(since)
		return nil
	})
	return heard
}

// later does something after a time, if the simulation lasts so long.
func (s *Sim) later(d time.Duration, do func(ctx context.Context)) {
	s.all.Go(func() {
		select {
		case <-time.After(d):
			do(s.ctx)
		case <-s.ctx.Done():
		}
	})
}

// violated notes that something happened that never may.
func (s *Sim) violated(format string, args ...any) { s.note([]string{fmt.Sprintf(format, args...)}) }

func (s *Sim) note(problems []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = append(s.found, problems...)
}

// Violated notes, in a script's own words, that something happened that never may.
func (s *Sim) Violated(format string, args ...any) { s.violated(format, args...) }
