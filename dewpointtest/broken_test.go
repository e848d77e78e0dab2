package dewpointtest_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/dewpointtest"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// change is what a scenario, or a mutation, makes of a process.
type change func(p dewpointtest.Process, cfg *dewpoint.Config)

// prove runs a scenario, which must find nothing, and then the same without the mechanism that prevents the failure that it is
// about: then it must find something.
func prove(t *testing.T, cfg dewpointtest.Config, break_ change) {
	t.Helper()
	for seed := range uint64(2) {
		cfg.Seed = seed
		require.Empty(t, dewpointtest.Simulate(t, cfg), "seed %d", seed)
	}
	whole := cfg.Process
	cfg.Process = func(p dewpointtest.Process, c *dewpoint.Config) {
		if whole != nil {
			whole(p, c)
		}
		break_(p, c)
	}
	cfg.Patience = 2 * time.Minute
	found := dewpointtest.Simulate(t, cfg)
	require.NotEmpty(t, found, "the mechanism was broken, and nobody noticed")
	t.Log("broken:", strings.Join(found, "\n\t"))
}

// slowLog takes a second for each commit, so that two writers decide before either has written.
type slowLog struct{ state.Log }

func (l slowLog) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return l.Log.Commit(ctx, b)
}

func slowly(_ dewpointtest.Process, cfg *dewpoint.Config) { cfg.Log = slowLog{cfg.Log} }

// unguarded is a log that does not keep its first promise.
type unguarded struct{ state.Log }

func (l unguarded) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	b.Guards = nil
	return l.Log.Commit(ctx, b)
}

func withoutGuards(_ dewpointtest.Process, cfg *dewpoint.Config) { cfg.Log = unguarded{cfg.Log} }

// lateLog shows every commit two seconds late.
type lateLog struct{ state.Log }

func (l lateLog) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		for b, err := range l.Log.Follow(ctx, from) {
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
				return
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// unanswered is a log that does its work and does not say so, while lost is set.
type unanswered struct {
	state.Log
	lost *atomic.Bool
}

func (l unanswered) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	rev, err := l.Log.Commit(ctx, b)
	if l.lost.Load() {
		return 0, fmt.Errorf("the answer is lost: %w", state.ErrUnknown)
	}
	return rev, err
}

// forgets is a log that, after a restart, knows nothing of records that begin so.
type forgets struct {
	state.Log
	prefix string
}

func (l forgets) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		for b, err := range l.Log.Follow(ctx, from) {
			if b.Snapshot {
				var kept []state.Op
				for _, op := range b.Ops {
					if !strings.HasPrefix(op.Key, l.prefix) {
						kept = append(kept, op)
					}
				}
				b.Ops = kept
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// keeps is a log that deletes no record that begins so.
type keeps struct {
	state.Log
	prefix string
}

func (l keeps) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	var ops []state.Op
	for _, op := range b.Ops {
		if !op.Delete || !strings.HasPrefix(op.Key, l.prefix) {
			ops = append(ops, op)
		}
	}
	b.Ops = ops
	return l.Log.Commit(ctx, b)
}

// gaps is a log that leaves out batches while skip is set.
type gaps struct {
	state.Log
	skip *atomic.Bool
}

func (l gaps) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		for b, err := range l.Log.Follow(ctx, from) {
			if err == nil && !b.Snapshot && l.skip.Load() {
				b.Ops = nil
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// deaf is a bus on which nobody answers under topics that end so.
type deaf struct {
	queue.Bus
	suffix string
}

func (b deaf) Call(ctx context.Context, m queue.Message) ([]byte, error) {
	if strings.HasSuffix(m.Topic, b.suffix) {
		return nil, queue.ErrNoListener
	}
	return b.Bus.Call(ctx, m)
}

// refuses is a hypervisor that can make no machine.
type refuses struct{ compute.Hypervisor }

var errBadMachine = errors.New("the host has no such firmware")

func (refuses) Create(context.Context, compute.Machine) error { return errBadMachine }

// lies is a hypervisor that says that it has destroyed a machine.
type lies struct{ compute.Hypervisor }

func (lies) Destroy(context.Context, string, uint64) error { return nil }

// purges is a hypervisor whose host is tidied up by somebody who guesses: what is not the host's by its records goes.
type purges struct {
	compute.Hypervisor
	sim  func() *dewpointtest.Sim
	host string
}

func (h purges) List(ctx context.Context) ([]compute.Domain, error) {
	all, err := h.Hypervisor.List(ctx)
	_ = h.sim().View(func(v *state.View) error {
		for _, d := range all {
			if i, err := compute.Instances.Get(v, d.ID); err != nil || i.HostID != h.host {
				_ = h.Destroy(ctx, d.ID, d.Epoch)
			}
		}
		return nil
	})
	return all, err
}

// tidies is a hypervisor on a host where copies of images go that no image on record needs, whoever uses them.
type tidies struct {
	compute.Hypervisor
	sim func() *dewpointtest.Sim

	mu    sync.Mutex
	bases []string
}

func (h *tidies) Create(ctx context.Context, m compute.Machine) error {
	h.mu.Lock()
	for _, d := range m.Disks {
		for _, b := range d.Backing {
			h.bases = append(h.bases, b.Path)
		}
	}
	h.mu.Unlock()
	return h.Hypervisor.Create(ctx, m)
}

func (h *tidies) List(ctx context.Context) ([]compute.Domain, error) {
	wanted := false
	_ = h.sim().View(func(v *state.View) error {
		for range image.Images.All(v) {
			wanted = true
		}
		return nil
	})
	h.mu.Lock()
	if !wanted {
		for _, base := range h.bases {
			_ = os.Remove(base)
		}
	}
	h.mu.Unlock()
	return h.Hypervisor.List(ctx)
}
