package fakecompute

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

var _ compute.Migrator = (*Hypervisor)(nil)

// lan is what hosts reach each other on.
type lan struct {
	mu    sync.Mutex // taken by who needs two hosts at once, before theirs
	hosts map[string]*Host
}

// Connected puts hosts on a network, on which machines move from one to the other. A host that is on one already leaves it.
func Connected(hosts ...*Host) {
	l := &lan{hosts: map[string]*Host{}}
	for _, h := range hosts {
		address := uuid.NewString()
		l.hosts[address] = h
		h.mu.Lock()
		h.lan, h.address = l, address
		h.mu.Unlock()
	}
}

// Prepare implements [compute.Migrator].
func (h *Hypervisor) Prepare(ctx context.Context, m compute.Machine) (address string, err error) {
	if err := m.Validate(); err != nil {
		return "", err
	}
	err = h.host.call(ctx, MethodPrepare, m.ID, func() error {
		if h.host.lan == nil {
			return fmt.Errorf("the host takes no machines from others: %w", errdefs.ErrFailedPrecondition)
		}
		h.host.expected[m.ID], address = m.Clone(), h.host.address
		return nil
	})
	return address, err
}

// Migrate implements [compute.Migrator]. It takes no time: what is to happen meanwhile is a [Fault].
func (h *Hypervisor) Migrate(ctx context.Context, m compute.Machine, address string) error {
	return h.host.callFor(ctx, MethodMigrate, m.ID, func(d *domain) error {
		switch {
		case d.left:
			return nil
		case d.power != compute.PowerRunning:
			return wrongState(d)
		case h.host.lan == nil:
			return fmt.Errorf("the host reaches no others: %w", errdefs.ErrFailedPrecondition)
		}
		l := h.host.lan
		h.host.mu.Unlock() // nobody takes a host's mutex before the network's
		l.mu.Lock()
		h.host.mu.Lock()
		defer l.mu.Unlock()
		if now := h.host.domains[m.ID]; now != d || d.power != compute.PowerRunning {
			return fmt.Errorf("domain %s changed: %w", m.ID, errdefs.ErrUnavailable)
		}
		to := l.hosts[address]
		if to == nil || to == h.host {
			return fmt.Errorf("there is no other host at %s: %w", address, errdefs.ErrUnavailable)
		}
		to.mu.Lock()
		defer to.mu.Unlock()
		return h.host.send(d, to)
	})
}

// send moves a domain. It expects the mutexes of both hosts to be held.
func (h *Host) send(d *domain, to *Host) error {
	select {
	case <-to.lost:
		return fmt.Errorf("the other host: %w", errDown)
	default:
	}
	m, prepared := to.expected[d.id]
	switch {
	case to.domains[d.id] != nil:
		return fmt.Errorf("domain %s is at the other host already: %w", d.id, errdefs.ErrAlreadyExists)
	case !prepared || m.Epoch != d.machine.Epoch:
		return fmt.Errorf("the other host does not expect domain %s: %w", d.id, errdefs.ErrFailedPrecondition)
	}
	arrived := &domain{id: d.id, name: d.name, ours: true, deaf: d.deaf, machine: m}
	to.domains[d.id] = arrived
	to.set(arrived, compute.PowerPaused)
	d.left = true
	h.set(d, compute.PowerShutoff)
	return nil
}

// Abort implements [compute.Migrator].
func (h *Hypervisor) Abort(ctx context.Context, id string) (left bool, err error) {
	err = h.host.call(ctx, MethodAbort, id, func() error {
		d := h.host.domains[id]
		left = d != nil && d.left
		return nil
	})
	return left, err
}
