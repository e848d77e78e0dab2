package libvirt

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

var _ compute.Plugger = (*Hypervisor)(nil)

const (
	// unplugLook is how often is looked whether a guest has let go of a disk.
	unplugLook = 50 * time.Millisecond
	// unplugAgain is after how long a guest that has not is asked again: QEMU takes no second request for a device within
	// some seconds of the first.
	unplugAgain = 6 * time.Second
)

// secretID is the id of the secret that a disk of a machine is opened with.
func secretID(machine, serial string) string {
	return uuid.NewSHA1(uuid.MustParse(machine), []byte("iscsi "+serial)).String() // Validate has parsed it
}

// secrets hands libvirtd the secrets of disks, in its memory alone, until forget: when QEMU has the disks it needs them no more.
func secrets(w wire, machine string, disks ...compute.Disk) (forget func(), err error) {
	var made []golibvirt.Secret
	forget = func() {
		for _, s := range made {
			_ = w.SecretUndefine(s) // it is gone with libvirtd, at the latest
		}
	}
	for _, d := range disks {
		if d.ISCSI == nil || d.ISCSI.User == "" {
			continue
		}
		x := libvirtxml.Secret{Ephemeral: "yes", Private: "yes", UUID: secretID(machine, d.Serial),
			Usage: &libvirtxml.SecretUsage{Type: "iscsi", Target: machine + "/" + d.Serial}}
		text, err := x.Marshal()
		if err != nil {
			forget()
			return nil, err
		}
		s, err := w.SecretDefineXML(text, 0)
		if err == nil {
			made = append(made, s)
			err = w.SecretSetValue(s, []byte(d.ISCSI.Secret), 0)
		}
		if err != nil {
			forget()
			return nil, err
		}
	}
	return forget, nil
}

// disksOf returns the disks that a domain has now.
func disksOf(w wire, d golibvirt.Domain) ([]libvirtxml.DomainDisk, error) {
	text, err := w.DomainGetXMLDesc(d, 0)
	if err != nil {
		return nil, err
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("libvirt: the description of domain %s: %w: %w", idOf(d), err, errdefs.ErrInternal)
	}
	if x.Devices == nil {
		return nil, nil
	}
	return x.Devices.Disks, nil
}

// PlugDisk implements [compute.Plugger].
func (h *Hypervisor) PlugDisk(ctx context.Context, id string, d compute.Disk) error {
	switch err := d.Validate(); {
	case err != nil:
		return fmt.Errorf("libvirt: disk: %w", err)
	case d.Serial == "" || d.Device == "":
		return fmt.Errorf("libvirt: disk: Serial is %q and Device %q, both must be given: %w", d.Serial, d.Device, errdefs.ErrInvalidArgument)
	}
	return h.doFor(ctx, id, func(w wire, dom golibvirt.Domain, p compute.PowerState) error {
		if !on(p) {
			return wrongState(id, p)
		}
		have, err := disksOf(w, dom)
		if err != nil {
			return err
		}
		for _, other := range have {
			switch {
			case other.Serial == d.Serial:
				return nil
			case other.Target != nil && other.Target.Dev == d.Device:
				return fmt.Errorf("libvirt: domain %s has a disk %s: %w", id, d.Device, errdefs.ErrAlreadyExists)
			}
		}
		description := diskXML(idOf(dom), d, h.cfg.Cache)
		text, err := description.Marshal()
		if err != nil {
			return fmt.Errorf("libvirt: describing disk %s: %w: %w", d.Serial, err, errdefs.ErrInvalidArgument)
		}
		forget, err := secrets(w, idOf(dom), d)
		if err != nil {
			return err
		}
		defer forget()
		return w.DomainAttachDeviceFlags(dom, text, uint32(golibvirt.DomainDeviceModifyLive))
	})
}

// UnplugDisk implements [compute.Plugger]. The guest is asked by its firmware's events (ACPI).
func (h *Hypervisor) UnplugDisk(ctx context.Context, id, serial string) error {
	var asked time.Time
	for {
		gone := false
		err := h.doFor(ctx, id, func(w wire, dom golibvirt.Domain, p compute.PowerState) error {
			if gone = !on(p); gone {
				return nil
			}
			have, err := disksOf(w, dom)
			if err != nil {
				return err
			}
			for _, d := range have {
				if d.Serial != serial {
					continue
				}
				if !asked.IsZero() && time.Since(asked) < unplugAgain {
					return nil
				}
				text, err := d.Marshal()
				if err != nil {
					return err
				}
				asked = time.Now()
				err = w.DomainDetachDeviceFlags(dom, text, uint32(golibvirt.DomainDeviceModifyLive))
				if is(err, golibvirt.ErrDeviceMissing) || err != nil && strings.Contains(err.Error(), "process of unplug") {
					return nil // the next look tells
				}
				return err
			}
			gone = true
			return nil
		})
		if err != nil || gone {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(unplugLook):
		}
	}
}

// GrowDisk implements [compute.Plugger].
func (h *Hypervisor) GrowDisk(ctx context.Context, id, serial string, bytes int64) error {
	return h.doFor(ctx, id, func(w wire, dom golibvirt.Domain, p compute.PowerState) error {
		if !on(p) {
			return nil
		}
		have, err := disksOf(w, dom)
		if err != nil {
			return err
		}
		for _, d := range have {
			if d.Serial != serial || d.Target == nil {
				continue
			}
			// QEMU would cut a file off.
			_, capacity, _, err := w.DomainGetBlockInfo(dom, d.Target.Dev, 0)
			switch {
			case err != nil:
				return err
			case bytes < 0 || uint64(bytes) < capacity:
				return fmt.Errorf("libvirt: disk %s of domain %s has %d bytes, %d are fewer: %w", serial, id, capacity, bytes, errdefs.ErrInvalidArgument)
			}
			return w.DomainBlockResize(dom, d.Target.Dev, uint64(bytes), golibvirt.DomainBlockResizeBytes)
		}
		return nil
	})
}

// DisksOf implements [compute.Plugger].
func (h *Hypervisor) DisksOf(ctx context.Context, id string) (serials []string, err error) {
	var found []string
	err = h.doFor(ctx, id, func(w wire, dom golibvirt.Domain, p compute.PowerState) error {
		if !on(p) {
			return nil
		}
		have, err := disksOf(w, dom)
		for _, d := range have {
			found = append(found, d.Serial)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
