package compute

import (
	"context"
	"fmt"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// watchPower keeps the power states in the records true: at once when the hypervisor tells of a change, and by
// comparing everything at the start, after each reconnection, and every now and then.
func (a *Agent) watchPower(ctx context.Context) {
	events := make(chan PowerEvent)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range a.cfg.Hypervisor.Events(ctx) {
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { <-ended }()
	ticker := time.NewTicker(a.cfg.Sync)
	defer ticker.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-ended:
			<-ctx.Done() // a driver whose events ended early: the next agent will know
			return
		case <-ticker.C:
			err = a.syncPower(ctx)
		case <-events:
			// An event says what was; the hypervisor is asked what is.
			err = a.syncPower(ctx)
		}
		if err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("compute: power states could not be compared", "error", err)
		}
	}
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
	for _, orphan := range a.orphans(domains) {
		a.cfg.Logger.Warn("compute: a domain that no record names; it is left alone", "domain", orphan.Name, "id", orphan.ID, "epoch", orphan.Epoch, "power", orphan.Power)
	}
	return nil
}

// Orphans returns the domains of the host that this library made and no record names. They are reported and never
// destroyed: a record that is missing may be a store that was lost.
func (a *Agent) Orphans(ctx context.Context) ([]Domain, error) {
	domains, err := a.cfg.Hypervisor.List(ctx)
	if err != nil {
		return nil, err
	}
	return a.orphans(domains), nil
}

func (a *Agent) orphans(domains []Domain) (all []Domain) {
	_ = a.cfg.Store.View(func(v *state.View) error {
		for _, d := range domains {
			if !d.Ours {
				continue
			}
			if i, err := Instances.Get(v, d.ID); err != nil || i.HostID != a.cfg.Host.ID || i.Epoch != d.Epoch {
				all = append(all, d)
			}
		}
		return nil
	})
	return all
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
		was := i.Power
		i.Power = power
		switch power {
		case PowerRunning:
			i.State, i.Fault = StateActive, ""
		case PowerPaused:
			i.State = StatePaused
		case PowerShutoff:
			i.State = StateStopped
		case PowerCrashed:
			i.State, i.Fault = StateStopped, "the guest crashed"
		case PowerUnknown:
			i.State, i.Fault = StateStopped, "the hypervisor no longer has the domain; starting the instance makes it anew"
		default:
			return i, false
		}
		return i, was != power
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
