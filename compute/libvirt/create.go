package libvirt

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// rounds is how often a call looks again when what it saw has changed meanwhile, as by a call that was cut short and that
// libvirtd still works on.
const rounds = 5

// Create implements [compute.Hypervisor].
func (h *Hypervisor) Create(ctx context.Context, m compute.Machine) error {
	if err := m.Validate(); err != nil {
		return err
	}
	description, err := h.domainXML(m)
	if err != nil {
		return fmt.Errorf("libvirt: describing machine %s: %w: %w", m.ID, err, errdefs.ErrInvalidArgument)
	}
	return h.change(ctx, m.ID, func(ctx context.Context, w wire) error {
		for range rounds {
			if again, err := create(ctx, w, m, description); !again {
				return err
			}
		}
		return fmt.Errorf("libvirt: domain %s does not stay as it is: %w", m.ID, errdefs.ErrUnavailable)
	})
}

// create makes m run. It returns again if something else changed the domain meanwhile.
func create(ctx context.Context, w wire, m compute.Machine, description string) (again bool, err error) {
	d, err := w.DomainLookupByUUID(golibvirt.UUID(uuid.MustParse(m.ID))) // Validate has parsed it
	if err == nil {
		i, err := identify(w, d)
		switch {
		case is(err, golibvirt.ErrNoDomain):
			return true, nil
		case errors.Is(err, errForeign):
			return false, fmt.Errorf("libvirt: domain %s is there already, and not of this library's making: %w", m.ID, errdefs.ErrAlreadyExists)
		case err != nil:
			return false, err
		case i.Epoch != m.Epoch:
			return false, fmt.Errorf("libvirt: domain %s is there already with epoch %d, not %d: %w", m.ID, i.Epoch, m.Epoch, errdefs.ErrAlreadyExists)
		}
		power, err := powerOf(w, d)
		switch {
		case is(err, golibvirt.ErrNoDomain):
			return true, nil
		case err != nil || power == compute.PowerRunning:
			return false, err
		case power == compute.PowerPaused:
			// A domain that is just being started looks so, too: libvirt lets this wait for it.
			err := w.DomainResume(d)
			if err == nil { // it may have come from another host
				err = forgetSecrets(w, m.ID)
			}
			return changed(err), err
		}
	} else if !is(err, golibvirt.ErrNoDomain) {
		return false, err
	}
	if ctx.Err() != nil {
		return false, errStopped
	}
	forget, err := secrets(w, m.ID, m.Disks...)
	if err != nil {
		return false, err
	}
	defer forget()
	if d, err = w.DomainDefineXMLFlags(description, 0); err != nil {
		return false, err
	}
	if ctx.Err() != nil {
		return false, errStopped
	}
	_, err = w.DomainCreateWithFlags(d, 0)
	return changed(err), err
}

// Destroy implements [compute.Hypervisor].
func (h *Hypervisor) Destroy(ctx context.Context, id string, epoch uint64) error {
	u, err := uuid.Parse(id)
	if err != nil {
		return ctx.Err() // no domain has such an id
	}
	return h.change(ctx, id, func(_ context.Context, w wire) error {
		for range rounds {
			d, err := w.DomainLookupByUUID(golibvirt.UUID(u))
			if is(err, golibvirt.ErrNoDomain) {
				return forgetSecrets(w, u.String())
			}
			if err != nil {
				return err
			}
			i, err := identify(w, d)
			switch {
			case is(err, golibvirt.ErrNoDomain):
				continue
			case errors.Is(err, errForeign):
				return fmt.Errorf("libvirt: domain %s is not of this library's making: %w", id, errdefs.ErrFailedPrecondition)
			case err != nil:
				return err
			case i.Epoch != epoch:
				return fmt.Errorf("libvirt: domain %s has epoch %d, not %d: %w", id, i.Epoch, epoch, errdefs.ErrFailedPrecondition)
			}
			// OperationInvalid: it is off already, or just being started; the next look tells.
			if err := w.DomainDestroyFlags(d, golibvirt.DomainDestroyDefault); err != nil && !changed(err) {
				return err
			}
			if err := w.DomainUndefineFlags(d, everything); err != nil && !changed(err) {
				return err
			}
		}
		return fmt.Errorf("libvirt: domain %s comes back: %w", id, errdefs.ErrUnavailable)
	})
}

// everything is all that libvirt keeps beside a domain's definition.
const everything = golibvirt.DomainUndefineManagedSave | golibvirt.DomainUndefineSnapshotsMetadata | golibvirt.DomainUndefineNvram |
	golibvirt.DomainUndefineCheckpointsMetadata

// changed tells whether a domain is not, or no longer, in the state that a call needs.
func changed(err error) bool {
	return is(err, golibvirt.ErrOperationInvalid) || is(err, golibvirt.ErrNoDomain)
}
