package volumetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// call is one method with the ids that it is given.
type call struct {
	method string
	run    func(ctx context.Context, id string) error
}

// calls are all methods, with the one id or the other.
func (e *rig) calls(other string) []call {
	d := e.Driver
	return []call{
		{"Create", func(ctx context.Context, id string) error { return d.Create(ctx, id, 1) }},
		{"Clone", func(ctx context.Context, id string) error { return d.Clone(ctx, id, other, 1) }},
		{"Clone of it", func(ctx context.Context, id string) error { return d.Clone(ctx, e.id(), id, 1) }},
		{"Extend", func(ctx context.Context, id string) error { return d.Extend(ctx, id, 2) }},
		{"Delete", d.Delete},
		{"Snapshot", func(ctx context.Context, id string) error { return d.Snapshot(ctx, id, other) }},
		{"Snapshot of it", func(ctx context.Context, id string) error { return d.Snapshot(ctx, e.id(), id) }},
		{"DeleteSnapshot", d.DeleteSnapshot},
		{"Path", func(ctx context.Context, id string) error { _, err := d.Path(ctx, id); return err }},
	}
}

// everything is calls and the methods without an id.
func (e *rig) everything(other string) []call {
	return append(e.calls(other),
		call{"List", func(ctx context.Context, _ string) error { _, err := e.Driver.List(ctx); return err }},
		call{"Stats", func(ctx context.Context, _ string) error { _, err := e.Driver.Stats(ctx); return err }})
}

func callRows() []row {
	return []row{
		{
			name: "an unknown id",
			rule: "an unknown id is NotFound (unless the method says otherwise)",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.created(ctx, 1)
				if err != nil {
					return err
				}
				for _, c := range e.calls(id) {
					switch c.method {
					case "Clone of it", "Extend", "Snapshot of it", "Path":
						if err := is(c.method, c.run(ctx, uuid.NewString()), errdefs.ErrNotFound); err != nil {
							return err
						}
					}
				}
				return nil
			},
		},
		{
			name: "what is no id",
			rule: "Ids are UUIDs in their 36-character form; anything else is InvalidArgument.",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				for _, bad := range []string{"", "x", ".", "..", "../" + id, "/etc/passwd", id + "\n", id + "/", " " + id, id[:35], id + id,
					"urn:uuid:" + id, "{" + id + "}", id[:8] + id[9:], "-" + id[1:], id[:35] + "\x00", id[:35] + "é"} {
					for _, c := range e.calls(id) {
						if err := is(fmt.Sprintf("%s with the id %q", c.method, bad), c.run(ctx, bad), errdefs.ErrInvalidArgument); err != nil {
							return err
						}
					}
				}
				return e.holds(ctx, id, "kept", 1, 1)
			},
		},
		{
			name: "a context that has ended",
			rule: "Each returns soon after its context ends, with the context's error unwrapped",
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				ended, cancel := context.WithCancel(ctx)
				cancel()
				late, cancel := context.WithTimeout(ctx, -1)
				defer cancel()
				for _, c := range e.everything(id) {
					for _, ctx := range []context.Context{ended, late} {
						start := time.Now()
						if err := c.run(ctx, id); err != ctx.Err() {
							return fmt.Errorf("%s: got error %v, want %v", c.method, err, ctx.Err())
						}
						if took := time.Since(start); took > e.Patience {
							return fmt.Errorf("%s returned %s after its context had ended", c.method, took)
						}
					}
				}
				return e.holds(ctx, id, "kept", 1, 1)
			},
		},
		{
			name: "calls that are cut short",
			rule: "Every method is idempotent, so that a call that was cut short is repeated until it succeeds.",
			check: func(ctx context.Context, e *rig) error {
				source, err := e.written(ctx, "source")
				if err != nil {
					return err
				}
				for n := range 8 {
					id, snapshot := e.id(), e.id()
					for _, step := range []func(context.Context) error{
						func(ctx context.Context) error { return e.Driver.Clone(ctx, id, source, 2) },
						func(ctx context.Context) error { return e.Driver.Snapshot(ctx, snapshot, id) },
						func(ctx context.Context) error { return e.Driver.Extend(ctx, id, 3) },
					} {
						short, cancel := context.WithTimeout(ctx, time.Microsecond<<(2*n))
						err := step(short)
						cancel()
						if err != nil && err != context.DeadlineExceeded {
							return fmt.Errorf("a call that was cut short: got error %v, want %v", err, context.DeadlineExceeded)
						}
						if err := step(ctx); err != nil {
							return fmt.Errorf("its repetition: %w", err)
						}
					}
					if err := errors.Join(e.holds(ctx, id, "source", 1, 3), e.listed(ctx, snapshot, volume.Info{ID: snapshot, SizeGiB: 2, Of: id})); err != nil {
						return err
					}
					for _, step := range []func(context.Context) error{
						func(ctx context.Context) error { return e.Driver.DeleteSnapshot(ctx, snapshot) },
						func(ctx context.Context) error { return e.Driver.Delete(ctx, id) },
					} {
						short, cancel := context.WithTimeout(ctx, time.Microsecond<<(2*n))
						_ = step(short)
						cancel()
						if err := step(ctx); err != nil {
							return fmt.Errorf("the repetition of a removal: %w", err)
						}
					}
					if err := errors.Join(e.listed(ctx, id, volume.Info{}), e.listed(ctx, snapshot, volume.Info{})); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "many calls at once",
			rule: "All methods are safe for concurrent use",
			check: func(ctx context.Context, e *rig) error {
				const many = 3
				var wg sync.WaitGroup
				failed := make([]error, many)
				ids := make([][3]string, many)
				for n := range ids {
					ids[n] = [3]string{e.id(), e.id(), e.id()}
				}
				for n := range many {
					text := fmt.Sprint("volume ", n)
					wg.Go(func() {
						id, snapshot, clone := ids[n][0], ids[n][1], ids[n][2]
						failed[n] = steps(
							func() error { return e.Driver.Create(ctx, id, 1) },
							func() error { return e.write(ctx, id, text) },
							func() error { return e.Driver.Snapshot(ctx, snapshot, id) },
							func() error { _, err := e.Driver.Stats(ctx); return err },
							func() error { return e.Driver.Clone(ctx, clone, snapshot, 1) },
							func() error { return e.holds(ctx, clone, text, 1, 1) },
							func() error { return e.listed(ctx, snapshot, volume.Info{ID: snapshot, SizeGiB: 1, Of: id}) },
							func() error { return e.Driver.DeleteSnapshot(ctx, snapshot) },
							func() error { return e.Driver.Delete(ctx, clone) },
							func() error { return e.holds(ctx, id, text, 1, 1) },
						)
					})
				}
				wg.Wait()
				return errors.Join(failed...)
			},
		},
	}
}

