package fakecompute

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Method is a method of [compute.Hypervisor], by name.
type Method string

// The methods that a [Fault] can strike. Events is ruled by [Host.Disconnect] alone.
const (
	MethodDescribe   Method = "Describe"
	MethodCreate     Method = "Create"
	MethodDestroy    Method = "Destroy"
	MethodStart      Method = "Start"
	MethodStop       Method = "Stop"
	MethodReboot     Method = "Reboot"
	MethodPause      Method = "Pause"
	MethodResume     Method = "Resume"
	MethodList       Method = "List"
	MethodConsole    Method = "Console"
	MethodPlugDisk   Method = "PlugDisk"
	MethodUnplugDisk Method = "UnplugDisk"
	MethodGrowDisk   Method = "GrowDisk"
	MethodDisksOf    Method = "DisksOf"
	MethodPrepare    Method = "Prepare"
	MethodMigrate    Method = "Migrate"
	MethodAbort      Method = "Abort"
)

// Fault says which calls go wrong, and how. It is what happens that counts, in this order: the call waits for Delay, then
// while Hang, then it returns Err. A zero Fault strikes every call and does nothing.
type Fault struct {
	Method Method // only this method; empty: any
	ID     string // only calls for this machine; empty: any
	Call   int    // only the n-th of the calls that match since Inject, counted from 1; 0: all of them

	// After makes the fault strike when the call has had its effect: the work is done and the caller does not know. A call
	// that fails by itself is not struck then.
	After bool

	Delay time.Duration // how long the call takes longer
	Hang  bool          // the call waits until the fault is removed, its context ends or the connection is lost
	Err   error         // what the call returns; nil: it goes on
}

// Injected is a fault in force.
type Injected struct {
	host    *Host
	fault   Fault
	matched int
	hits    int
	struck  chan struct{}
	removed chan struct{}
	once    sync.Once
}

// Inject puts a fault in force, for the calls that begin from now on and of all drivers of the host, until it is removed.
// Faults strike in the order of their injection.
func (h *Host) Inject(f Fault) *Injected {
	i := &Injected{host: h, fault: f, struck: make(chan struct{}), removed: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, i)
	return i
}

// Remove ends the fault and lets go on what hangs by it. It may be called more than once.
func (i *Injected) Remove() {
	i.host.mu.Lock()
	defer i.host.mu.Unlock()
	i.host.faults = slices.DeleteFunc(i.host.faults, func(f *Injected) bool { return f == i })
	i.once.Do(func() { close(i.removed) })
}

// Struck is closed when the fault strikes for the first time, before it delays the call.
func (i *Injected) Struck() <-chan struct{} { return i.struck }

// Hits tells how many calls the fault has struck.
func (i *Injected) Hits() int {
	i.host.mu.Lock()
	defer i.host.mu.Unlock()
	return i.hits
}

// Calls tells how many calls of a method have begun since the host was made; of all methods if m is empty.
func (h *Host) Calls(m Method) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for method, calls := range h.calls {
		if m == "" || m == method {
			n += calls
		}
	}
	return n
}

// call is what every method does: its effect, with mu held, between the faults before and after it.
func (h *Host) call(ctx context.Context, m Method, id string, effect func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	h.calls[m]++
	var before, after []*Injected
	for _, i := range h.faults {
		if (i.fault.Method != "" && i.fault.Method != m) || (i.fault.ID != "" && i.fault.ID != id) {
			continue
		}
		if i.matched++; i.fault.Call != 0 && i.fault.Call != i.matched {
			continue
		}
		if i.fault.After {
			after = append(after, i)
		} else {
			before = append(before, i)
		}
	}
	lost := h.lost
	h.mu.Unlock()
	if err := h.strike(ctx, before, lost); err != nil {
		return err
	}
	h.mu.Lock()
	err := errDown
	select {
	case <-h.lost:
	default:
		err = effect()
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.strike(ctx, after, lost)
}

func (h *Host) strike(ctx context.Context, faults []*Injected, lost <-chan struct{}) error {
	for _, i := range faults {
		h.mu.Lock()
		if i.hits++; i.hits == 1 {
			close(i.struck)
		}
		h.mu.Unlock()
		if err := sleep(ctx, i.fault.Delay); err != nil {
			return err
		}
		if i.fault.Hang {
			select {
			case <-i.removed:
			case <-lost:
				return errDown
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if i.fault.Err != nil {
			return i.fault.Err
		}
	}
	return nil
}

var errDown = fmt.Errorf("the hypervisor can't be reached: %w", errdefs.ErrUnavailable)

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
