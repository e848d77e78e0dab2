package compute

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// A live migration is a relay of operations, each of one host and done by its agent alone; what one has recorded begins the next. Why it is so
// stands in docs/decisions/0010-live-migration.md.
//
//	source       migrate: invite ──► await ──► send ──► (the host on record changes)        clear
//	                        │          ▲                          │                           ▲
//	destination             └► prepare ┘                          ├──► arrive: it runs on     │
//	                                                              └───────────────────────────┘
//
// The operations of the instance are its host's. What a host does for an instance that is not, or no longer, its own is of another object, so that a host
// that is dead holds up nobody but itself.
const (
	kindMigrate = "instance.migrate"
	kindPrepare = "instance.migrate.prepare"
	kindArrive  = "instance.migrate.arrive"
	kindClear   = "instance.migrate.clear"
)

// moveWork is what the operations of a migration keep.
type moveWork struct {
	work
	Migration string // its ID
	From, To  string // ids of hosts
	Left      bool   // the machine is at the destination
}

func (m Migration) work(i Instance) moveWork {
	return moveWork{work: work{i.ID, i.Epoch}, Migration: m.ID, From: m.From, To: m.To}
}

// visit names an instance on a host that is not its own.
func visit(instanceID, hostID string) string { return "instance/" + instanceID + "/on/" + hostID }

// passes tells whether an instance that is another host's has to do with this one: it is coming, or what is left of it is being removed.
func (a *Agent) passes(r state.Reader, i Instance) bool {
	m, err := Migrations.Get(r, i.ID)
	return err == nil && m.To == a.cfg.Host.ID || slices.Contains(i.Elsewhere, a.cfg.Host.ID)
}

// watchMigrations looks for work when a migration to this host begins, is ready or ends, so that a machine that has arrived does not wait.
func (a *Agent) watchMigrations(ctx context.Context) {
	for {
		signals := &state.Signals{}
		_ = a.cfg.Store.View(func(v *state.View) error { Migrations.Signal(v, signals, "to", a.cfg.Host.ID); return nil })
		a.runner.Ring()
		if signals.Wait(ctx) != nil {
			return
		}
	}
}

// migrate is the source's part, until the machine is at one of the hosts alone.
func (a *Agent) migrate() operation.Definition {
	return operation.Define(operation.Kind[moveWork]{
		Name: kindMigrate,
		Steps: []operation.Step[moveWork]{
			// No Undo for the first two: Failed ends what they have begun.
			{Name: "invite", Do: a.awaitCleared, Then: a.invite},
			{Name: "await", Do: a.awaitReady},
			{Name: "send", Do: a.send, Undo: a.keep},
		},
		Attempts: 3,
		Done:     func(tx *state.Tx, w *moveWork) error { return a.settle(tx, w, "") },
		Failed:   a.settle,
		Problem:  func(tx *state.Tx, w *moveWork, reason string) error { return fault(tx, &w.work, reason) },
	})
}

// clearPatience is how long a host may take to remove what it has of an instance that is not its own, before that counts as a failed attempt.
const clearPatience = time.Minute

// awaitCleared waits until the destination has nothing of the instance from an earlier visit.
func (a *Agent) awaitCleared(ctx context.Context, w *moveWork) error {
	return a.awaitVisits(ctx, w.InstanceID, func(i Instance) bool { return !slices.Contains(i.Elsewhere, w.To) })
}

// awaitElsewhere waits until no other host has anything of the instance: its addresses can be another's only then.
func (a *Agent) awaitElsewhere(ctx context.Context, w *work) error {
	return a.awaitVisits(ctx, w.InstanceID, func(i Instance) bool { return len(i.Elsewhere) == 0 })
}

