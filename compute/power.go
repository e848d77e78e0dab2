package compute

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// settle is how long after an event that came in the middle of an operation the hypervisor is asked again.
const settle = 5 * time.Second

// watchPower keeps the power states in the records true: soon after the hypervisor tells of a change that no operation
// made, and by comparing everything at the start, after each reconnection, and every now and then.
func (a *Agent) watchPower(ctx context.Context) {
	sooner := make(chan time.Duration, 1) // to compare, at the latest so long from now
	var events sync.WaitGroup
	defer events.Wait()
	events.Go(func() {
		for e := range a.cfg.Hypervisor.Events(ctx) {
			if within, ok := a.matters(e); ok {
				if within == 0 {
					select { // what is worth comparing at once makes up for what can wait
					case <-sooner:
					default:
					}
				}
				select {
				case sooner <- within:
				default:
				}
			}
		}
	})
	timer := time.NewTimer(a.cfg.Sync)
	defer timer.Stop()
	next := time.Now().Add(a.cfg.Sync)
	for {
		select {
		case <-ctx.Done():
			return
		case within := <-sooner:
			if at := time.Now().Add(within); at.Before(next) {
				next = at
				timer.Reset(within)
			}
			continue
		case <-timer.C:
		}
		if err := a.syncPower(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("compute: power states could not be compared", "error", err)
		}
		next = time.Now().Add(a.cfg.Sync)
		timer.Reset(a.cfg.Sync)
	}
}

// matters tells whether an event calls for a comparison, and how soon. An event says what was; it is no more than a
// reason to ask what is.
func (a *Agent) matters(e PowerEvent) (within time.Duration, ok bool) {
	if e.Resync {
		return 0, true
	}
	i, err := a.instance(e.ID)
	switch {
	case err != nil || i.HostID != a.cfg.Host.ID:
		return 0, false // somebody else's; orphans are found in time
	case i.Task == TaskNone:
		return 0, i.Power != e.Power
	case i.Task == TaskDeleting && e.Power == PowerShutoff, i.Task == TaskStopping && e.Power == PowerShutoff,
		i.Task != TaskDeleting && i.Task != TaskStopping && e.Power == PowerRunning:
		return 0, false // the operation's own doing
	}
	return settle, true
}

// syncPower compares every instance of the host with what the hypervisor runs.
func (a *Agent) syncPower(ctx context.Context) error {
	before := map[string]uint64{} // generations as they were when the hypervisor was asked
	_ = a.cfg.Store.View(func(v *state.View) error {
		for i := range Instances.By(v, "host", a.cfg.Host.ID) {
			before[i.ID] = i.Generation
		}
		return nil
	})
	domains, err := a.cfg.Hypervisor.List(ctx)
	if err != nil {
		return err
	}
	running := map[string]Domain{}
	for _, d := range domains {
		if d.Ours {
			running[d.ID] = d
		}
	}
	for id, generation := range before {
		power := PowerUnknown
		if d, ok := running[id]; ok {
			power = d.Power
		}
		if err := a.observe(ctx, id, power, generation); err != nil {
			return err
		}
	}
	a.reportOrphans(domains, before)
	return nil
}

// observe records what the hypervisor said of an instance, unless an operation is at it, or has been since the record
// had this generation.
func (a *Agent) observe(ctx context.Context, id string, power PowerState, generation uint64) error {
	look := func(r state.Reader) (i Instance, changed bool) {
		i, err := Instances.Get(r, id)
		if err != nil || i.HostID != a.cfg.Host.ID || i.Task != TaskNone || generation != i.Generation {
			return i, false
		}
		if i.State == StateError || i.State == StateBuilding || len(operation.Open(r, i.object())) > 0 {
			return i, false
		}
		was := i
		i.Power = power
		switch power {
		case PowerRunning:
			i.State, i.Fault = StateActive, ""
		case PowerPaused:
			i.State, i.Fault = StatePaused, ""
		case PowerShutoff:
			i.State, i.Fault = StateStopped, ""
		case PowerCrashed:
			i.State, i.Fault = StateStopped, "the guest crashed"
		case PowerUnknown:
			i.State, i.Fault = StateStopped, "the hypervisor no longer has the domain; starting the instance makes it anew"
		default:
			return i, false
		}
		return i, i.Power != was.Power || i.State != was.State
	}
	changed := false
	_ = a.cfg.Store.View(func(v *state.View) error { _, changed = look(v); return nil })
	if !changed {
		return nil
	}
	err := a.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		i, still := look(tx)
		if !still {
			return nil
		}
		a.cfg.Logger.Info("compute: power state changed by itself", "instance", id, "power", power, "state", i.State)
		i.Generation++
		return Instances.Put(tx, i)
	})
	if err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	return nil
}
