package fakenetwork

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Method is a method of [network.Manager], by name.
type Method string

// The methods that a [Fault] can strike.
const (
	MethodApply       Method = "Apply"
	MethodPlug        Method = "Plug"
	MethodUnplug      Method = "Unplug"
	MethodSetFloating Method = "SetFloating"
	MethodSetGroups   Method = "SetGroups"
	MethodInspect     Method = "Inspect"
)

// Fault says which calls go wrong, and how. It is what happens that counts, in this order: the call waits for Delay, then
// while Hang, then it returns Err. A zero Fault strikes every call and does nothing.
type Fault struct {
	Method Method // only this method; empty: any
	Tap    string // only calls of Plug and Unplug for this tap; empty: any
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
	node    *Node
	fault   Fault
	matched int
	hits    int
	struck  chan struct{}
	removed chan struct{}
	once    sync.Once
}

// Inject puts a fault in force, for the calls that begin from now on and of all managers of the node, until it is removed.
// Faults strike in the order of their injection.
func (n *Node) Inject(f Fault) *Injected {
	i := &Injected{node: n, fault: f, struck: make(chan struct{}), removed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = append(n.faults, i)
	return i
}

// Remove ends the fault and lets go on what hangs by it. It may be called more than once.
func (i *Injected) Remove() {
	i.node.mu.Lock()
	defer i.node.mu.Unlock()
	i.node.faults = slices.DeleteFunc(i.node.faults, func(f *Injected) bool { return f == i })
	i.once.Do(func() { close(i.removed) })
}

// Struck is closed when the fault strikes for the first time, before it delays the call.
func (i *Injected) Struck() <-chan struct{} { return i.struck }

// Hits tells how many calls the fault has struck.
func (i *Injected) Hits() int {
	i.node.mu.Lock()
	defer i.node.mu.Unlock()
	return i.hits
}

// Calls tells how many calls of a method have begun since the node was made; of all methods if m is empty.
func (n *Node) Calls(m Method) (calls int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for method, count := range n.calls {
		if m == "" || m == method {
			calls += count
		}
	}
	return calls
}

// call is what every method does: its effect, with mu held, between the faults before and after it.
func (n *Node) call(ctx context.Context, m Method, tap string, effect func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	n.calls[m]++
	var before, after []*Injected
	for _, i := range n.faults {
		if (i.fault.Method != "" && i.fault.Method != m) || (i.fault.Tap != "" && i.fault.Tap != tap) {
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
	n.mu.Unlock()
	if err := n.strike(ctx, before); err != nil {
		return err
	}
	n.mu.Lock()
	err := effect()
	n.mu.Unlock()
	if err != nil {
		return err
	}
	return n.strike(ctx, after)
}

func (n *Node) strike(ctx context.Context, faults []*Injected) error {
	for _, i := range faults {
		n.mu.Lock()
		if i.hits++; i.hits == 1 {
			close(i.struck)
		}
		n.mu.Unlock()
		if err := sleep(ctx, i.fault.Delay); err != nil {
			return err
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