func (a *Agent) awaitVisits(ctx context.Context, id string, over func(Instance) bool) error {
	limited, cancel := context.WithTimeout(ctx, clearPatience)
	defer cancel()
	var hosts []string
	err := Instances.Await(limited, a.cfg.Store, id, func(i Instance, found bool) (bool, error) {
		hosts = i.Elsewhere
		return !found || over(i), nil
	})
	if limited.Err() != nil && ctx.Err() == nil {
		for n := range hosts {
			hosts[n] = a.hostName(hosts[n])
		}
		return fmt.Errorf("hosts %q have not removed yet what they have of instance %s: %w", hosts, id, errdefs.ErrUnavailable)
	}
	return err
}

// invite has the destination make ready, now that nothing else is done to the instance.
func (a *Agent) invite(tx *state.Tx, w *moveWork) error {
	i, err := Instances.Get(tx, w.InstanceID)
	if err != nil {
		return err
	}
	if err := i.movable(tx); err != nil {
		return err
	}
	for _, port := range i.Ports {
		if err := a.cfg.Addresses.Extend(tx, port, w.To); err != nil {
			return err
		}
	}
	for _, at := range attachments(tx, i.ID) {
		if err := volume.Admit(tx, at.VolumeID, at.Epoch, InitiatorOf(w.To)); err != nil {
			return err
		}
	}
	_, err = operation.Begin(tx, operation.Intent{Kind: kindPrepare, Owner: ownerOf(w.To), Object: visit(i.ID, w.To), Data: *w, Deadline: prepareDeadline})
	if err != nil {
		return err
	}
	m, err := w.migration(tx)
	if err != nil {
		return err
	}
	m.Invited = true // which rings the destination
	return Migrations.Put(tx, m)
}

// migration returns the record of a migration; FailedPrecondition if it is over.
func (w *moveWork) migration(r state.Reader) (m Migration, err error) {
	if m, err = Migrations.Get(r, w.InstanceID); err != nil || m.ID != w.Migration {
		err = fmt.Errorf("the migration of instance %s is over: %w", w.InstanceID, errdefs.ErrFailedPrecondition)
	}
	return m, err
}

// awaitReady waits until the destination is ready. One that says nothing is not waited for longer than it has for all.
func (a *Agent) awaitReady(ctx context.Context, w *moveWork) error {
	limited, cancel := context.WithTimeout(ctx, prepareDeadline)
	defer cancel()
	err := Migrations.Await(limited, a.cfg.Store, w.InstanceID, func(m Migration, found bool) (bool, error) {
		switch {
		case !found || m.ID != w.Migration:
			return false, fmt.Errorf("the migration of instance %s is over: %w", w.InstanceID, errdefs.ErrFailedPrecondition)
		case m.Fault != "":
			return false, fmt.Errorf("host %s: %s: %w", a.hostName(w.To), m.Fault, errdefs.ErrFailedPrecondition)
		}
		return m.Ready, nil
	})
	if limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("host %s was not ready within %v: %w", a.hostName(w.To), prepareDeadline, errdefs.ErrFailedPrecondition)
	}
	return err
}

func (a *Agent) hostName(id string) (name string) {
	_ = a.cfg.Store.View(func(v *state.View) error {
		if h, err := scheduler.Hosts.Get(v, id); err == nil {
			id = h.Name
		}
		return nil
	})
	return id
}

// migrator returns the hypervisor as one that can move machines.
func (a *Agent) migrator() (Migrator, error) {
	m, ok := a.cfg.Hypervisor.(Migrator)
	if !ok {
		return nil, fmt.Errorf("the hypervisor of host %s can't move machines that run: %w", a.cfg.Host.Name, errdefs.ErrFailedPrecondition)
	}
	return m, nil
}

// send hands the machine over.
func (a *Agent) send(ctx context.Context, w *moveWork) error {
	migrator, err := a.migrator()
	if err != nil {
		return err
	}
	var m Migration
	if err := a.cfg.Store.View(func(v *state.View) (err error) { m, err = w.migration(v); return err }); err != nil {
		return err
	}
	err = migrator.Migrate(ctx, m.Machine, m.Address)
	w.Left = err == nil
	return err
}

