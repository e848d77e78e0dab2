package compute

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// register makes the host known, with what it has, and this run of its agent the only one.
func (a *Agent) register(ctx context.Context, run string) error {
	h := a.cfg.Host
	if h.Zone == "" {
		h.Zone = "nova"
	}
	if h.Total == (scheduler.Resources{}) {
		info, err := a.describe(ctx)
		if err != nil {
			return fmt.Errorf("compute: host %s: %w", h.Name, err)
		}
		h.Total = scheduler.Resources{VCPUs: info.VCPUs, MemoryMiB: info.MemoryMiB, DiskGiB: a.cfg.DiskGiB}
	}
	return a.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if known, err := scheduler.Hosts.Get(tx, h.ID); err == nil {
			h.Disabled, h.Reason = known.Disabled, known.Reason // an operator's word outlives the agent
		}
		if err := scheduler.Hosts.Put(tx, h); err != nil {
			return fmt.Errorf("compute: host %s: %w", h.Name, err)
		}
		return scheduler.Beats.Put(tx, scheduler.Beat{HostID: h.ID, At: time.Now().UTC(), Run: run, Every: a.cfg.Heartbeat})
	})
}

// describe asks the hypervisor what the host has. One that can't be reached, as when both have just started, is waited for.
func (a *Agent) describe(ctx context.Context) (HostInfo, error) {
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 30*time.Second) {
		info, err := a.cfg.Hypervisor.Describe(ctx)
		if !errdefs.IsUnavailable(err) {
			return info, err
		}
		a.cfg.Logger.Warn("compute: waiting for the hypervisor", "error", err, "again in", wait)
		select {
		case <-ctx.Done():
			return info, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// beat records that the host is alive. It is Aborted if another agent has taken the host over.
func (a *Agent) beat(ctx context.Context, run string) error {
	return a.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if last, err := scheduler.Beats.Get(tx, a.cfg.Host.ID); err == nil && last.Run != "" && last.Run != run {
			return fmt.Errorf("compute: another agent has taken the host %s (%s) over: %w", a.cfg.Host.Name, a.cfg.Host.ID, errdefs.ErrAborted)
		}
		return scheduler.Beats.Put(tx, scheduler.Beat{HostID: a.cfg.Host.ID, At: time.Now().UTC(), Run: run, Every: a.cfg.Heartbeat})
	})
}
