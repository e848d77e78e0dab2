package volume

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Host is a machine with a driver, as its agent last described it. Its id is that of the machine, the same as in
// [scheduler.Hosts] if that runs instances too: one that is disabled there gets no new volumes.
type Host struct {
	ID       string
	Name     string
	TotalGiB int
	FreeGiB  int // what the driver could give away
	// KnownGiB is the size of what both the driver and the records had then: what has been recorded since comes off FreeGiB.
	KnownGiB int
}

// BeatID is the id under which the agent of a host's volumes gives its signs of life, in [scheduler.Beats]: another agent may give those of the host.
func BeatID(hostID string) string { return "volume/" + hostID }

// free returns what the host can still be given.
func (h Host) free(r state.Reader) int {
	used := VolumeHostUse.Get(r, h.ID).Plus(SnapshotHostUse.Get(r, h.ID))
	return h.FreeGiB - (used.GiB - h.KnownGiB)
}

// place returns the host with the most room, if there is one with enough. Its use is guarded: of two writers that both
// take the last room, one looks again.
func place(tx *state.Tx, members *scheduler.Members, sizeGiB int) (string, error) {
	r := tx.Unguarded()
	var best Host
	room, hosts, down, wrong, disabled := 0, 0, 0, 0, 0
	for h := range Hosts.All(r) {
		hosts++
		switch life := members.Look(r, BeatID(h.ID)); {
		case !life.Up():
			down++
			continue
		case life.WrongClock():
			wrong++
			continue
		}
		if s, err := scheduler.Hosts.Get(r, h.ID); err == nil && s.Disabled {
			disabled++
			continue
		}
		if free := h.free(r); free > room {
			best, room = h, free
		}
	}
	if room < sizeGiB || room == 0 {
		return "", fmt.Errorf("volume: no host has room for %d GiB: of %d with volumes %d are down, %d have a wrong clock and %d are disabled, and the others have at most %d GiB free: %w",
			sizeGiB, hosts, down, wrong, disabled, max(0, room), errdefs.ErrResourceExhausted)
	}
	best.free(tx)
	return best.ID, nil
}

// placeOn checks that a host, which it must be, has room.
func placeOn(tx *state.Tx, hostID string, sizeGiB int) error {
	h, err := Hosts.Get(tx.Unguarded(), hostID)
	if err != nil {
		return fmt.Errorf("volume: host %s is not known: %w", hostID, errdefs.ErrUnavailable)
	}
	if free := h.free(tx); sizeGiB > free {
		return fmt.Errorf("volume: host %s has no room for %d GiB more, %d are free: %w", h.Name, sizeGiB, max(0, free), errdefs.ErrResourceExhausted)
	}
	return nil
}