// keep has the machine stay, unless it has left already.
func (a *Agent) keep(ctx context.Context, w *moveWork) error {
	migrator, err := a.migrator()
	if err != nil {
		return nil // nothing was begun
	}
	w.Left, err = migrator.Abort(ctx, w.InstanceID)
	return err
}

// settle records on which host the instance is, and has what the other has of it removed.
func (a *Agent) settle(tx *state.Tx, w *moveWork, reason string) error {
	host, other := w.From, w.To
	if w.Left {
		host, other, reason = w.To, w.From, ""
	}
	if m, err := w.migration(tx); err == nil {
		if err := Migrations.Delete(tx, m.InstanceID); err != nil {
			return err
		}
	}
	i, err := Instances.Get(tx, w.InstanceID)
	if err != nil {
		return ended(err)
	}
	for _, port := range i.Ports {
		if err := a.cfg.Addresses.Settle(tx, port, host); err != nil {
			return err
		}
	}
	for _, at := range attachments(tx, i.ID) {
		if at.Next == "" {
			continue // nobody was invited
		}
		if err := ended(volume.Settle(tx, at.VolumeID, at.Epoch, host, InitiatorOf(host))); err != nil {
			return err
		}
	}
	if _, err := operation.Cancel(tx, visit(i.ID, w.To), kindPrepare); err != nil {
		return err
	}
	if _, err := operation.Begin(tx, operation.Intent{Kind: kindClear, Owner: ownerOf(other), Object: visit(i.ID, other), Data: w.work}); err != nil {
		return err
	}
	i.Elsewhere = append(i.Elsewhere, other)
	i.Fault = reason
	i.Generation++
	switch {
	case !w.Left && i.Task == TaskMigrating:
		i.Task = TaskNone
	case w.Left:
		i.HostID = host
		if h, err := scheduler.Hosts.Get(tx, host); err == nil {
			i.Zone = h.Zone
		}
		if err := operation.Reassign(tx, i.object(), ownerOf(other), ownerOf(host)); err != nil {
			return err
		}
		if i.Task == TaskMigrating { // else it is being terminated, and need not go on
			if _, err := operation.Begin(tx, i.operation(kindArrive, actionDeadline)); err != nil {
				return err
			}
		}
	}
	return Instances.Put(tx, i)
}

// prepare has the destination make all that the machine needs before it comes.
func (a *Agent) prepare() operation.Definition {
	return operation.Define(operation.Kind[moveWork]{
		Name: kindPrepare,
		// No Undo: the source has everything removed, whatever has become of this.
		Steps: []operation.Step[moveWork]{
			{Name: "network", Do: func(ctx context.Context, w *moveWork) error { return a.plug(ctx, &w.work) }},
			{Name: "disks", Do: func(ctx context.Context, w *moveWork) error { return a.makeDisks(ctx, &w.work) }},
			{Name: "volumes", Do: a.awaitAdmission},
			{Name: "hypervisor", Do: a.expect},
		},
		Failed: func(tx *state.Tx, w *moveWork, reason string) error {
			m, err := w.migration(tx)
			if err != nil {
				return nil
			}
			m.Fault = reason
			return Migrations.Put(tx, m)
		},
		Problem: func(tx *state.Tx, w *moveWork, reason string) error {
			if _, err := w.migration(tx); err != nil {
				return nil
			}
			return fault(tx, &w.work, reason)
		},
	})
}

