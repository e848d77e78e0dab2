package disk

import (
	"sync/atomic"
)

// Nexus is the tie between one initiator's port and a unit: it lives as long as a session, and its name is the same for the
// next session of that port.
type Nexus struct {
	name    string
	unit    *Unit
	aborts  func()      // has all that the initiator had begun aborted
	pending atomic.Bool // due is not empty
	dues    []uint16    // unit attentions, oldest first; under the unit's lock
}

// Attach makes a nexus. The transport detaches it. abort is called when another initiator has what this one had begun ended: it
// must return at once.
func (u *Unit) Attach(name string, abort func()) *Nexus {
	n := &Nexus{name: name, unit: u, aborts: abort}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.nexuses[n] = struct{}{}
	return n
}

// Detach forgets a nexus, and a RESERVE that it held; a registration stays.
func (u *Unit) Detach(n *Nexus) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.nexuses, n)
	if u.reserve.simple == n {
		u.reserve.simple = nil
		u.guard()
	}
}

// Attached is how many nexuses there are.
func (u *Unit) Attached() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.nexuses)
}

// attend has all nexuses but one find a unit attention.
func (u *Unit) attend(but *Nexus, asc uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for n := range u.nexuses {
		if n != but {
			n.attend(asc)
		}
	}
}

// attend adds a unit attention. The unit is locked.
func (n *Nexus) attend(asc uint16) {
	for _, other := range n.dues {
		if other == asc {
			return
		}
	}
	n.dues = append(n.dues, asc)
	n.pending.Store(true)
}

// due takes the oldest unit attention.
func (n *Nexus) due() *Failure {
	if !n.pending.Load() {
		return nil
	}
	n.unit.mu.Lock()
	defer n.unit.mu.Unlock()
	if len(n.dues) == 0 {
		return nil
	}
	asc := n.dues[0]
	n.dues = n.dues[1:]
	n.pending.Store(len(n.dues) > 0)
	return check(unitAttention, asc)
}

// Reset is what a unit remembers being forgotten: a RESERVE, what MODE SELECT changed. All but the nexus that asked learn of it; registrations
// stay. The transport has ended all commands before.
func (u *Unit) Reset(by *Nexus) {
	u.mu.Lock()
	u.reserve.simple = nil
	u.guard()
	u.mu.Unlock()
	u.protected.Store(false)
	u.descriptors.Store(false)
	u.attend(by, ascReset)
}

// Cleared has all but the nexus that asked learn that their commands were ended.
func (u *Unit) Cleared(by *Nexus) { u.attend(by, ascCleared) }
