package computetest

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// absent is the id of no machine.
const absent = "00000000-dead-4bad-8bad-000000000000"

func destroyRows() []row {
	return []row{
		{
			name: "destroy forgets, from every state",
			rule: "Destroy ends the machine at once and forgets its domain.",
			check: func(ctx context.Context, e *bench) error {
				for state, bring := range map[string]func(id string) error{
					"running": func(string) error { return nil },
					"paused":  func(id string) error { return e.Driver.Pause(ctx, id) },
					"shutoff": func(id string) error { return e.Driver.Stop(ctx, id, 0) },
				} {
					m, err := e.running(ctx)
					if err != nil {
						return err
					}
					if err := all(
						func() error { return bring(m.ID) },
						func() error { return e.Driver.Destroy(ctx, m.ID, m.Epoch) },
						func() error { return e.is(ctx, m.ID, compute.PowerUnknown) },
					); err != nil {
						return fmt.Errorf("from %s: %w", state, err)
					}
				}
				return nil
			},
		},
		{
			name: "destroy again",
			rule: "An unknown id is success.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Destroy(ctx, m.ID, m.Epoch) },
					func() error { return e.Driver.Destroy(ctx, m.ID, m.Epoch) },
					func() error { return e.Driver.Destroy(ctx, absent, 1) },
				)
			},
		},
		{
			name: "destroy another's epoch",
			rule: "A domain whose epoch is not epoch is FailedPrecondition and is not touched",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				for _, epoch := range []uint64{0, m.Epoch - 1, m.Epoch + 1, 1<<64 - 1} {
					if epoch == m.Epoch {
						continue
					}
					if err := class(fmt.Sprint("Destroy of epoch ", epoch), e.Driver.Destroy(ctx, m.ID, epoch), errdefs.ErrFailedPrecondition); err != nil {
						return err
					}
				}
				return e.is(ctx, m.ID, compute.PowerRunning)
			},
		},
		{
			name:  "destroy a foreign domain",
			rule:  "A domain that this library did not make is never touched, whatever its id: FailedPrecondition.",
			needs: func(e Env) bool { return e.Foreign != nil },
			check: func(ctx context.Context, e *bench) error {
				id, remove, err := e.foreign()
				if err != nil {
					return err
				}
				defer remove()
				return all(
					func() error { return class("Destroy", e.Driver.Destroy(ctx, id, 0), errdefs.ErrFailedPrecondition) },
					func() error { return e.isForeign(ctx, id) },
				)
			},
		},
		{
			name: "create after destroy",
			rule: "Destroy ends the machine at once and forgets its domain.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				old := m.Epoch
				m.Epoch++
				return all(
					func() error { return e.Driver.Destroy(ctx, m.ID, old) },
					func() error { return e.Driver.Create(ctx, m) },
					func() error {
						return class("Destroy of the old epoch", e.Driver.Destroy(ctx, m.ID, old), errdefs.ErrFailedPrecondition)
					},
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
				)
			},
		},
	}
}
