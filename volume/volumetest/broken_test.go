package volumetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

// broken is a driver with one thing wrong.
type broken struct {
	create, extend func(context.Context, string, int) error
	clone, load    func(context.Context, string, string, int) error
	remove, forget func(context.Context, string) error
	snapshot       func(context.Context, string, string) error
	held           func(context.Context, string, string, func(context.Context) (func(), error)) error
	path           func(context.Context, string) (string, error)
	list           func(context.Context) ([]volume.Info, error)
	stats          func(context.Context) (volume.Stats, error)
}

// whole is a driver with nothing wrong yet.
func whole(d volume.Driver) *broken {
	return &broken{create: d.Create, extend: d.Extend, clone: d.Clone, load: d.Import, remove: d.Delete, forget: d.DeleteSnapshot,
		snapshot: d.Snapshot, held: d.(volume.Copier).SnapshotHeld, path: d.Path, list: d.List, stats: d.Stats}
}

func (b *broken) Create(ctx context.Context, id string, n int) error { return b.create(ctx, id, n) }
func (b *broken) Extend(ctx context.Context, id string, n int) error { return b.extend(ctx, id, n) }
func (b *broken) Clone(ctx context.Context, id, source string, n int) error {
	return b.clone(ctx, id, source, n)
}
func (b *broken) Import(ctx context.Context, id, path string, n int) error {
	return b.load(ctx, id, path, n)
}
func (b *broken) Delete(ctx context.Context, id string) error         { return b.remove(ctx, id) }
func (b *broken) DeleteSnapshot(ctx context.Context, id string) error { return b.forget(ctx, id) }
func (b *broken) Snapshot(ctx context.Context, id, of string) error   { return b.snapshot(ctx, id, of) }
func (b *broken) SnapshotHeld(ctx context.Context, id, of string, hold func(context.Context) (func(), error)) error {
	return b.held(ctx, id, of, hold)
}
func (b *broken) Path(ctx context.Context, id string) (string, error) { return b.path(ctx, id) }
func (b *broken) List(ctx context.Context) ([]volume.Info, error)     { return b.list(ctx) }
func (b *broken) Stats(ctx context.Context) (volume.Stats, error)     { return b.stats(ctx) }

// fault is something wrong and the rows that must find it.
type fault struct {
	fault string
	rows  []string
	spoil func(b *broken, d *fakevolume.Driver)
}

// infoOf returns what the driver knows of an id.
func infoOf(d *fakevolume.Driver, id string) (volume.Info, bool) {
	all, _ := d.List(context.Background())
	for _, i := range all {
		if i.ID == id {
			return i, true
		}
	}
	return volume.Info{}, false
}

// dirt writes into a volume what was not written to it.
func dirt(d *fakevolume.Driver, id string, at int64) error {
	path, err := d.Path(context.Background(), id)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("dirt"), at)
	return errors.Join(err, f.Close())
}

