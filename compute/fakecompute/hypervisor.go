package fakecompute

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// Config is what a [Hypervisor] is made of.
type Config struct {
	Host *Host            // nil: a new one
	Info compute.HostInfo // what Describe tells; zero fields: "fake", "1", "x86_64", 64 VCPUs, 256 GiB, no address
}

// Hypervisor is a driver for a [Host]. All methods are safe for concurrent use.
type Hypervisor struct {
	host *Host
	info compute.HostInfo
}

var _ compute.Hypervisor = (*Hypervisor)(nil)

// New returns a driver for cfg.Host.
func New(cfg Config) *Hypervisor {
	if cfg.Host == nil {
		cfg.Host = NewHost()
	}
	i := &cfg.Info
	if i.Hypervisor == "" {
		i.Hypervisor = "fake"
	}
	if i.Version == "" {
		i.Version = "1"
	}
	if i.Arch == "" {
		i.Arch = "x86_64"
	}
	if i.VCPUs == 0 {
		i.VCPUs = 64
	}
	if i.MemoryMiB == 0 {
		i.MemoryMiB = 256 << 10
	}
	return &Hypervisor{host: cfg.Host, info: cfg.Info}
}

// Host returns the host that the driver drives.
func (h *Hypervisor) Host() *Host { return h.host }

// Describe implements [compute.Hypervisor].
func (h *Hypervisor) Describe(ctx context.Context) (info compute.HostInfo, err error) {
	err = h.host.call(ctx, MethodDescribe, "", func() error { info = h.info; return nil })
	return info, err
}

// Create implements [compute.Hypervisor]. It does not look for the files and taps that m names.
func (h *Hypervisor) Create(ctx context.Context, m compute.Machine) error {
	if err := m.Validate(); err != nil {
		return err
	}
	return h.host.call(ctx, MethodCreate, m.ID, func() error {
		d := h.host.domains[m.ID]
		switch {
		case d == nil:
			d = &domain{id: m.ID}
			h.host.domains[m.ID] = d
		case !d.ours:
			return fmt.Errorf("domain %s is there already, and not of this library's making: %w", m.ID, errdefs.ErrAlreadyExists)
		case d.machine.Epoch != m.Epoch:
			return fmt.Errorf("domain %s is there already with epoch %d, not %d: %w", m.ID, d.machine.Epoch, m.Epoch, errdefs.ErrAlreadyExists)
		case d.power == compute.PowerRunning:
			return nil
		case d.power == compute.PowerPaused:
			h.host.set(d, compute.PowerRunning)
			delete(h.host.expected, m.ID)
			return nil
		}
		delete(h.host.expected, m.ID)
		m = m.Clone()
		if d.machine.ConsoleLog != m.ConsoleLog {
			d.console = nil // it is another file
		}
		d.ours, d.name, d.machine = true, m.Name, m
		h.host.boot(d)
		return nil
	})
}

// Destroy implements [compute.Hypervisor].
func (h *Hypervisor) Destroy(ctx context.Context, id string, epoch uint64) error {
	return h.host.call(ctx, MethodDestroy, id, func() error {
		d := h.host.domains[id]
		switch {
		case d == nil:
			delete(h.host.expected, id)
			return nil
		case !d.ours:
			return fmt.Errorf("domain %s is not of this library's making: %w", id, errdefs.ErrFailedPrecondition)
		case d.machine.Epoch != epoch:
			return fmt.Errorf("domain %s has epoch %d, not %d: %w", id, d.machine.Epoch, epoch, errdefs.ErrFailedPrecondition)
		}
		if d.on() {
			h.host.set(d, compute.PowerShutoff)
		}
		delete(h.host.domains, id)
		delete(h.host.expected, id)
		return nil
	})
}

// Start implements [compute.Hypervisor].
func (h *Hypervisor) Start(ctx context.Context, id string) error {
	return h.host.callFor(ctx, MethodStart, id, func(d *domain) error {
		switch d.power {
		case compute.PowerRunning:
		case compute.PowerPaused:
			return wrongState(d)
		default:
			h.host.boot(d)
		}
		return nil
	})
}

// Stop implements [compute.Hypervisor]. The guest obeys at once, unless it is [Host.Deaf].
func (h *Hypervisor) Stop(ctx context.Context, id string, grace time.Duration) error {
	wait := false
	if err := h.host.callFor(ctx, MethodStop, id, func(d *domain) error {
		if wait = d.deaf && grace > 0 && d.power == compute.PowerRunning; !wait && d.on() {
			h.host.set(d, compute.PowerShutoff)
		}
		return nil
	}); err != nil || !wait {
		return err
	}
	if err := sleep(ctx, grace); err != nil {
		return err
	}
	h.host.mu.Lock()
	defer h.host.mu.Unlock()
	d, err := h.host.find(id)
	if err == nil && d.on() {
		h.host.set(d, compute.PowerShutoff)
	}
	return err
}

// Reboot implements [compute.Hypervisor].
func (h *Hypervisor) Reboot(ctx context.Context, id string, hard bool) error {
	return h.host.callFor(ctx, MethodReboot, id, func(d *domain) error {
		if d.power != compute.PowerRunning {
			return wrongState(d)
		}
		if hard || !d.deaf {
			d.print(d.banner())
		}
		return nil
	})
}

// Pause implements [compute.Hypervisor].
func (h *Hypervisor) Pause(ctx context.Context, id string) error {
	return h.host.callFor(ctx, MethodPause, id, func(d *domain) error {
		if !d.on() {
			return wrongState(d)
		}
		h.host.set(d, compute.PowerPaused)
		return nil
	})
}

// Resume implements [compute.Hypervisor].
func (h *Hypervisor) Resume(ctx context.Context, id string) error {
	return h.host.callFor(ctx, MethodResume, id, func(d *domain) error {
		if !d.on() {
			return wrongState(d)
		}
		h.host.set(d, compute.PowerRunning)
		return nil
	})
}

// List implements [compute.Hypervisor].
func (h *Hypervisor) List(ctx context.Context) (all []compute.Domain, err error) {
	err = h.host.call(ctx, MethodList, "", func() error {
		all = h.host.list()
		return nil
	})
	return all, err
}

// Console implements [compute.Hypervisor]. The console of a machine without ConsoleLog stays empty.
func (h *Hypervisor) Console(ctx context.Context, id string, max int) (tail []byte, err error) {
	if max < 1 {
		return nil, fmt.Errorf("console of %s: max is %d, must be at least 1: %w", id, max, errdefs.ErrInvalidArgument)
	}
	err = h.host.callFor(ctx, MethodConsole, id, func(d *domain) error {
		tail = slices.Clone(d.console[len(d.console)-min(max, len(d.console)):])
		return nil
	})
	return tail, err
}

func wrongState(d *domain) error {
	return fmt.Errorf("domain %s is %s: %w", d.id, d.power, errdefs.ErrFailedPrecondition)
}