// awaitAdmission waits until this host can log in to the instance's volumes.
func (a *Agent) awaitAdmission(ctx context.Context, w *moveWork) error {
	var all []volume.Attachment
	_ = a.cfg.Store.View(func(v *state.View) error { all = attachments(v, w.InstanceID); return nil })
	for _, at := range all {
		err := volume.Attachments.Await(ctx, a.cfg.Store, at.VolumeID, func(now volume.Attachment, found bool) (bool, error) {
			if !found || now.Epoch != at.Epoch || now.Ending || now.Next != InitiatorOf(a.cfg.Host.ID) {
				return false, fmt.Errorf("volume %s is no longer to come: %w", at.VolumeID, errdefs.ErrFailedPrecondition)
			}
			return now.Admitted, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// expect has the hypervisor expect the machine, and tells the source.
func (a *Agent) expect(ctx context.Context, w *moveWork) error {
	migrator, err := a.migrator()
	if err != nil {
		return err
	}
	i, err := a.instance(w.InstanceID)
	if err != nil {
		return err
	}
	m, err := a.machine(ctx, i)
	if err != nil {
		return err
	}
	for _, d := range m.Disks {
		if d.ISCSI == nil && a.isVolume(i, d) {
			return fmt.Errorf("disk %s is a volume that the host's kernel reaches, and not the hypervisor; such a one can't be on two hosts: %w", d.Device,
				errdefs.ErrFailedPrecondition)
		}
	}
	address, err := migrator.Prepare(ctx, m)
	if err != nil {
		return err
	}
	m = m.Clone()
	for _, d := range m.Disks {
		if d.ISCSI != nil {
			d.ISCSI.Secret = ""
		}
	}
	return a.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		now, err := w.migration(tx)
		if err != nil {
			return err
		}
		now.Ready, now.Address, now.Machine = true, address, m
		return Migrations.Put(tx, now)
	})
}

// isVolume tells whether a disk of an instance is a volume.
func (a *Agent) isVolume(i Instance, d Disk) (found bool) {
	_ = a.cfg.Store.View(func(v *state.View) error {
		for _, at := range attachments(v, i.ID) {
			found = found || d.Serial == VolumeSerial(at.VolumeID)
		}
		return nil
	})
	return found
}

// arrive has a machine that has come go on. If the host was reset meanwhile, it boots.
func (a *Agent) arrive() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindArrive,
		// No Undo: it is here.
		Steps: []operation.Step[work]{
			a.together(kindArrive, "arrive",
				operation.Step[work]{Name: "network", Do: a.plug},
				operation.Step[work]{Name: "domain", Do: a.create},
			),
		},
		Done:    change(running),
		Failed:  giveUp,
		Problem: fault,
	})
}

// clear removes what a host has of an instance that is another's. It only goes forward: what is left of a machine is of no use.
func (a *Agent) clear() operation.Definition {
	return operation.Define(operation.Kind[work]{
		Name: kindClear,
		Steps: []operation.Step[work]{
			a.together(kindClear, "clear",
				operation.Step[work]{Name: "domain", Do: a.destroy},
				operation.Step[work]{Name: "volumes", Do: a.letGo},
				operation.Step[work]{Name: "network", Do: a.unplugHere},
				operation.Step[work]{Name: "disks", Do: a.removeDisks},
			),
		},
		Persist: true,
		Done: func(tx *state.Tx, w *work) error {
			i, err := Instances.Get(tx, w.InstanceID)
			if err != nil {
				return ended(err)
			}
			i.Elsewhere = slices.DeleteFunc(i.Elsewhere, func(host string) bool { return host == a.cfg.Host.ID })
			return Instances.Put(tx, i)
		},
	})
}

func (a *Agent) letGo(ctx context.Context, w *work) error {
	var all []volume.Attachment
	_ = a.cfg.Store.View(func(v *state.View) error { all = attachments(v, w.InstanceID); return nil })
	for _, at := range all {
		if err := a.cfg.Connector.Disconnect(ctx, a.connectionOf(at)); err != nil {
			return err
		}
	}
	return nil
}

// unplugHere removes the taps of ports that are another host's.
func (a *Agent) unplugHere(ctx context.Context, w *work) error {
	ports, _, err := a.ports(w.InstanceID)
	for _, port := range ports {
		if err == nil {
			err = a.cfg.Network.Unplug(ctx, port)
		}
	}
	return err
}
