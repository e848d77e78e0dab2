package computetest

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

func createRows() []row {
	return []row{
		{
			name: "create runs",
			rule: "Create makes the domain and starts it, and returns when it runs.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				d, err := e.domain(ctx, m.ID)
				if err != nil {
					return err
				}
				if !d.Ours || d.Epoch != m.Epoch || d.Power != compute.PowerRunning || d.Name == "" {
					return fmt.Errorf("after Create of epoch %d, List says %+v", m.Epoch, d)
				}
				return nil
			},
		},
		{
			name: "create refuses a bad machine",
			rule: "What [Machine.Validate] refuses is InvalidArgument.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.machine()
				if err != nil {
					return err
				}
				m.VCPUs = 0
				return all(
					func() error {
						return class("Create without VCPUs", e.Driver.Create(ctx, m), errdefs.ErrInvalidArgument)
					},
					func() error { return e.is(ctx, m.ID, compute.PowerUnknown) },
				)
			},
		},
		{
			name: "create again while it runs",
			rule: "if a domain with m's id and epoch runs already, it returns nil",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Create(ctx, m) },
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
				)
			},
		},
		{
			name: "create again while it is paused",
			rule: "if that domain is paused, it resumes",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error { return e.Driver.Create(ctx, m) },
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
				)
			},
		},
		{
			name: "create again when it is off",
			rule: "if it is shut off (an earlier Create was cut short), it gets m's parts and starts",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.stopped(ctx)
				if err != nil {
					return err
				}
				m.ConsoleLog = filepath.Join(e.Dir, m.ID+".second")
				return all(
					func() error { return e.Driver.Create(ctx, m) },
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
					func() error { return e.booted(ctx, m.ID, 1) },
				)
			},
		},
		{
			name: "create with another epoch",
			rule: "A domain with the same id and another epoch, or one that this library did not make, is AlreadyExists and is not touched.",
			check: func(ctx context.Context, e *bench) error {
				for _, stop := range []bool{false, true} {
					m, err := e.running(ctx)
					if err != nil {
						return err
					}
					want, again := compute.PowerRunning, m
					if stop {
						want = compute.PowerShutoff
						if err := e.Driver.Stop(ctx, m.ID, 0); err != nil {
							return err
						}
					}
					for _, again.Epoch = range []uint64{m.Epoch + 1, m.Epoch - 1, 1<<64 - 1} {
						if err := class("Create with another epoch", e.Driver.Create(ctx, again), errdefs.ErrAlreadyExists); err != nil {
							return err
						}
					}
					if d, err := e.domain(ctx, m.ID); err != nil || d.Power != want || d.Epoch != m.Epoch {
						return fmt.Errorf("it was touched: %+v, want epoch %d, %s (error %v)", d, m.Epoch, want, err)
					}
				}
				return nil
			},
		},
		{
			name:  "create where a foreign domain is",
			rule:  "A domain with the same id and another epoch, or one that this library did not make, is AlreadyExists and is not touched.",
			needs: func(e Env) bool { return e.Foreign != nil },
			check: func(ctx context.Context, e *bench) error {
				id, remove, err := e.foreign()
				if err != nil {
					return err
				}
				defer remove()
				m, err := e.Machine()
				if err != nil {
					return err
				}
				m.ID = id
				return all(
					func() error { return class("Create", e.Driver.Create(ctx, m), errdefs.ErrAlreadyExists) },
					func() error { return e.isForeign(ctx, id) },
				)
			},
		},
		{
			name: "create many at once",
			rule: "All methods are safe for concurrent use",
			check: func(ctx context.Context, e *bench) error {
				const n = 4
				var group sync.WaitGroup
				errs := make(chan error, n)
				for range n {
					m, err := e.machine()
					if err != nil {
						return err
					}
					group.Go(func() {
						errs <- all(
							func() error { return e.Driver.Create(ctx, m) },
							func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
							func() error { return e.Driver.Destroy(ctx, m.ID, m.Epoch) },
							func() error { return e.is(ctx, m.ID, compute.PowerUnknown) },
						)
					})
				}
				group.Wait()
				for range n {
					if err := <-errs; err != nil {
						return err
					}
				}
				return nil
			},
		},
	}
}

// isForeign checks that the foreign domain still runs and is not taken for ours.
func (e *bench) isForeign(ctx context.Context, id string) error {
	d, err := e.domain(ctx, id)
	if err == nil && (d.Ours || d.Epoch != 0 || d.Power != compute.PowerRunning) {
		err = fmt.Errorf("a running foreign domain is listed as %+v", d)
	}
	return err
}
