package compute

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Migration is an instance that is moving to another host while it runs. The record is there from the request until the instance is on one of
// the two hosts alone.
type Migration struct {
	InstanceID string
	ID         string // of this attempt
	From, To   string // ids of hosts

	Resources scheduler.Resources // what it takes of To
	Begun     time.Time

	Invited bool // the destination is making ready

	// What the destination says when it is ready.
	Ready   bool
	Address string  // where its hypervisor is reached
	Machine Machine // as it is to be there, without secrets
	Fault   string  // why it can't be there; "": nothing is wrong
}

// Clone returns a copy that shares nothing.
func (m Migration) Clone() Migration {
	m.Machine = m.Machine.Clone()
	return m
}

var (
	// Migrations holds those that are under way.
	Migrations = state.NewTable("migration", func(m Migration) string { return m.InstanceID },
		state.Index("to", func(m Migration) []string { return []string{m.To} }).
			Telling(func(m Migration) string { return fmt.Sprint(m.Invited, m.Ready) }))

	// ComingUse is what the instances that are moving to a host take of it.
	ComingUse = state.NewSum("coming-use", Migrations, func(m Migration) (string, scheduler.Resources) { return m.To, m.Resources })
)

const (
	// migrateDeadline bounds a migration. Then the instance stays where it is.
	migrateDeadline = 4 * time.Hour
	// prepareDeadline bounds what the destination does before, image download included.
	prepareDeadline = 30 * time.Minute
)

// LiveMigrate moves an instance to another host while it runs, and returns the id of that at once; the instance has it as its HostID when it has
// moved. If it can't, it runs on where it is, with the reason in its Fault. It is for administrators. The host is an id or a name; "" has the
// scheduler choose one of the instance's zone.
//
// FailedPrecondition is an instance that is not active, is on the host already, has a disk that can't be made anew because its image is gone,
// or a volume that comes or goes, or is on a network whose guests can't move ([network.Network.Movable]); a [scheduler.Unplaced] is a host that is
// down, disabled or full, or that there is none. That the destination's processor does not have what the guest was promised, or its hypervisor takes no machines, is
// found there.
func (s *Service) LiveMigrate(ctx context.Context, id, host string) (to string, err error) {
	err = s.begin(ctx, "compute:migrate", id, func(tx *state.Tx, i *Instance) error {
		if err := i.may(TaskMigrating); err != nil {
			return err
		}
		if err := i.movable(tx); err != nil {
			return err
		}
		if h, err := scheduler.Hosts.Get(tx, i.HostID); err == nil && host != "" && (host == h.ID || host == h.Name) {
			return fmt.Errorf("instance %s is on host %s already: %w", i.ID, h.Name, errdefs.ErrFailedPrecondition)
		}
		req := scheduler.Request{Resources: i.Flavor.Resources(), Host: host, Except: i.HostID, ProjectID: i.ProjectID}
		if host == "" {
			req.Zone = i.Zone
		}
		hosts, err := s.cfg.Scheduler.Place(tx, req, 1)
		if err != nil {
			return err
		}
		to = hosts[0]
		m := Migration{InstanceID: i.ID, ID: uuid.NewString(), From: i.HostID, To: to, Resources: req.Resources, Begun: time.Now().UTC()}
		if err := Migrations.Insert(tx, m); err != nil {
			return err
		}
		i.Task = TaskMigrating
		op := i.operation(kindMigrate, migrateDeadline)
		op.Data = m.work(*i)
		_, err = operation.Begin(tx, op)
		return err
	})
	return to, err
}

// movable tells why an instance can't be moved while it runs, as far as the records say.
func (i Instance) movable(r state.Reader) error {
	images := []string{i.ImageID, i.KernelID, i.RamdiskID}
	if i.BootVolume != "" {
		images = images[1:]
	}
	for _, id := range images {
		if id != "" && !image.Images.Has(r, id) {
			return fmt.Errorf("instance %s can't be made on another host: image %s, which it was made of, is gone: %w", i.ID, id, errdefs.ErrFailedPrecondition)
		}
	}
	for at := range volume.Attachments.By(r, "instance", i.ID) {
		v, err := volume.Volumes.Get(r, at.VolumeID)
		if err != nil {
			return err
		}
		if v.State != volume.StateInUse || at.Ending {
			return fmt.Errorf("instance %s: volume %s is %s, must be %s: %w", i.ID, v.ID, v.State, volume.StateInUse, errdefs.ErrFailedPrecondition)
		}
	}
	for _, id := range i.Ports {
		p, err := network.Ports.Get(r, id)
		if err != nil {
			return err
		}
		n, err := network.Networks.Get(r, p.NetworkID)
		if err != nil {
			return err
		}
		if err := n.Movable(); err != nil {
			return fmt.Errorf("instance %s: %w", i.ID, err)
		}
	}
	return nil
}

// CancelMigration has an instance that is moving stay where it is. It returns at once; the instance has no task then, and "cancelled" as its
// Fault, unless it has moved before. One that is not moving is FailedPrecondition.
func (s *Service) CancelMigration(ctx context.Context, id string) error {
	return s.begin(ctx, "compute:migrate", id, func(tx *state.Tx, i *Instance) error {
		for _, op := range operation.Open(tx, i.object()) {
			if op.Kind == kindMigrate {
				_, err := operation.Cancel(tx, i.object(), kindMigrate)
				return err
			}
		}
		return fmt.Errorf("instance %s is not being migrated: %w", i.ID, errdefs.ErrFailedPrecondition)
	})
}
