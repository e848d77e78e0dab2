package volumetest

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

func listRows() []row {
	return []row{
		{
			name: "path",
			rule: "Path returns the file or device on this host through which the volume is read and written",
			check: func(ctx context.Context, e *rig) error {
				a, err := e.written(ctx, "a")
				if err != nil {
					return err
				}
				b, err := e.written(ctx, "b")
				if err != nil {
					return err
				}
				return steps(
					func() error { return e.holds(ctx, a, "a", 1, 1) },
					func() error { return e.holds(ctx, b, "b", 1, 1) },
				)
			},
		},
		{
			name: "list",
			rule: "List returns what there is, in no order.",
			check: func(ctx context.Context, e *rig) error {
				before, err := e.Driver.List(ctx)
				if err != nil {
					return err
				}
				a, err := e.created(ctx, 1)
				if err != nil {
					return err
				}
				b, err := e.created(ctx, 2)
				if err != nil {
					return err
				}
				s, err := e.snapshot(ctx, a)
				if err != nil {
					return err
				}
				after, err := e.Driver.List(ctx)
				if err != nil {
					return err
				}
				after = slices.DeleteFunc(after, func(i volume.Info) bool { return slices.Contains(before, i) })
				want := map[volume.Info]bool{{ID: a, SizeGiB: 1}: true, {ID: b, SizeGiB: 2}: true, {ID: s, SizeGiB: 1, Of: a}: true}
				for _, i := range after {
					delete(want, i)
				}
				if len(after) != 3 || len(want) > 0 {
					return fmt.Errorf("after two volumes and a snapshot were made, list has %+v more, and not %+v", after, want)
				}
				return nil
			},
		},
		{
			name:  "list without the others'",
			rule:  "Volumes that this library did not make are not in it.",
			needs: func(e Env) bool { return e.Foreign != nil },
			check: func(ctx context.Context, e *rig) error {
				before, err := e.Driver.List(ctx)
				if err != nil {
					return err
				}
				remove, err := e.Foreign()
				if err != nil {
					return fmt.Errorf("with Env.Foreign: %w", err)
				}
				defer remove()
				after, err := e.Driver.List(ctx)
				if err == nil && len(after) != len(before) {
					err = fmt.Errorf("list has %+v, before the foreign one was made %+v", after, before)
				}
				return err
			},
		},
		{
			name: "stats",
			rule: "Stats tells how large the store is.",
			check: func(ctx context.Context, e *rig) error {
				s, err := e.Driver.Stats(ctx)
				if err == nil && (s.TotalGiB < 1 || s.FreeGiB < 0 || s.FreeGiB > s.TotalGiB) {
					err = fmt.Errorf("the store has %+v", s)
				}
				return err
			},
		},
		{
			name: "a full store",
			rule: "a full store is ResourceExhausted",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.created(ctx, 1)
				if err != nil {
					return err
				}
				s, err := e.Driver.Stats(ctx)
				if err != nil {
					return err
				}
				more := e.id()
				return steps(
					func() error {
						return is("Create", e.Driver.Create(ctx, more, s.FreeGiB+1), errdefs.ErrResourceExhausted)
					},
					func() error {
						return is("Clone", e.Driver.Clone(ctx, more, id, s.FreeGiB+1), errdefs.ErrResourceExhausted)
					},
					func() error { return e.listed(ctx, more, volume.Info{}) },
					func() error { return is("Extend", e.Driver.Extend(ctx, id, s.FreeGiB+2), errdefs.ErrResourceExhausted) },
					func() error { return e.holds(ctx, id, "", 0, 1) },
					func() error { return e.Driver.Create(ctx, more, 1) },
				)
			},
		},
	}
}
