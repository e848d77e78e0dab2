package volumetest

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

func snapshotRows() []row {
	return []row{
		{
			name: "snapshot",
			rule: "Snapshot keeps the contents of a volume as they are at the call, under the id snapshot.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "old")
				if err != nil {
					return err
				}
				snapshot, err := e.snapshot(ctx, id)
				if err != nil {
					return err
				}
				if err := steps(
					func() error { return e.listed(ctx, snapshot, volume.Info{ID: snapshot, SizeGiB: 1, Of: id}) },
					func() error { return e.write(ctx, id, "new") },
					func() error { return e.Driver.Extend(ctx, id, 2) },
					func() error { return e.holds(ctx, id, "new", 1, 2) },
					func() error { return e.listed(ctx, snapshot, volume.Info{ID: snapshot, SizeGiB: 1, Of: id}) },
				); err != nil {
					return err
				}
				clone, err := e.cloned(ctx, snapshot, 1)
				if err != nil {
					return err
				}
				return e.holds(ctx, clone, "old", 1, 1)
			},
		},
		{
			name:  "snapshot in use",
			rule:  "The volume may be in use: then the snapshot is what a loss of power at one moment of the call would have left, so that all that was flushed before the call is in it.",
			needs: func(e Env) bool { return !e.Quiet },
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "before")
				if err != nil {
					return err
				}
				for range 3 {
					w, err := e.writer(ctx, id)
					if err != nil {
						return err
					}
					snapshot := e.id()
					first, err := w.during(func() error { return e.snapshotInUse(ctx, snapshot, id, w) })
					if err != nil {
						return err
					}
					clone, err := e.cloned(ctx, snapshot, 1)
					if err != nil {
						return err
					}
					if err := e.oneMoment(ctx, clone, first); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "snapshot again",
			rule: "One that exists with this id, of this volume, is success; of another volume it is AlreadyExists.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "old")
				if err != nil {
					return err
				}
				other, err := e.written(ctx, "other")
				if err != nil {
					return err
				}
				snapshot, err := e.snapshot(ctx, id)
				if err != nil {
					return err
				}
				if err := steps(
					func() error { return e.write(ctx, id, "new") },
					func() error { return e.Driver.Snapshot(ctx, snapshot, id) },
					func() error {
						return is("Snapshot of another volume", e.Driver.Snapshot(ctx, snapshot, other), errdefs.ErrAlreadyExists)
					},
					func() error { return e.listed(ctx, snapshot, volume.Info{ID: snapshot, SizeGiB: 1, Of: id}) },
				); err != nil {
					return err
				}
				clone, err := e.cloned(ctx, snapshot, 1)
				if err != nil {
					return err
				}
				return e.holds(ctx, clone, "old", 1, 1)
			},
		},
		{
			name: "delete a snapshot",
			rule: "DeleteSnapshot removes a snapshot. An unknown id is success.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				first, err := e.snapshot(ctx, id)
				if err != nil {
					return err
				}
				second, err := e.snapshot(ctx, id)
				if err != nil {
					return err
				}
				if err := steps(
					func() error { return e.Driver.DeleteSnapshot(ctx, first) },
					func() error { return e.Driver.DeleteSnapshot(ctx, first) },
					func() error { return e.Driver.DeleteSnapshot(ctx, e.id()) },
					func() error { return e.listed(ctx, first, volume.Info{}) },
					func() error { return e.listed(ctx, second, volume.Info{ID: second, SizeGiB: 1, Of: id}) },
					func() error { return is("Clone of it", e.Driver.Clone(ctx, e.id(), first, 1), errdefs.ErrNotFound) },
					func() error { return e.holds(ctx, id, "kept", 1, 1) },
				); err != nil {
					return err
				}
				clone, err := e.cloned(ctx, second, 1)
				if err != nil {
					return err
				}
				return e.holds(ctx, clone, "kept", 1, 1)
			},
		},
		{
			name: "a volume is no snapshot",
			rule: "DeleteSnapshot removes a snapshot.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				snapshot, err := e.snapshot(ctx, id)
				if err != nil {
					return err
				}
				// Whatever it answers to an id of the other kind, it leaves that alone.
				_ = e.Driver.DeleteSnapshot(ctx, id)
				_ = e.Driver.Delete(ctx, snapshot)
				return steps(
					func() error { return e.holds(ctx, id, "kept", 1, 1) },
					func() error { return e.listed(ctx, snapshot, volume.Info{ID: snapshot, SizeGiB: 1, Of: id}) },
				)
			},
		},
	}
}

func deleteRows() []row {
	return []row{
		{
			name: "delete",
			rule: "Delete removes a volume, and nothing that it held can be read from any volume made later.",
			check: func(ctx context.Context, e *rig) error {
				var ids []string
				for n := range 3 {
					id, err := e.written(ctx, fmt.Sprint("secret ", n))
					if err != nil {
						return err
					}
					ids = append(ids, id)
				}
				for _, id := range ids {
					if err := steps(
						func() error { return e.Driver.Delete(ctx, id) },
						func() error { return e.listed(ctx, id, volume.Info{}) },
						func() error {
							_, err := e.Driver.Path(ctx, id)
							return is("Path of it", err, errdefs.ErrNotFound)
						},
					); err != nil {
						return err
					}
				}
				if err := steps(
					func() error { return e.Driver.Create(ctx, ids[0], 2) }, // under an old id
					func() error { return e.holds(ctx, ids[0], "", 0, 2) },
				); err != nil {
					return err
				}
				for range 3 {
					id, err := e.created(ctx, 1)
					if err != nil {
						return err
					}
					if err := steps(
						func() error { return e.holds(ctx, id, "", 0, 1) },
						func() error { return e.Driver.Extend(ctx, id, 2) },
						func() error { return e.holds(ctx, id, "", 0, 2) },
					); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "delete again",
			rule: "An unknown id is success.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.created(ctx, 1)
				if err != nil {
					return err
				}
				return steps(
					func() error { return e.Driver.Delete(ctx, id) },
					func() error { return e.Driver.Delete(ctx, id) },
					func() error { return e.Driver.Delete(ctx, e.id()) },
				)
			},
		},
		{
			name: "delete with snapshots",
			rule: "One with snapshots is FailedPrecondition.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				snapshot, err := e.snapshot(ctx, id)
				if err != nil {
					return err
				}
				return steps(
					func() error { return is("Delete", e.Driver.Delete(ctx, id), errdefs.ErrFailedPrecondition) },
					func() error { return e.holds(ctx, id, "kept", 1, 1) },
					func() error { return e.Driver.DeleteSnapshot(ctx, snapshot) },
					func() error { return e.Driver.Delete(ctx, id) },
					func() error { return e.listed(ctx, id, volume.Info{}) },
				)
			},
		},
	}
}
