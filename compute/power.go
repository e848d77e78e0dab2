package compute

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// settle is how long after an event that came in the middle of an operation the hypervisor is asked again.
const settle = 5 * time.Second

// watchPower keeps the power states in the records true: soon after the hypervisor tells of a change that no operation
// made, and by comparing everything at the start, after each reconnection, and every now and then.
func (a *Agent) watchPower(ctx context.Context) {
	soon, later := make(chan struct{}, 1), make(chan struct{}, 1)
	var comparing atomic.Bool
	var events sync.WaitGroup
	defer events.Wait()
	events.Go(func() {
		for e := range a.cfg.Hypervisor.Events(ctx) {
			when := soon
			switch a.judge(e, comparing.Load()) {
			case ignored:
				continue
			case disputed:
				when = later
			}
			select {
			case when <- struct{}{}:
			default: // it is known that there is something to compare
			}
		}
	})
	regular := time.NewTicker(a.cfg.Sync)
	defer regular.Stop()
	again := time.NewTimer(settle) // after what happened in the middle of operations; nothing has yet
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-later:
			again.Reset(settle)
			continue
		case <-soon:
		case <-again.C:
		case <-regular.C:
		}
		comparing.Store(true)
		busy, err := a.syncPower(ctx)
		comparing.Store(false)
		if err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("compute: power states could not be compared", "error", err)
		}
		if busy {
			again.Reset(settle)
		}
	}
}

// verdict is what to do about an event of the hypervisor.
type verdict int

const (
	ignored  verdict = iota // it tells nothing new
	news                    // compare
	disputed                // compare when the operation that it came in the middle of is likely over
)

// judge says what to do about an event. An event says what was; it is no more than a reason to ask what is. While all is being compared,
// what the record says may be about to change to what the hypervisor said before the event.
func (a *Agent) judge(e PowerEvent, comparing bool) verdict {
	if e.Resync {
		return news
	}
	i, err := a.instance(e.ID)
	if err != nil || i.HostID != a.cfg.Host.ID {
		return ignored // somebody else's; orphans are found in time
	}
	switch i.Task {
	case TaskNone:
		if i.Power == e.Power && !comparing {
			return ignored
		}
		return news
	case TaskDeleting, TaskStopping:
		if e.Power == PowerShutoff {
			return ignored
		}
	default:
		if e.Power == PowerRunning {
			return ignored
		}
	}
	return disputed
}

// syncPower compares every instance of the host with what the hypervisor runs. It returns true if one could not be compared
// because an operation was at it.
func (a *Agent) syncPower(ctx context.Context) (busy bool, err error) {
	before := map[string]uint64{} // generations as they were when the hypervisor was asked
	_ = a.cfg.Store.View(func(v *state.View) error {
		for i := range Instances.By(v, "host", a.cfg.Host.ID) {
			before[i.ID] = i.Generation
		}
		return nil
	})
	domains, err := a.cfg.Hypervisor.List(ctx)
	if err != nil {
		return false, err
	}
	there := map[string]Domain{}
	for _, d := range domains {
		if d.Ours {
			there[d.ID] = d
		}
	}
	for id, generation := range before {
		power := PowerUnknown
		if d, ok := there[id]; ok {
			power = d.Power
		}
		skipped, err := a.observe(ctx, id, power, generation)
		if err != nil {
			return busy, err
		}
		busy = busy || skipped
	}
	a.reportOrphans(domains, before)
	return busy, nil
}

// observe records what the hypervisor said of an instance. If an operation is at it, or has been since the record had this
// generation, what was said may be out of date: it is skipped.
func (a *Agent) observe(ctx context.Context, id string, power PowerState, generation uint64) (skipped bool, err error) {
	look := func(r state.Reader) (i Instance, changed bool) {
		i, err := Instances.Get(r, id)
		if err != nil || i.HostID != a.cfg.Host.ID || i.State == StateError {
			return i, false
		}
		if i.Task != TaskNone || i.Generation != generation || i.State == StateBuilding {
			skipped = i.Task != TaskDeleting // that one is not worth another look
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
		return skipped, nil
	}
	err = a.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		skipped = false
		i, still := look(tx)
		if !still {
			return nil
		}
		a.cfg.Logger.Info("compute: power state changed by itself", "instance", id, "power", power, "state", i.State)
		i.Generation++
		return Instances.Put(tx, i)
	})
	if err != nil {
		return skipped, fmt.Errorf("instance %s: %w", id, err)
	}
	return skipped, nil
}
