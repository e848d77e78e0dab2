package dewpointtest

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
)

// process is a process of the cloud through all its lives.
type process struct {
	sim  *Sim
	name Process
	host *Host // nil for a controller

	mu      sync.Mutex
	life    *life // nil between two lives
	cloud   *dewpoint.Cloud
	lives   int
	stopped bool          // it is not started again until Start
	whole   chan struct{} // closed while it can reach the others
}

func newProcess(s *Sim, name Process, host *Host) *process {
	whole := make(chan struct{})
	close(whole)
	return &process{sim: s, name: name, host: host, whole: whole}
}

// connection returns what is closed when the process can reach the others, and whether it can't.
func (p *process) connection() (whole <-chan struct{}, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.whole:
		return p.whole, false
	default:
		return p.whole, true
	}
}

func (p *process) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.whole:
		p.whole = make(chan struct{})
	default:
	}
}

func (p *process) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.whole:
	default:
		close(p.whole)
	}
}

// now returns the life that goes on and its cloud; nil between two lives.
func (p *process) now() (*life, *dewpoint.Cloud) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life, p.cloud
}

func (p *process) kill() {
	if l, _ := p.now(); l != nil {
		l.kill()
	}
}

func (p *process) stop(stopped bool) {
	p.mu.Lock()
	p.stopped = stopped
	p.mu.Unlock()
	if stopped {
		p.kill()
	}
}

// supervise starts the process again and again, as an init system does, until ctx ends.
func (p *process) supervise(ctx context.Context) {
	for ctx.Err() == nil {
		p.mu.Lock()
		stopped := p.stopped
		p.mu.Unlock()
		if !stopped {
			p.live(ctx)
		}
		select {
		case <-time.After(p.sim.cfg.Restart):
		case <-ctx.Done():
		}
	}
}

// live is one life.
func (p *process) live(ctx context.Context) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	p.mu.Lock()
	p.lives++
	name := fnv.New64a()
	name.Write([]byte(p.name.String()))
	l := &life{proc: p, ctx: ctx, end: end, dice: rand.New(rand.NewPCG(p.sim.cfg.Seed, name.Sum64()+uint64(p.lives)))}
	p.mu.Unlock()
	cfg := p.config(l)
	run := func() error { return p.member(ctx, cfg) }
	var cloud *dewpoint.Cloud
	if !p.sim.cfg.Shared || p.host == nil {
		var err error
		if cloud, err = dewpoint.New(cfg); err != nil {
			p.sim.violated("%v can't be made: %v", p.name, err)
			p.stop(true)
			return
		}
		run = func() error { return cloud.Run(ctx) }
	}
	p.mu.Lock()
	p.life, p.cloud = l, cloud
	if p.stopped {
		l.kill()
	}
	p.mu.Unlock()
	if err := run(); err != nil {
		cfg.Logger.Info("dewpointtest: the process ended", "error", err)
	}
	l.kill()
	p.mu.Lock()
	p.life, p.cloud = nil, nil
	p.mu.Unlock()
}

// config is what a life of the process is made of.
func (p *process) config(l *life) dewpoint.Config {
	s := p.sim
	cfg := dewpoint.Config{MessageBus: &line{s.bus, l}, Log: &records{s.log, l}, Blobs: s.Blobs,
		Logger: s.cfg.Logger.With("process", p.name.String())}
	if h := p.host; h != nil {
		cfg.Hypervisor = &machines{fakecompute.New(fakecompute.Config{Host: h.Machines,
			Info: compute.HostInfo{VCPUs: s.cfg.Total.VCPUs, MemoryMiB: s.cfg.Total.MemoryMiB}}), l}
		cfg.NetworkManager = &links{fakenetwork.New(fakenetwork.Config{Node: h.Links}), l}
		cfg.Disks = &disks{h.Disks, l}
		cfg.Host = scheduler.Host{ID: h.ID, Name: h.Name, Total: s.cfg.Total}
	}
	if s.cfg.Process != nil {
		s.cfg.Process(p.name, &cfg)
	}
	return cfg
}

// member is the life of a node that uses the records of controller 0.
func (p *process) member(ctx context.Context, cfg dewpoint.Config) error {
	s := p.sim.Services(0)
	ports, err := network.NewAgent(network.AgentConfig{Store: s.Store, HostID: cfg.Host.ID, Manager: cfg.NetworkManager, Repair: cfg.Repair,
		Logger: cfg.Logger})
	if err != nil {
		return err
	}
	agent, err := compute.NewAgent(compute.AgentConfig{Store: s.Store, Bus: cfg.MessageBus, Host: cfg.Host, Hypervisor: cfg.Hypervisor,
		Network: ports, Disks: cfg.Disks, Addresses: &s.Networks.Addresses, StopGrace: cfg.StopGrace, Heartbeat: cfg.Heartbeat,
		Sync: cfg.Sync, Tick: cfg.Tick, Hooks: cfg.Hooks, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	var repair sync.WaitGroup
	defer repair.Wait()
	defer end()
	repair.Go(func() { _ = ports.Run(ctx) })
	return agent.Run(ctx)
}

// serves tells whether the process is there for others: a controller takes requests, a node's host is known to be alive.
func (p *process) serves(ctx context.Context) bool {
	l, cloud := p.now()
	if l == nil || l.await() != nil {
		return false
	}
	if cloud == nil {
		return p.sim.heard(p.host.ID, time.Time{})
	}
	soon, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_, err := cloud.Services(soon)
	return err == nil
}