func faultRows() []row {
	return []row{
		{
			name:  "a store that hangs",
			rule:  "Each returns soon after its context ends, with the context's error unwrapped; a repetition settles what was left half-done.",
			needs: func(e Env) bool { return e.Hang != nil },
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				release, err := e.Hang()
				if err != nil {
					return fmt.Errorf("with Env.Hang: %w", err)
				}
				release = sync.OnceFunc(release)
				defer release()
				for _, c := range e.everything(id) {
					if c.method == "Delete" { // would be tried on the volume that the others need
						continue
					}
					short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
					ended := make(chan error, 1)
					go func() { ended <- c.run(short, id) }()
					select {
					case err = <-ended:
					case <-time.After(e.Patience):
						err = fmt.Errorf("it has not returned in %s", e.Patience)
					}
					if cancel(); err != context.DeadlineExceeded {
						return fmt.Errorf("%s: got error %v, want %v", c.method, err, context.DeadlineExceeded)
					}
				}
				release()
				for _, c := range e.everything(id) {
					switch c.method {
					case "Clone of it", "Extend", "Snapshot of it", "Path", "List", "Stats":
						if err := c.run(ctx, id); err != nil {
							return fmt.Errorf("%s when the store answers again: %w", c.method, err)
						}
					}
				}
				return e.holds(ctx, id, "kept", 1, 2)
			},
		},
		{
			name:  "a store that can't be reached",
			rule:  "a store that can't be reached Unavailable",
			needs: func(e Env) bool { return e.Down != nil },
			check: func(ctx context.Context, e *rig) error {
				id, err := e.written(ctx, "kept")
				if err != nil {
					return err
				}
				up, err := e.Down()
				if err != nil {
					return fmt.Errorf("with Env.Down: %w", err)
				}
				up = sync.OnceFunc(up)
				defer up()
				for _, c := range e.everything(id) {
					if c.method != "Path" { // may be known without asking
						if err := is(c.method, c.run(ctx, id), errdefs.ErrUnavailable); err != nil {
							return err
						}
					}
				}
				up()
				return e.holds(ctx, id, "kept", 1, 1)
			},
		},
	}
}
