package libvirt

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// power translates libvirt's state of a domain (virDomainState) and the reason for it.
func power(state, reason int32) compute.PowerState {
	switch golibvirt.DomainState(state) {
	case golibvirt.DomainRunning, golibvirt.DomainBlocked, golibvirt.DomainShutdown: // the last: the guest is about to power off
		return compute.PowerRunning
	case golibvirt.DomainPaused, golibvirt.DomainPmsuspended:
		return compute.PowerPaused
	case golibvirt.DomainShutoff:
		if golibvirt.DomainShutoffReason(reason) == golibvirt.DomainShutoffCrashed {
			return compute.PowerCrashed
		}
		return compute.PowerShutoff
	case golibvirt.DomainCrashed:
		return compute.PowerCrashed
	}
	return compute.PowerUnknown
}

func powerOf(w wire, d golibvirt.Domain) (compute.PowerState, error) {
	state, reason, err := w.DomainGetState(d, 0)
	if err != nil {
		return compute.PowerUnknown, err
	}
	return power(state, reason), nil
}

func on(p compute.PowerState) bool { return p == compute.PowerRunning || p == compute.PowerPaused }

// doFor is change for the methods that know only domains of ours.
func (h *Hypervisor) doFor(ctx context.Context, id string, f func(wire, golibvirt.Domain, compute.PowerState) error) error {
	return h.change(ctx, id, func(_ context.Context, w wire) error {
		d, err := find(w, id)
		if err != nil {
			return err
		}
		p, err := powerOf(w, d)
		if err != nil {
			return err
		}
		return f(w, d, p)
	})
}

func wrongState(id string, p compute.PowerState) error {
	return fmt.Errorf("libvirt: domain %s is %s: %w", id, p, errdefs.ErrFailedPrecondition)
}

// Start implements [compute.Hypervisor].
func (h *Hypervisor) Start(ctx context.Context, id string) error {
	return h.doFor(ctx, id, func(w wire, d golibvirt.Domain, p compute.PowerState) error {
		switch p {
		case compute.PowerRunning:
			return nil
		case compute.PowerPaused:
			return wrongState(id, p)
		}
		_, err := w.DomainCreateWithFlags(d, 0)
		if is(err, golibvirt.ErrOperationInvalid) { // something else started it meanwhile
			if p, again := powerOf(w, d); again == nil && p == compute.PowerRunning {
				return nil
			}
		}
		return err
	})
}

// Stop implements [compute.Hypervisor]. The guest is asked by its power button (ACPI).
func (h *Hypervisor) Stop(ctx context.Context, id string, grace time.Duration) error {
	if grace > 0 {
		if err := h.askToStop(ctx, id, grace); err != nil {
			return err
		}
	}
	return h.doFor(ctx, id, func(w wire, d golibvirt.Domain, p compute.PowerState) error {
		if !on(p) {
			return nil
		}
		err := w.DomainDestroyFlags(d, golibvirt.DomainDestroyDefault)
		if is(err, golibvirt.ErrOperationInvalid) {
			return nil // it went off by itself
		}
		return err
	})
}

const (
	askEvery  = 5 * time.Second        // a guest that is still booting does not hear its power button
	lookEvery = 100 * time.Millisecond // how soon it is noticed that the guest is off
)

// askToStop presses the power button until the guest is off, paused, or grace is over. No connection is held meanwhile.
func (h *Hypervisor) askToStop(ctx context.Context, id string, grace time.Duration) error {
	over := time.NewTimer(grace)
	defer over.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var asked time.Time
	for {
		waiting := false
		err := h.doFor(ctx, id, func(w wire, d golibvirt.Domain, p compute.PowerState) error {
			if waiting = p == compute.PowerRunning; !waiting || time.Since(asked) < askEvery {
				return nil
			}
			asked = time.Now()
			err := w.DomainShutdownFlags(d, golibvirt.DomainShutdownAcpiPowerBtn)
			if is(err, golibvirt.ErrOperationInvalid) {
				return nil // the next look tells
			}
			return err
		})
		if err != nil || !waiting {
			return err
		}
		select {
		case <-look.C:
		case <-over.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Reboot implements [compute.Hypervisor]. The guest is asked by its power button (ACPI), and reset when it has powered off.
func (h *Hypervisor) Reboot(ctx context.Context, id string, hard bool) error {
	return h.doFor(ctx, id, func(w wire, d golibvirt.Domain, p compute.PowerState) error {
		switch {
		case p != compute.PowerRunning:
			return wrongState(id, p)
		case hard:
			return w.DomainReset(d, 0)
		}
		return w.DomainReboot(d, golibvirt.DomainRebootAcpiPowerBtn)
	})
}

// Pause implements [compute.Hypervisor].
func (h *Hypervisor) Pause(ctx context.Context, id string) error {
	return h.doFor(ctx, id, func(w wire, d golibvirt.Domain, p compute.PowerState) error {
		if !on(p) {
			return wrongState(id, p)
		}
		return w.DomainSuspend(d)
	})
}

// Resume implements [compute.Hypervisor].
func (h *Hypervisor) Resume(ctx context.Context, id string) error {
	return h.doFor(ctx, id, func(w wire, d golibvirt.Domain, p compute.PowerState) error {
		switch p {
		case compute.PowerRunning:
			return nil
		case compute.PowerPaused:
			return w.DomainResume(d)
		}
		return wrongState(id, p)
	})
}
