package volumetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

func createRows() []row {
	return []row{
		{
			name: "create",
			rule: "Create makes a volume of size GiB whose contents read as zeros.",
			check: func(ctx context.Context, e *rig) error {
				for _, size := range []int{1, 3} {
					id, err := e.created(ctx, size)
					if err != nil {
						return err
					}
					if err := e.holds(ctx, id, "", 0, size); err != nil {
						return err
					}
					if err := e.listed(ctx, id, volume.Info{ID: id, SizeGiB: size}); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "create again",
			rule: "One that exists with this id and size is success; with another size it is AlreadyExists.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				return steps(
					func() error { return e.Driver.Create(ctx, id, 1) },
					func() error { return e.holds(ctx, id, "kept", 1, 1) },
					func() error {
						return is("Create with another size", e.Driver.Create(ctx, id, 2), errdefs.ErrAlreadyExists)
					},
					func() error { return e.holds(ctx, id, "kept", 1, 1) },
				)
			},
		},
		{
			name: "create of no size",
			rule: "A size below 1 is InvalidArgument.",
			check: func(ctx context.Context, e *rig) error {
				for _, size := range []int{0, -1} {
					id := e.id()
					if err := is(fmt.Sprintf("Create of %d GiB", size), e.Driver.Create(ctx, id, size), errdefs.ErrInvalidArgument); err != nil {
						return err
					}
					if err := e.listed(ctx, id, volume.Info{}); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "extend",
			rule: "Extend makes the volume sizeGiB large; what is new reads as zeros.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				return steps(
					func() error { return e.Driver.Extend(ctx, id, 3) },
					func() error { return e.holds(ctx, id, "kept", 1, 3) },
					func() error { return e.listed(ctx, id, volume.Info{ID: id, SizeGiB: 3}) },
					func() error { return e.write(ctx, id, "large") },
					func() error { return e.holds(ctx, id, "large", 3, 3) },
				)
			},
		},
		{
			name: "extend in use",
			rule: "The volume may be in use meanwhile: who has it open goes on, and has all of it then.",
			check: func(ctx context.Context, e *rig) (err error) {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				f, size, err := e.open(ctx, id)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				if err := e.Driver.Extend(ctx, id, 2); err != nil {
					return err
				}
				for _, at := range places(2 * size) {
					if _, err := f.WriteAt(pattern("all of it", at), at); err != nil {
						return err
					}
				}
				return errors.Join(f.Sync(), e.holds(ctx, id, "all of it", 2, 2))
			},
		},
		{
			name: "extend again",
			rule: "One that is that large already is success; a smaller size is InvalidArgument.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.created(ctx, 2)
				if err != nil {
					return err
				}
				return steps(
					func() error { return e.write(ctx, id, "kept") },
					func() error { return e.Driver.Extend(ctx, id, 2) },
					func() error { return is("Extend to less", e.Driver.Extend(ctx, id, 1), errdefs.ErrInvalidArgument) },
					func() error { return is("Extend to 0", e.Driver.Extend(ctx, id, 0), errdefs.ErrInvalidArgument) },
					func() error { return e.holds(ctx, id, "kept", 2, 2) },
				)
			},
		},
	}
}

func cloneRows() []row {
	// Both kinds of source: the volume, and a snapshot of it.
	sources := func(ctx context.Context, e *rig) (volume string, both []string, err error) {
		if volume, err = e.written(ctx, "source"); err != nil {
			return "", nil, err
		}
		snapshot, err := e.snapshot(ctx, volume)
		return volume, []string{volume, snapshot}, err
	}
	return []row{
		{
			name: "clone",
			rule: "Clone makes a volume like Create whose contents begin as those of a volume or snapshot",
			check: func(ctx context.Context, e *rig) error {
				_, both, err := sources(ctx, e)
				if err != nil {
					return err
				}
				for _, source := range both {
					id, err := e.cloned(ctx, source, 1)
					if err != nil {
						return err
					}
					if err := steps(
						func() error { return e.holds(ctx, id, "source", 1, 1) },
						func() error { return e.listed(ctx, id, volume.Info{ID: id, SizeGiB: 1}) },
						func() error { return e.write(ctx, id, "clone") },
						func() error { return e.Driver.Clone(ctx, id, source, 1) }, // again
						func() error { return e.holds(ctx, id, "clone", 1, 1) },
						func() error {
							return is("Clone with another size", e.Driver.Clone(ctx, id, source, 2), errdefs.ErrAlreadyExists)
						},
						func() error { return e.holds(ctx, id, "clone", 1, 1) },
					); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "clones are independent",
			rule: "as they are at the call, and that is independent of it from then on",
			check: func(ctx context.Context, e *rig) error {
				of, both, err := sources(ctx, e)
				if err != nil {
					return err
				}
				a, err := e.cloned(ctx, both[0], 1)
				if err != nil {
					return err
				}
				b, err := e.cloned(ctx, both[1], 1)
				if err != nil {
					return err
				}
				return steps(
					func() error { return e.write(ctx, of, "changed") },
					func() error { return e.holds(ctx, a, "source", 1, 1) },
					func() error { return e.holds(ctx, b, "source", 1, 1) },
					func() error { return e.write(ctx, a, "clone") },
					func() error { return e.holds(ctx, of, "changed", 1, 1) },
					func() error { return e.Driver.DeleteSnapshot(ctx, both[1]) },
					func() error { return e.Driver.Delete(ctx, of) },
					func() error { return e.holds(ctx, a, "clone", 1, 1) },
					func() error { return e.holds(ctx, b, "source", 1, 1) },
				)
			},
		},
		{
			name: "clone to a larger one",
			rule: "What is beyond the source reads as zeros.",
			check: func(ctx context.Context, e *rig) error {
				_, both, err := sources(ctx, e)
				if err != nil {
					return err
				}
				for _, source := range both {
					id, err := e.cloned(ctx, source, 2)
					if err != nil {
						return err
					}
					if err := e.holds(ctx, id, "source", 1, 2); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "clone to a smaller one",
			rule: "A size smaller than the source's is InvalidArgument.",
			check: func(ctx context.Context, e *rig) error {
				large, err := e.created(ctx, 2)
				if err != nil {
					return err
				}
				id := e.id()
				return steps(
					func() error { return is("Clone", e.Driver.Clone(ctx, id, large, 1), errdefs.ErrInvalidArgument) },
					func() error { return is("Clone to 0", e.Driver.Clone(ctx, id, large, 0), errdefs.ErrInvalidArgument) },
					func() error { return e.listed(ctx, id, volume.Info{}) },
				)
			},
		},
	}
}
