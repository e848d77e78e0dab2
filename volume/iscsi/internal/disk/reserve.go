package disk

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
)

// Service actions of PERSISTENT RESERVE IN and OUT.
const (
	inReadKeys        = 0
	inReadReservation = 1
	inCapabilities    = 2
	inFullStatus      = 3

	outRegister       = 0
	outReserve        = 1
	outRelease        = 2
	outClear          = 3
	outPreempt        = 4
	outPreemptAbort   = 5
	outRegisterIgnore = 6
)

// Types of persistent reservations.
const (
	writeExclusive     = 1
	exclusiveAccess    = 3
	writeExclusiveReg  = 5 // registrants only
	exclusiveAccessReg = 6
	writeExclusiveAll  = 7 // all registrants
	exclusiveAccessAll = 8
)

// reservations is who has kept others out: at most one of the two kinds at a time. They are lost with the process, and
// PERSISTENT RESERVE IN says so.
type reservations struct {
	simple     *Nexus            // who holds a RESERVE
	keys       map[string]uint64 // of the registered nexuses, by name
	kind       byte              // of the persistent reservation; 0: there is none
	holder     string            // who has made it; it is one of keys
	generation uint32
}

// guard keeps the flag that lets most commands pass without a lock. The unit is locked.
func (u *Unit) guard() { u.guarded.Store(u.reserve.simple != nil || u.reserve.kind != 0) }

func (r *reservations) all() bool { return r.kind == writeExclusiveAll || r.kind == exclusiveAccessAll }

func (r *reservations) holds(name string) bool {
	_, registered := r.keys[name]
	return r.kind != 0 && (r.holder == name || r.all() && registered)
}

// Allowed tells whether reservations of others let a command pass. It is asked again right before data is written.
func (u *Unit) Allowed(n *Nexus, cdb []byte) *Failure {
	if !u.guarded.Load() {
		return nil
	}
	c, _ := find(cdb)
	if c == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.reserve
	if r.simple != nil && r.simple != n {
		switch c.op {
		case opInquiry, opReportLUNs, opRequestSense, opRelease6, opRelease10, opReserveIn:
			return nil
		}
		return conflict()
	}
	if r.kind == 0 || r.holds(n.name) || c.access == never {
		return nil
	}
	_, registered := r.keys[n.name]
	open := c.access == reads
	switch r.kind {
	case writeExclusive:
	case exclusiveAccess:
		open = false
	case writeExclusiveReg, writeExclusiveAll:
		open = open || registered
	case exclusiveAccessReg, exclusiveAccessAll:
		open = registered
	}
	if c.op == opStartStop && cdb[4]&0xf1 == 1 { // starting harms nobody
		open = true
	}
	if open {
		return nil
	}
	return conflict()
}

// reserveSimple does RESERVE, and release RELEASE.
func (u *Unit) reserveSimple(n *Nexus, cdb []byte) *Failure {
	if cdb[1]&0x1f != 0 { // parts and third parties
		return invalidField()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.reserve.keys) > 0 || u.reserve.simple != nil && u.reserve.simple != n {
		return conflict()
	}
	u.reserve.simple = n
	u.guard()
	return nil
}

func (u *Unit) releaseSimple(n *Nexus) *Failure {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.reserve.keys) > 0 {
		return conflict()
	}
	if u.reserve.simple == n {
		u.reserve.simple = nil
		u.guard()
	}
	return nil
}

// reserveIn answers PERSISTENT RESERVE IN.
func (u *Unit) reserveIn(cdb []byte) ([]byte, *Failure) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.reserve
	b := binary.BigEndian.AppendUint32(nil, r.generation)
	b = append(b, 0, 0, 0, 0)
	names := slices.Sorted(maps.Keys(r.keys))
	switch cdb[1] & 0x1f {
	case inReadKeys:
		for _, name := range names {
			b = binary.BigEndian.AppendUint64(b, r.keys[name])
		}
	case inReadReservation:
		if r.kind != 0 {
			var key uint64
			if !r.all() {
				key = r.keys[r.holder]
			}
			b = binary.BigEndian.AppendUint64(b, key)
			b = append(b, 0, 0, 0, 0, 0, r.kind, 0, 0)
		}
	case inCapabilities:
		// Compatible with RESERVE it is not; the mask of types is valid.
		return []byte{0, 8, 0, 0x80, 0xea, 0x01, 0, 0}, nil
	case inFullStatus:
		for _, name := range names {
			id := transportID(name)
			b = binary.BigEndian.AppendUint64(b, r.keys[name])
			var line [16]byte
			if r.holds(name) {
				line[4], line[5] = 1, r.kind
			}
			line[11] = 1 // the relative port
			binary.BigEndian.PutUint32(line[12:], uint32(len(id)))
			b = append(b, line[:]...)
			b = append(b, id...)
		}
	default:
		return nil, invalidField()
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-8))
	return b, nil
}

// transportID is the name of an initiator's port in the form of SPC-4 section 7.6.4.6.
func transportID(name string) []byte {
	text := append([]byte(name), 0)
	for len(text)%4 != 0 || len(text) < 20 {
		text = append(text, 0)
	}
	b := []byte{0x45, 0, 0, 0}
	if !strings.Contains(name, ",i,0x") {
		b[0] = 0x05
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(text)))
	return append(b, text...)
}

