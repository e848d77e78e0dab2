package computetest

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

func powerRows() []row {
	return []row{
		{
			name: "start",
			rule: "Start starts a domain that is shut off. One that runs already is success; one that is paused is FailedPrecondition.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.stopped(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Start(ctx, m.ID) },
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
					func() error { return e.Driver.Start(ctx, m.ID) },
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error {
						return class("Start of a paused one", e.Driver.Start(ctx, m.ID), errdefs.ErrFailedPrecondition)
					},
					func() error { return e.is(ctx, m.ID, compute.PowerPaused) },
				)
			},
		},
		{
			name: "stop at once",
			rule: "With grace 0 it takes the power away at once",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
				)
			},
		},
		{
			name: "stop after grace",
			rule: "Stop asks the guest to power off and waits for it up to grace, then takes the power away.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				if e.Deaf != nil {
					err = e.Deaf(m.ID)
				}
				if err != nil {
					return fmt.Errorf("making it deaf: %w", err)
				}
				return all(
					func() error { return e.Driver.Stop(ctx, m.ID, 100*time.Millisecond) },
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
				)
			},
		},
		{
			name:  "stop lets the guest end",
			rule:  "Stop asks the guest to power off and waits for it up to grace, then takes the power away.",
			needs: func(e Env) bool { return e.Banner != "" },
			check: func(ctx context.Context, e *bench) error {
				m, err := e.ready(ctx)
				if err != nil {
					return err
				}
				start, grace := time.Now(), 3*e.Patience
				return all(
					func() error { return e.Driver.Stop(ctx, m.ID, grace) },
					func() error {
						if took := time.Since(start); took >= grace {
							return fmt.Errorf("the guest was not asked: Stop took %v of %v", took, grace)
						}
						return e.is(ctx, m.ID, compute.PowerShutoff)
					},
				)
			},
		},
		{
			name: "stop a paused one",
			rule: "so it does when the machine is paused, for its guest can't answer",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				start := time.Now()
				return all(
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error { return e.Driver.Stop(ctx, m.ID, 10*e.Patience) },
					func() error {
						if took := time.Since(start); took > 5*e.Patience {
							return fmt.Errorf("it was waited for: Stop took %v", took)
						}
						return e.is(ctx, m.ID, compute.PowerShutoff)
					},
				)
			},
		},
		{
			name: "stop again",
			rule: "The domain is kept, shut off. One that is shut off already is success.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.stopped(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.Driver.Stop(ctx, m.ID, e.Patience) },
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
				)
			},
		},
		{
			name: "pause",
			rule: "Pause halts the processors of a running machine. One that is paused already is success; one that is shut off is FailedPrecondition.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error { return e.is(ctx, m.ID, compute.PowerPaused) },
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error { return e.is(ctx, m.ID, compute.PowerPaused) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return class("Pause", e.Driver.Pause(ctx, m.ID), errdefs.ErrFailedPrecondition) },
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
				)
			},
		},
		{
			name: "resume",
			rule: "Resume lets a paused machine go on. One that runs already is success; one that is shut off is FailedPrecondition.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Resume(ctx, m.ID) },
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error { return e.Driver.Resume(ctx, m.ID) },
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return class("Resume", e.Driver.Resume(ctx, m.ID), errdefs.ErrFailedPrecondition) },
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
				)
			},
		},
		{
			name:  "a crash",
			rule:  "A machine that crashed is shut off in all respects; only [Domain.Power] and the event tell the difference.",
			needs: func(e Env) bool { return e.Crash != nil },
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Crash(m.ID) },
					func() error { return e.becomes(ctx, m.ID, compute.PowerCrashed) },
					func() error { return class("Pause", e.Driver.Pause(ctx, m.ID), errdefs.ErrFailedPrecondition) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.Driver.Start(ctx, m.ID) },
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
				)
			},
		},
	}
}

func rebootRows() []row {
	return []row{
		{
			name:  "reboot soft",
			rule:  "Reboot restarts a running machine: soft asks the guest and returns at once, hard resets the processor as a reset button does.",
			check: func(ctx context.Context, e *bench) error { return e.reboots(ctx, false) },
		},
		{
			name:  "reboot hard",
			rule:  "Reboot restarts a running machine: soft asks the guest and returns at once, hard resets the processor as a reset button does.",
			check: func(ctx context.Context, e *bench) error { return e.reboots(ctx, true) },
		},
		{
			name: "reboot what does not run",
			rule: "A domain that does not run, or is paused, is FailedPrecondition.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				refused := func(hard bool) func() error {
					return func() error { return class("Reboot", e.Driver.Reboot(ctx, m.ID, hard), errdefs.ErrFailedPrecondition) }
				}
				return all(
					func() error { return e.Driver.Pause(ctx, m.ID) },
					refused(false), refused(true),
					func() error { return e.is(ctx, m.ID, compute.PowerPaused) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					refused(false), refused(true),
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
				)
			},
		},
	}
}

func (e *bench) reboots(ctx context.Context, hard bool) error {
	m, err := e.ready(ctx)
	if err != nil {
		return err
	}
	return all(
		func() error { return e.Driver.Reboot(ctx, m.ID, hard) },
		func() error { return e.booted(ctx, m.ID, 2) },
		func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
	)
}

// becomes waits until id has the power state want.
func (e *bench) becomes(ctx context.Context, id string, want compute.PowerState) error {
	return e.wait(ctx, func() error { return e.is(ctx, id, want) })
}

// wait repeats f until it succeeds, for as long as a guest may take.
func (e *bench) wait(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, e.Patience)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %v: %w", e.Patience, err)
		case <-time.After(e.Patience / 100):
		}
	}
}
