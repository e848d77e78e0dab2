package fakecompute

import (
	"context"
	"slices"
	"sync"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// Disks are [compute.Disks] that keep ids and nothing else: the files that they name do not exist. Like a [Host], a value
// outlives the agents that use it. All methods are safe for concurrent use.
type Disks struct {
	mu   sync.Mutex
	have map[string]bool // by instance id
}

var _ compute.Disks = (*Disks)(nil)

// NewDisks returns disks of a host that has none yet.
func NewDisks() *Disks { return &Disks{have: map[string]bool{}} }

// Make implements [compute.Disks].
func (d *Disks) Make(ctx context.Context, i compute.Instance) (compute.Files, error) {
	if err := ctx.Err(); err != nil {
		return compute.Files{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.have[i.ID] = true
	if i.BootVolume != "" {
		return compute.Files{ConsoleLog: "/fake/" + i.ID + "/console"}, nil
	}
	return compute.Files{Disks: []compute.Disk{{Path: "/fake/" + i.ID + "/disk", Format: "raw"}}, ConsoleLog: "/fake/" + i.ID + "/console"}, nil
}

// Remove implements [compute.Disks].
func (d *Disks) Remove(ctx context.Context, instanceID string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.have, instanceID)
	return nil
}

// List implements [compute.Disks]; the ids are sorted.
func (d *Disks) List(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]string, 0, len(d.have))
	for id := range d.have {
		all = append(all, id)
	}
	slices.Sort(all)
	return all, nil
}
