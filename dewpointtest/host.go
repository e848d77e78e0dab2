package dewpointtest

import (
	"fmt"
	"sync"

	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
)

// Host is the pretended hardware of a node, which outlives the node's processes. A test may do to it what people and guests
// do: crash guests, remove domains and taps by hand, inject faults.
type Host struct {
	ID, Name string
	Machines *fakecompute.Host
	Links    *fakenetwork.Node
	Disks    *fakecompute.Disks

	mu   sync.Mutex
	busy map[string]int // calls for a machine that are under way
	off  bool
}

func newHost(seed uint64, number int) *Host {
	return &Host{ID: fmt.Sprintf("%08x-0000-4000-8000-%012x", number+1, seed&0xffffffffffff), Name: fmt.Sprintf("host-%d", number),
		Machines: fakecompute.NewHost(), Links: fakenetwork.NewNode(), Disks: fakecompute.NewDisks(), busy: map[string]int{}}
}

// enter notes that a driver is at a machine; two at once break a promise to it.
func (h *Host) enter(s *Sim, id string) (leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[id]++; h.busy[id] > 1 {
		s.violated("instance %s: two calls of the hypervisor of %s for it at once", id, h.Name)
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.busy[id]--; h.busy[id] == 0 {
			delete(h.busy, id)
		}
	}
}

// lose takes the host's power: guests are off, and taps and bridges, which nothing keeps, are gone.
func (h *Host) lose() {
	h.Machines.Reset()
	d := h.Links.Desired()
	for _, t := range d.Taps {
		h.Links.RemoveTap(t.Name)
	}
	for _, b := range d.Bridges {
		h.Links.RemoveBridge(b.Name)
	}
}

func (h *Host) setOff(off bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.off = off
}

func (h *Host) isOff() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.off
}
