package dewpoint

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// volumes is what makes a process one that has volumes.
type volumes struct {
	hostID string
	agent  *volume.Agent
}

// newVolumes returns nil for a process without volumes.
func (c *Cloud) newVolumes(s *Services, cache *image.Cache) (*volumes, error) {
	if c.cfg.VolumeDriver == nil {
		return nil, nil
	}
	host, err := c.host()
	if err != nil {
		return nil, err
	}
	var images volume.Images
	if cache != nil {
		images = cache
	}
	agent, err := volume.NewAgent(volume.AgentConfig{Store: s.Store, HostID: host.ID, HostName: host.Name, Driver: c.cfg.VolumeDriver,
		Exporter: c.cfg.VolumeExporter, Images: images, Grown: compute.VolumeGrown, Ring: s.Compute.Ring, Bus: c.cfg.MessageBus, Hooks: c.cfg.Hooks, Logger: c.cfg.Logger})
	if err != nil {
		return nil, err
	}
	return &volumes{host.ID, agent}, nil
}

// known waits until the host's room is on record, as it is in this life.
func (v *volumes) known(ctx context.Context, store *state.Store, begun time.Time) error {
	return scheduler.Beats.Await(ctx, store, volume.BeatID(v.hostID), func(b scheduler.Beat, found bool) (bool, error) {
		return found && !b.At.Before(begun), nil
	})
}

// plugged returns the serials of the disks of each domain of ours that runs, if the hypervisor can tell.
func (c *Cloud) plugged(ctx context.Context, domains []compute.Domain) (map[string][]string, error) {
	plugger, ok := c.cfg.Hypervisor.(compute.Plugger)
	if !ok {
		return nil, nil
	}
	all := map[string][]string{}
	for _, d := range domains {
		if !d.Ours || d.Power != compute.PowerRunning && d.Power != compute.PowerPaused {
			continue
		}
		serials, err := plugger.DisksOf(ctx, d.ID)
		if errdefs.IsNotFound(err) {
			continue // it went after the domains were listed
		}
		if err != nil {
			return nil, fmt.Errorf("dewpoint: disks of domain %s: %w", d.ID, err)
		}
		all[d.ID] = serials
	}
	return all, nil
}

// volumes compares the volumes that instances have on record with the disks of their domains, and attachments with
// what they are of.
func (a *audit) volumes(v *state.View, plugged map[string][]string) {
	serials := map[string]string{} // of all volumes
	for rec := range volume.Volumes.All(v) {
		serials[compute.VolumeSerial(rec.ID)] = rec.ID
	}
	for at := range volume.Attachments.All(v) {
		rec, err := volume.Volumes.Get(v, at.VolumeID)
		switch {
		case err != nil:
			a.report("attachment of volume %s to %s: there is no such volume", at.VolumeID, at.Consumer)
		case at.InstanceID != "" && !compute.Instances.Has(v, at.InstanceID):
			a.report("volume %s is attached to instance %s, which does not exist", at.VolumeID, at.InstanceID)
		case rec.State == volume.StateInUse && at.NodeID == a.host:
			if have, runs := plugged[at.InstanceID]; runs && !slices.Contains(have, compute.VolumeSerial(at.VolumeID)) {
				a.report("instance %s has volume %s on record, its domain does not have it", at.InstanceID, at.VolumeID)
			}
		}
	}
	for instance, have := range plugged {
		for _, serial := range have {
			id, is := serials[serial]
			if at, err := volume.Attachments.Get(v, id); is && (err != nil || at.InstanceID != instance) {
				a.report("domain %s has volume %s: no record wants it", instance, id)
			}
		}
	}
}

// host is this process's, with its id and its name.
func (c *Cloud) host() (host scheduler.Host, err error) {
	host = c.cfg.Host
	if host.ID == "" {
		if host.ID, err = HostID(c.cfg.Dir); err != nil {
			return host, err
		}
	}
	if host.Name == "" {
		host.Name, err = hostName()
	}
	return host, err
}