// changes waits until the middles of two files differ.
func changes(path, other string) error {
	a, b := make([]byte, 8), make([]byte, 8)
	for bytes.Equal(a, b) {
		for path, b := range map[string][]byte{path: a, other: b} {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			_, err = f.ReadAt(b, gib/2)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyEnd copies the second half of a file of 1 GiB, as far as the suite writes there.
func copyEnd(to, from string) error {
	w, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	b := make([]byte, block)
	for at := int64(gib / 2); at < gib; at += gib / slots {
		if _, err := r.ReadAt(b, at); err != nil {
			return err
		}
		if _, err := w.WriteAt(b, at); err != nil {
			return err
		}
	}
	return nil
}

func faults() []fault {
	return []fault{
		{"new volumes are not zeros", []string{"create", "delete"}, func(b *broken, d *fakevolume.Driver) {
			b.create = func(ctx context.Context, id string, n int) error {
				return errors.Join(d.Create(ctx, id, n), dirt(d, id, int64(n)*gib-block))
			}
		}},
		{"create rounds up", []string{"create"}, func(b *broken, d *fakevolume.Driver) {
			b.create = func(ctx context.Context, id string, n int) error { return d.Create(ctx, id, n+n%2) }
		}},
		{"create is not idempotent", []string{"create again"}, func(b *broken, d *fakevolume.Driver) {
			b.create = func(ctx context.Context, id string, n int) error {
				if _, there := infoOf(d, id); there {
					return errdefs.ErrAlreadyExists
				}
				return d.Create(ctx, id, n)
			}
		}},
		{"create again empties the volume", []string{"create again"}, func(b *broken, d *fakevolume.Driver) {
			b.create = func(ctx context.Context, id string, n int) error {
				return errors.Join(d.Delete(ctx, id), d.Create(ctx, id, n))
			}
		}},
		{"create takes any size", []string{"create of no size"}, func(b *broken, d *fakevolume.Driver) {
			b.create = func(ctx context.Context, id string, n int) error { return d.Create(ctx, id, max(n, 1)) }
		}},
		{"what extend adds is not zeros", []string{"extend", "delete"}, func(b *broken, d *fakevolume.Driver) {
			b.extend = func(ctx context.Context, id string, n int) error {
				return errors.Join(d.Extend(ctx, id, n), dirt(d, id, int64(n)*gib-block))
			}
		}},
		{"a snapshot of one in use is copied while it is written to", []string{"snapshot in use"}, func(b *broken, d *fakevolume.Driver) {
			b.held = func(ctx context.Context, id, of string, hold func(context.Context) (func(), error)) error {
				path, err := d.Path(ctx, of)
				if err != nil {
					return err
				}
				if err := d.Snapshot(ctx, id, of); err != nil {
					return err
				}
				if err := changes(path, filepath.Join(filepath.Dir(path), id)); err != nil {
					return err
				}
				release, err := hold(ctx) // what is at the end is of a later moment than what is at the beginning
				if err != nil {
					return err
				}
				defer release()
				return copyEnd(filepath.Join(filepath.Dir(path), id), path)
			}
		}},
		{"a snapshot of one in use is too old", []string{"snapshot in use"}, func(b *broken, d *fakevolume.Driver) {
			b.held = func(ctx context.Context, id, of string, _ func(context.Context) (func(), error)) error {
				path, err := d.Path(ctx, of)
				if err != nil {
					return err
				}
				return errors.Join(d.Snapshot(ctx, id, of), os.WriteFile(filepath.Join(filepath.Dir(path), id), nil, 0o600),
					os.Truncate(filepath.Join(filepath.Dir(path), id), gib))
			}
		}},
		{"extend makes another volume of it", []string{"extend in use"}, func(b *broken, d *fakevolume.Driver) {
			b.extend = func(ctx context.Context, id string, n int) error {
				path, err := d.Path(ctx, id)
				if err != nil {
					return err
				}
				return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600), os.Truncate(path, gib), d.Extend(ctx, id, n))
			}
		}},
		{"extend does nothing", []string{"extend"}, func(b *broken, d *fakevolume.Driver) {
			b.extend = func(context.Context, string, int) error { return nil }
		}},
		{"extend is not idempotent", []string{"extend again"}, func(b *broken, d *fakevolume.Driver) {
			b.extend = func(ctx context.Context, id string, n int) error {
				if i, _ := infoOf(d, id); i.SizeGiB == n {
					return errdefs.ErrInvalidArgument
				}
				return d.Extend(ctx, id, n)
			}
		}},
		{"extend ignores what is smaller", []string{"extend again"}, func(b *broken, d *fakevolume.Driver) {
			b.extend = func(ctx context.Context, id string, n int) error {
				i, _ := infoOf(d, id)
				return d.Extend(ctx, id, max(n, i.SizeGiB))
			}
		}},
		{"clones are empty", []string{"clone", "clones are independent", "clone to a larger one"}, func(b *broken, d *fakevolume.Driver) {
			b.clone = func(ctx context.Context, id, _ string, n int) error { return d.Create(ctx, id, n) }
		}},
		{"imports are empty", []string{"import", "import of what can't be"}, func(b *broken, d *fakevolume.Driver) {
			b.load = func(ctx context.Context, id, _ string, n int) error { return d.Create(ctx, id, n) }
		}},
		{"what is beyond an import is not zeros", []string{"import"}, func(b *broken, d *fakevolume.Driver) {
			b.load = func(ctx context.Context, id, path string, n int) error {
				return errors.Join(d.Import(ctx, id, path, n), dirt(d, id, gib/2))
			}
		}},
		{"import again begins anew", []string{"import again"}, func(b *broken, d *fakevolume.Driver) {
			b.load = func(ctx context.Context, id, path string, n int) error {
				return errors.Join(d.Delete(ctx, id), d.Import(ctx, id, path, n))
			}
		}},
		{"clones of snapshots are of the volume", []string{"snapshot", "clones are independent"}, func(b *broken, d *fakevolume.Driver) {
			clone := b.clone
			b.clone = func(ctx context.Context, id, source string, n int) error {
				if i, _ := infoOf(d, source); i.Of != "" && n == 1 {
					if _, there := infoOf(d, id); !there {
						return errors.Join(clone(ctx, id, i.Of, 2), dirt(d, id, 0))
					}
				}
				return clone(ctx, id, source, n)
			}
		}},
		{"clones are the source itself", []string{"clones are independent"}, func(b *broken, d *fakevolume.Driver) {
			b.clone = func(ctx context.Context, id, source string, n int) error {
				if _, there := infoOf(d, id); there {
					return d.Clone(ctx, id, source, n)
				}
				if err := d.Clone(ctx, id, source, n); err != nil {
					return err
				}
				path, err := d.Path(ctx, id)
				if err != nil {
					return err
				}
				return errors.Join(os.Remove(path), os.Link(filepath.Join(filepath.Dir(path), source), path))
			}
		}},
		{"a clone beyond its source is not zeros", []string{"clone to a larger one"}, func(b *broken, d *fakevolume.Driver) {
			b.clone = func(ctx context.Context, id, source string, n int) error {
				return errors.Join(d.Clone(ctx, id, source, n), dirt(d, id, int64(n)*gib-block))
			}
		}},
		{"a smaller clone is as large as its source", []string{"clone to a smaller one"}, func(b *broken, d *fakevolume.Driver) {
			b.clone = func(ctx context.Context, id, source string, n int) error {
				i, _ := infoOf(d, source)
				return d.Clone(ctx, id, source, max(n, i.SizeGiB))
			}
		}},
		{"clones are not idempotent", []string{"clone", "calls that are cut short"}, func(b *broken, d *fakevolume.Driver) {
			b.clone = func(ctx context.Context, id, source string, n int) error {
				if _, there := infoOf(d, id); there {
					return errdefs.ErrAlreadyExists
				}
				return d.Clone(ctx, id, source, n)
			}
		}},
		{"a clone that is cut short is half", []string{"calls that are cut short"}, func(b *broken, d *fakevolume.Driver) {
			n := 0
			b.clone = func(ctx context.Context, id, source string, size int) error {
				if n++; n == 1 {
					_ = d.Create(context.Background(), id, size)
					return context.DeadlineExceeded
				}
				return d.Clone(ctx, id, source, size)
			}
		}},
		{"snapshots follow their volume", []string{"snapshot"}, func(b *broken, d *fakevolume.Driver) {
			b.snapshot = func(ctx context.Context, id, of string) error {
				if err := d.Snapshot(ctx, id, of); err != nil {
					return err
				}
				path, err := d.Path(ctx, of)
				if err != nil {
					return err
				}
				s := filepath.Join(filepath.Dir(path), id)
				return errors.Join(os.Remove(s), os.Link(path, s))
			}
		}},
		{"a snapshot again is a new one", []string{"snapshot again"}, func(b *broken, d *fakevolume.Driver) {
			b.snapshot = func(ctx context.Context, id, of string) error {
				if i, _ := infoOf(d, id); i.Of == of {
					_ = d.DeleteSnapshot(ctx, id)
				}
				return d.Snapshot(ctx, id, of)
			}
		}},
		{"a snapshot of another volume is success", []string{"snapshot again"}, func(b *broken, d *fakevolume.Driver) {
			b.snapshot = func(ctx context.Context, id, of string) error {
				if _, there := infoOf(d, id); there {
					return nil
				}
				return d.Snapshot(ctx, id, of)
			}
		}},
		{"snapshots stay", []string{"delete a snapshot", "delete with snapshots"}, func(b *broken, d *fakevolume.Driver) {
			b.forget = func(ctx context.Context, id string) error { return ctx.Err() }
		}},
		{"an unknown snapshot is an error", []string{"delete a snapshot"}, func(b *broken, d *fakevolume.Driver) {
			b.forget = func(ctx context.Context, id string) error {
				if _, there := infoOf(d, id); !there {
					return errdefs.ErrNotFound
				}
				return d.DeleteSnapshot(ctx, id)
			}
		}},
		{"deleting a snapshot deletes a volume", []string{"a volume is no snapshot"}, func(b *broken, d *fakevolume.Driver) {
			b.forget = func(ctx context.Context, id string) error {
				for _, i := range must(d.List(ctx)) {
					if i.Of == id {
						_ = d.DeleteSnapshot(ctx, i.ID)
					}
				}
				return errors.Join(d.DeleteSnapshot(ctx, id), d.Delete(ctx, id))
			}
		}},
		{"deleting a volume deletes a snapshot", []string{"a volume is no snapshot"}, func(b *broken, d *fakevolume.Driver) {
			b.remove = func(ctx context.Context, id string) error {
				return errors.Join(d.DeleteSnapshot(ctx, id), d.Delete(ctx, id))
			}
		}},
		{"volumes stay", []string{"delete", "delete with snapshots"}, func(b *broken, d *fakevolume.Driver) {
			b.remove = func(ctx context.Context, id string) error { return ctx.Err() }
		}},
		{"what was deleted comes back", []string{"delete"}, func(b *broken, d *fakevolume.Driver) {
			var held []byte
			b.remove = func(ctx context.Context, id string) error {
				if path, err := d.Path(ctx, id); err == nil {
					f, err := os.Open(path)
					if err != nil {
						return err
					}
					held = make([]byte, 2*block)
					_, err = f.ReadAt(held, gib/16)
					if err := errors.Join(err, f.Close()); err != nil {
						return err
					}
				}
				return d.Delete(ctx, id)
			}
			b.create = func(ctx context.Context, id string, n int) error {
				if err := d.Create(ctx, id, n); err != nil || held == nil {
					return err
				}
				path, err := d.Path(ctx, id)
				if err != nil {
					return err
				}
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					return err
				}
				_, err = f.WriteAt(held, gib/16)
				return errors.Join(err, f.Close())
			}
		}},
		{"an unknown volume is an error", []string{"delete again"}, func(b *broken, d *fakevolume.Driver) {
			b.remove = func(ctx context.Context, id string) error {
				if _, there := infoOf(d, id); !there {
					return errdefs.ErrNotFound
				}
				return d.Delete(ctx, id)
			}
		}},
		{"snapshots go with their volume", []string{"delete with snapshots"}, func(b *broken, d *fakevolume.Driver) {
			b.remove = func(ctx context.Context, id string) error {
				for _, i := range must(d.List(ctx)) {
					if i.Of == id {
						_ = d.DeleteSnapshot(ctx, i.ID)
					}
				}
				return d.Delete(ctx, id)
			}
		}},
		{"one path for all", []string{"path"}, func(b *broken, d *fakevolume.Driver) {
			first := ""
			b.path = func(ctx context.Context, id string) (string, error) {
				path, err := d.Path(ctx, id)
				if first == "" {
					first = path
				}
				return first, err
			}
		}},
		{"an unknown id has a path", []string{"an unknown id"}, func(b *broken, d *fakevolume.Driver) {
			b.path = func(ctx context.Context, id string) (string, error) {
				path, err := d.Path(ctx, id)
				if errdefs.IsNotFound(err) {
					return "/dev/null", nil
				}
				return path, err
			}
		}},
		{"snapshots are not listed", []string{"list", "snapshot"}, func(b *broken, d *fakevolume.Driver) {
			b.list = func(ctx context.Context) (some []volume.Info, err error) {
				all, err := d.List(ctx)
				for _, i := range all {
					if i.Of == "" {
						some = append(some, i)
					}
				}
				return some, err
			}
		}},
		{"list names all twice", []string{"list"}, func(b *broken, d *fakevolume.Driver) {
			b.list = func(ctx context.Context) ([]volume.Info, error) {
				all, err := d.List(ctx)
				return append(all, all...), err
			}
		}},
		{"list names what is in the directory", []string{"list without the others'"}, func(b *broken, d *fakevolume.Driver) {
			b.list = func(ctx context.Context) ([]volume.Info, error) {
				id := uuid.NewString()
				_ = d.Create(ctx, id, 1)
				path, err := d.Path(ctx, id)
				if err != nil {
					return nil, err
				}
				if err := d.Delete(ctx, id); err != nil {
					return nil, err
				}
				files, err := os.ReadDir(filepath.Dir(path))
				var all []volume.Info
				for _, f := range files {
					all = append(all, volume.Info{ID: f.Name(), SizeGiB: 1})
				}
				return all, err
			}
		}},
		{"more is free than there is", []string{"stats"}, func(b *broken, d *fakevolume.Driver) {
			b.stats = func(ctx context.Context) (volume.Stats, error) {
				s, err := d.Stats(ctx)
				s.FreeGiB += s.TotalGiB
				return s, err
			}
		}},
		{"full is another error", []string{"a full store"}, func(b *broken, d *fakevolume.Driver) {
			b.create = func(ctx context.Context, id string, n int) error {
				if err := d.Create(ctx, id, n); errdefs.IsResourceExhausted(err) {
					return fmt.Errorf("%v", err)
				}
				return nil
			}
		}},
		{"any id will do", []string{"what is no id"}, func(b *broken, d *fakevolume.Driver) {
			b.remove = func(ctx context.Context, id string) error {
				if u, err := uuid.Parse(id); err == nil {
					id = u.String()
				}
				return d.Delete(ctx, id)
			}
		}},
		{"ctx errors are wrapped", []string{"a context that has ended"}, func(b *broken, d *fakevolume.Driver) {
			b.list = func(ctx context.Context) ([]volume.Info, error) {
				if err := ctx.Err(); err != nil {
					return nil, fmt.Errorf("list: %w", err)
				}
				return d.List(ctx)
			}
		}},
		{"a context that has ended is not looked at", []string{"a context that has ended", "a store that hangs"}, func(b *broken, d *fakevolume.Driver) {
			b.stats = func(ctx context.Context) (volume.Stats, error) {
				return d.Stats(context.WithoutCancel(ctx))
			}
		}},
		{"a store that is down is internal", []string{"a store that can't be reached"}, func(b *broken, d *fakevolume.Driver) {
			b.stats = func(ctx context.Context) (volume.Stats, error) {
				s, err := d.Stats(ctx)
				if errdefs.IsUnavailable(err) {
					err = errdefs.ErrInternal
				}
				return s, err
			}
		}},
		{"one call at a time", []string{"many calls at once"}, func(b *broken, d *fakevolume.Driver) {
			var inside atomic.Int64
			another := make(chan struct{}, 1)
			b.snapshot = func(ctx context.Context, id, of string) error {
				defer inside.Add(-1)
				if inside.Add(1) > 1 {
					select {
					case another <- struct{}{}:
					default:
					}
					return errdefs.ErrConflict
				}
				select {
				case <-another:
				case <-ctx.Done():
				}
				return d.Snapshot(ctx, id, of)
			}
		}},
	}
}

// must is for a fake that does not fail.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