// reserveOut does PERSISTENT RESERVE OUT.
func (u *Unit) reserveOut(n *Nexus, cdb, out []byte) *Failure {
	if binary.BigEndian.Uint32(cdb[5:]) != 24 || len(out) < 24 {
		return check(illegalRequest, ascParameterLength)
	}
	if out[20]&0x0d != 0 { // other ports, all ports, what outlives a loss of power
		return check(illegalRequest, ascInvalidParameter)
	}
	action, kind := cdb[1]&0x1f, cdb[2]&0x0f
	key, next := binary.BigEndian.Uint64(out), binary.BigEndian.Uint64(out[8:])
	switch action {
	case outReserve, outRelease, outPreempt, outPreemptAbort:
		if cdb[2]&0xf0 != 0 {
			return invalidField()
		}
	}

	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard()
	r := &u.reserve
	if r.simple != nil && r.simple != n {
		return conflict()
	}
	mine, registered := r.keys[n.name]
	if action == outRegister || action == outRegisterIgnore {
		return u.register(n, action == outRegisterIgnore, key, next)
	}
	if !registered || mine != key {
		return conflict()
	}
	valid := kind == writeExclusive || kind == exclusiveAccess || kind >= writeExclusiveReg && kind <= exclusiveAccessAll
	switch action {
	case outReserve:
		if !valid {
			return invalidField()
		}
		if r.kind != 0 {
			if !r.holds(n.name) || r.kind != kind {
				return conflict()
			}
			return nil
		}
		r.kind, r.holder = kind, n.name
	case outRelease:
		if r.kind == 0 || !r.holds(n.name) {
			return nil
		}
		if r.kind != kind {
			return check(illegalRequest, ascInvalidRelease)
		}
		u.released(n)
	case outClear:
		r.generation++
		for other := range u.nexuses {
			if _, ok := r.keys[other.name]; ok && other != n {
				other.attend(ascReservationsPreempted)
			}
		}
		clear(r.keys)
		r.kind, r.holder = 0, ""
	case outPreempt, outPreemptAbort:
		if !valid {
			return invalidField()
		}
		return u.preempt(n, kind, next, action == outPreemptAbort)
	}
	return nil
}

// register adds, changes and removes the key of a nexus. The unit is locked.
func (u *Unit) register(n *Nexus, ignore bool, key, next uint64) *Failure {
	r := &u.reserve
	mine, registered := r.keys[n.name]
	if !ignore && mine != key { // without a key it is 0
		return conflict()
	}
	if next == 0 {
		if registered {
			r.generation++
			u.unregister(n.name, n)
		}
		return nil
	}
	if !registered && len(r.keys) >= 256 {
		return check(illegalRequest, ascRegistrationResources)
	}
	r.generation++
	r.keys[n.name] = next
	return nil
}

// unregister removes a key, and the reservation with it if it was the holder's.
func (u *Unit) unregister(name string, by *Nexus) {
	r := &u.reserve
	delete(r.keys, name)
	if r.kind == 0 || r.holder != name {
		return
	}
	if r.all() && len(r.keys) > 0 {
		r.holder = slices.Min(slices.Collect(maps.Keys(r.keys)))
		return
	}
	u.released(by)
}

// released ends the reservation. Where only registrants were let in, they learn of it.
func (u *Unit) released(by *Nexus) {
	r := &u.reserve
	tell := r.kind >= writeExclusiveReg
	r.kind, r.holder = 0, ""
	if !tell {
		return
	}
	for other := range u.nexuses {
		if _, ok := r.keys[other.name]; ok && other != by {
			other.attend(ascReservationsReleased)
		}
	}
}

// preempt takes registrations and the reservation away from others. The unit is locked.
func (u *Unit) preempt(n *Nexus, kind byte, victim uint64, abort bool) *Failure {
	r := &u.reserve
	takes := false // the reservation too
	switch {
	case r.kind == 0:
	case r.all():
		takes = victim == 0
	default:
		takes = victim == r.keys[r.holder]
	}
	if victim == 0 && !(r.kind != 0 && r.all()) {
		return check(illegalRequest, ascInvalidParameter)
	}
	gone := map[string]bool{}
	for name, key := range r.keys {
		if (key == victim || victim == 0) && name != n.name {
			gone[name] = true
		}
	}
	if len(gone) == 0 && !takes {
		return conflict()
	}
	r.generation++
	changed := takes && r.kind != kind
	if takes {
		r.kind, r.holder = kind, n.name
	}
	for name := range gone {
		delete(r.keys, name)
		if r.kind != 0 && r.holder == name { // of all registrants, and some are left
			r.holder = n.name
		}
	}
	for other := range u.nexuses {
		_, registered := r.keys[other.name]
		switch {
		case gone[other.name]:
			other.attend(ascRegistrationsGone)
			if abort && other.aborts != nil {
				other.aborts()
			}
		case changed && registered && other != n:
			other.attend(ascReservationsReleased)
		}
	}
	return nil
}
