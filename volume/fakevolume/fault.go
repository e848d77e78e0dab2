package fakevolume

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Method is a method of volume.Driver, by name.
type Method string

// The methods that a [Fault] can strike.
const (
	MethodCreate         Method = "Create"
	MethodClone          Method = "Clone"
	MethodImport         Method = "Import"
	MethodExtend         Method = "Extend"
	MethodDelete         Method = "Delete"
	MethodSnapshot       Method = "Snapshot"
	MethodDeleteSnapshot Method = "DeleteSnapshot"
	MethodPath           Method = "Path"
	MethodList           Method = "List"
	MethodStats          Method = "Stats"
)

// Fault says which calls go wrong, and how. It is what happens that counts, in this order: the call waits for Delay, then
// while Hang, then it returns Err. A zero Fault strikes every call and does nothing.
type Fault struct {
	Method Method // only this method; empty: any
	ID     string // only calls whose first id is this, the volume or snapshot that is made or changed; empty: any
	Call   int    // only the n-th of the calls that match since Inject, counted from 1; 0: all of them

	// After makes the fault strike when the call has had its effect: the work is done and the caller does not know. A call
	// that fails by itself is not struck then.
	After bool

	Delay time.Duration // how long the call takes longer
	Hang  bool          // the call waits until the fault is removed or its context ends
	Err   error         // what the call returns; nil: it goes on
}

// Injected is a fault in force.
type Injected struct {
	driver  *Driver
	fault   Fault
	matched int
	hits    int
	struck  chan struct{}
	removed chan struct{}
	once    sync.Once
}

// Inject puts a fault in force, for the calls that begin from now on, until it is removed. Faults strike in the order of their
// injection.
func (d *Driver) Inject(f Fault) *Injected {
	i := &Injected{driver: d, fault: f, struck: make(chan struct{}), removed: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = append(d.faults, i)
	return i
}

// Remove ends the fault and lets go on what hangs by it. It may be called more than once.
func (i *Injected) Remove() {
	i.driver.mu.Lock()
	defer i.driver.mu.Unlock()
	i.driver.faults = slices.DeleteFunc(i.driver.faults, func(f *Injected) bool { return f == i })
	i.once.Do(func() { close(i.removed) })
}

// Struck is closed when the fault strikes for the first time, before it delays the call.
func (i *Injected) Struck() <-chan struct{} { return i.struck }

// Hits tells how many calls the fault has struck.
func (i *Injected) Hits() int {
	i.driver.mu.Lock()
	defer i.driver.mu.Unlock()
	return i.hits
}

// Calls tells how many calls of a method have begun since New; of all methods if m is empty.
func (d *Driver) Calls(m Method) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for method, calls := range d.calls {
		if m == "" || m == method {
			n += calls
		}
	}
	return n
}

// call is what every method does: its effect, with mu held, between the faults before and after it.
func (d *Driver) call(ctx context.Context, m Method, effect func() error, ids ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, id := range ids {
		if err := check(id); err != nil {
			return err
		}
	}
	before, after := d.match(m, ids)
	if err := d.strike(ctx, before); err != nil {
		return err
	}
	d.mu.Lock()
	err := effect()
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return d.strike(ctx, after)
}

// match counts a call and returns the faults that strike it.
func (d *Driver) match(m Method, ids []string) (before, after []*Injected) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[m]++
	for _, i := range d.faults {
		if (i.fault.Method != "" && i.fault.Method != m) || (i.fault.ID != "" && (len(ids) == 0 || i.fault.ID != ids[0])) {
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
	return before, after
}

func (d *Driver) strike(ctx context.Context, faults []*Injected) error {
	for _, i := range faults {
		d.mu.Lock()
		if i.hits++; i.hits == 1 {
			close(i.struck)
		}
		d.mu.Unlock()
		if i.fault.Delay > 0 {
			timer := time.NewTimer(i.fault.Delay)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		if i.fault.Hang {
			select {
			case <-i.removed:
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
