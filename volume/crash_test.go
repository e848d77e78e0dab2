package volume_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/state/operation/optest"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

// crashing is a cloud of one host whose agents die.
type crashing struct {
	*cloud
	begin func(t *testing.T, w *crashing)
	want  volume.State // of the volume in the end; "": it is gone
	more  func(w *crashing) error
	id    string // of the volume
	other string // of another volume, or a snapshot
	img   string // of an image that is made
}

func (w *crashing) Begin(t *testing.T) { w.begin(t, w) }

func (w *crashing) Work(ctx context.Context, hooks operation.Hooks) error {
	return w.nodes[0].work(ctx, hooks)
}

func (w *crashing) Settled() bool {
	synctest.Wait()
	return w.operations() == 0
}

func (w *crashing) Check() error {
	v, err := w.service.Get(admin(), w.id)
	switch {
	case w.want == "" && !errdefs.IsNotFound(err):
		return fmt.Errorf("the volume is not gone: %+v, %w", v, err)
	case w.want != "" && (err != nil || v.State != w.want):
		return fmt.Errorf("the volume should be %s: %+v, %w", w.want, v, err)
	}
	if w.more != nil {
		if err := w.more(w); err != nil {
			return err
		}
	}
	return w.audit()
}

func (w *crashing) Close() error { return w.close() }

// lets checks that exactly these of the two initiators can log in.
func (w *crashing) lets(id string, want ...string) error {
	var at volume.Attachment
	err := w.store.View(func(r *state.View) (err error) { at, err = volume.Attachments.Get(r, id); return err })
	if err != nil {
		return err
	}
	if at.Admitted != (len(want) == 2) {
		return fmt.Errorf("on record: %+v", at)
	}
	for _, who := range []string{initiator, secondInitiator} {
		_, err := w.nodes[0].exporter.Login(at.Target, who, at.User, at.Secret)
		if (err == nil) != slices.Contains(want, who) {
			return fmt.Errorf("%s logs in: %w", who, err)
		}
	}
	return nil
}

func TestCrashes(t *testing.T) {
	broken := fmt.Errorf("broken: %w", errdefs.ErrFailedPrecondition)
	// after has the agent do something, and then no agent.
	after := func(before func(t *testing.T, w *crashing), then func(w *crashing) error) func(t *testing.T, w *crashing) {
		return func(t *testing.T, w *crashing) {
			stop := w.start(t)
			before(t, w)
			stop()
			require.NoError(t, then(w))
		}
	}
	exists := func(t *testing.T, w *crashing) { w.id = w.create(t, volume.CreateRequest{SizeGiB: 1}).ID }
	attached := func(t *testing.T, w *crashing) { exists(t, w); w.attach(t, w.id) }
	snapped := func(t *testing.T, w *crashing) { exists(t, w); w.other = w.snapshot(t, w.id).ID }
	create := func(w *crashing) error {
		v, err := w.service.Create(w.ctx, volume.CreateRequest{SizeGiB: 2})
		w.id = v.ID
		return err
	}
	creating := func(t *testing.T, w *crashing) {
		w.enlist(t)
		require.NoError(t, create(w))
	}
	gone := func(w *crashing) error {
		if _, err := w.service.GetSnapshot(w.ctx, w.other); !errdefs.IsNotFound(err) {
			return fmt.Errorf("the snapshot is not gone: %w", err)
		}
		return nil
	}
	snapshotIs := func(want volume.State) func(w *crashing) error {
		return func(w *crashing) error {
			s, err := w.service.GetSnapshot(w.ctx, w.other)
			if err == nil && s.State != want {
				err = fmt.Errorf("the snapshot should be %s: %+v", want, s)
			}
			return err
		}
	}
	spoilt := func(method fakevolume.Method, begin func(t *testing.T, w *crashing)) func(t *testing.T, w *crashing) {
		return func(t *testing.T, w *crashing) {
			begin(t, w)
			w.nodes[0].driver.Inject(fakevolume.Fault{Method: method, After: true, Err: broken})
		}
	}
	attach := func(w *crashing) error { _, err := w.service.Attach(w.ctx, request(w.id)); return err }
	detach := func(w *crashing) error { return w.service.Detach(w.ctx, w.id, false) }
	remove := func(w *crashing) error { return w.service.Delete(w.ctx, w.id) }
	extend := func(w *crashing) error { _, err := w.service.Extend(w.ctx, w.id, 3); return err }
	snap := func(w *crashing) error {
		s, err := w.service.Snapshot(w.ctx, volume.SnapshotRequest{Volume: w.id})
		w.other = s.ID
		return err
	}
	picture := func(ofSnapshot bool) func(w *crashing) error {
		return func(w *crashing) error {
			req := volume.ImageRequest{Name: "picture", Volume: w.id}
			if ofSnapshot {
				req.Volume, req.Snapshot = "", w.other
			}
			img, err := w.service.CreateImage(w.ctx, req)
			w.img = img.ID
			return err
		}
	}
	imageIs := func(want image.Status) func(w *crashing) error {
		return func(w *crashing) error {
			return w.store.View(func(r *state.View) error {
				img, err := image.Images.Get(r, w.img)
				if err == nil && (img.Status != want || img.From != "" || (img.SHA256 != "") != (want == image.Active)) {
					err = fmt.Errorf("the image should be %s: %+v", want, img)
				}
				return err
			})
		}
	}
	size := func(want int) func(w *crashing) error {
		return func(w *crashing) error {
			if v, err := w.service.Get(w.ctx, w.id); err != nil || v.SizeGiB != want {
				return fmt.Errorf("the volume should have %d GiB: %+v, %w", want, v, err)
			}
			return nil
		}
	}
	for name, w := range map[string]crashing{
		"create":              {begin: creating, want: volume.StateAvailable},
		"create that fails":   {begin: spoilt(fakevolume.MethodCreate, creating), want: volume.StateError},
		"delete":              {begin: after(exists, remove)},
		"delete while making": {begin: func(t *testing.T, w *crashing) { creating(t, w); require.NoError(t, remove(w)) }},
		"delete what failed": {begin: func(t *testing.T, w *crashing) {
			w.nodes[0].driver.Inject(fakevolume.Fault{Method: fakevolume.MethodCreate, Err: broken})
			stop := w.start(t)
			require.NoError(t, create(w))
			_, err := w.service.WaitFor(w.ctx, w.id, volume.StateAvailable)
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			stop()
			require.NoError(t, remove(w))
		}},
		"attach": {begin: after(exists, attach), want: volume.StateInUse},
		"attach that fails": {begin: after(exists, func(w *crashing) error {
			w.nodes[0].exporter.Fail(func(method, _ string) error {
				if method == "Export" {
					return broken
				}
				return nil
			})
			return attach(w)
		}), want: volume.StateAvailable},
		"detach": {begin: after(attached, detach), want: volume.StateAvailable},
		"detach while attaching": {begin: after(exists, func(w *crashing) error {
			if err := attach(w); err != nil {
				return err
			}
			return detach(w)
		}), want: volume.StateAvailable},
		"detach after the exporter's death": {begin: after(attached, func(w *crashing) error { w.nodes[0].exporter.Restart(); return detach(w) }),
			want: volume.StateAvailable},
		"admit and settle": {begin: after(attached, func(w *crashing) error {
			return errors.Join(w.store.Update(w.ctx, func(tx *state.Tx) error { return volume.Admit(tx, w.id, 1, secondInitiator) }),
				w.store.Update(w.ctx, func(tx *state.Tx) error { return volume.Settle(tx, w.id, 1, "node", secondInitiator) }))
		}), want: volume.StateInUse, more: func(w *crashing) error { return w.lets(w.id, secondInitiator) }},
		"admit": {begin: after(attached, func(w *crashing) error {
			return w.store.Update(w.ctx, func(tx *state.Tx) error { return volume.Admit(tx, w.id, 1, secondInitiator) })
		}), want: volume.StateInUse, more: func(w *crashing) error { return w.lets(w.id, initiator, secondInitiator) }},
		"detach while admitting": {begin: after(attached, func(w *crashing) error {
			err := w.store.Update(w.ctx, func(tx *state.Tx) error { return volume.Admit(tx, w.id, 1, secondInitiator) })
			return errors.Join(err, detach(w))
		}), want: volume.StateAvailable},
		"extend":            {begin: after(exists, extend), want: volume.StateAvailable, more: size(3)},
		"extend that fails": {begin: spoilt(fakevolume.MethodExtend, after(exists, extend)), want: volume.StateAvailable, more: size(3)},
		"extend in use":     {begin: after(attached, extend), want: volume.StateInUse, more: size(3)},
		"extend in use that fails": {begin: spoilt(fakevolume.MethodExtend, after(attached, extend)), want: volume.StateInUse,
			more: size(3)},
		"extend in use after the exporter's death": {begin: after(attached, func(w *crashing) error { w.nodes[0].exporter.Restart(); return extend(w) }),
			want: volume.StateInUse, more: size(3)},
		"detach while extending": {begin: after(attached, func(w *crashing) error {
			if err := extend(w); err != nil {
				return err
			}
			return detach(w)
		}), want: volume.StateAvailable, more: size(3)},
		"snapshot": {begin: after(exists, snap), want: volume.StateAvailable, more: snapshotIs(volume.StateAvailable)},
		"snapshot that fails": {begin: spoilt(fakevolume.MethodSnapshot, after(exists, snap)), want: volume.StateAvailable,
			more: snapshotIs(volume.StateError)},
		"snapshot in use": {begin: after(attached, snap), want: volume.StateInUse, more: snapshotIs(volume.StateAvailable)},
		"snapshot in use that fails": {begin: spoilt(fakevolume.MethodSnapshot, after(attached, snap)), want: volume.StateInUse,
			more: snapshotIs(volume.StateError)},
		"snapshot in use that can't be held": {begin: after(attached, func(w *crashing) error {
			w.nodes[0].exporter.Fail(func(method, _ string) error {
				if method == "Hold" {
					return broken
				}
				return nil
			})
			return snap(w)
		}), want: volume.StateInUse, more: snapshotIs(volume.StateError)},
		"detach during a snapshot": {begin: after(attached, func(w *crashing) error {
			if err := snap(w); err != nil {
				return err
			}
			return detach(w)
		}), want: volume.StateAvailable, more: snapshotIs(volume.StateAvailable)},
		"delete a snapshot": {begin: after(snapped, func(w *crashing) error { return w.service.DeleteSnapshot(w.ctx, w.other) }),
			want: volume.StateAvailable, more: gone},
		"delete a snapshot while making it": {begin: after(exists, func(w *crashing) error {
			if err := snap(w); err != nil {
				return err
			}
			return w.service.DeleteSnapshot(w.ctx, w.other)
		}), want: volume.StateAvailable, more: gone},
		"create of a snapshot": {begin: after(snapped, func(w *crashing) error {
			v, err := w.service.Create(w.ctx, volume.CreateRequest{Snapshot: w.other, SizeGiB: 2})
			w.id = v.ID
			return err
		}), want: volume.StateAvailable},
		"create of an image": {begin: func(t *testing.T, w *crashing) {
			w.enlist(t)
			v, err := w.service.Create(w.ctx, volume.CreateRequest{Image: w.image(t, func(*image.Image) {})})
			require.NoError(t, err)
			w.id = v.ID
		}, want: volume.StateAvailable, more: func(w *crashing) error { return w.holds(w.id, "this is Debian") }},
		"create of an image that fails": {begin: func(t *testing.T, w *crashing) {
			w.enlist(t)
			v, err := w.service.Create(w.ctx, volume.CreateRequest{Image: w.image(t, func(*image.Image) {})})
			require.NoError(t, err)
			w.id = v.ID
			w.nodes[0].driver.Inject(fakevolume.Fault{Method: fakevolume.MethodImport, Err: broken})
		}, want: volume.StateError},
		"image of a volume": {begin: after(exists, picture(false)), want: volume.StateAvailable, more: imageIs(image.Active)},
		"image of a volume that fails": {begin: spoilt(fakevolume.MethodPath, after(exists, picture(false))), want: volume.StateAvailable,
			more: imageIs(image.Failed)},
		"image of a snapshot": {begin: after(snapped, picture(true)), want: volume.StateAvailable, more: imageIs(image.Active)},
		"image of a snapshot that fails": {begin: spoilt(fakevolume.MethodClone, after(snapped, picture(true))), want: volume.StateAvailable,
			more: imageIs(image.Failed)},
		"image that is deleted while it is made": {begin: after(snapped, func(w *crashing) error {
			if err := picture(true)(w); err != nil {
				return err
			}
			return w.store.Update(w.ctx, func(tx *state.Tx) error { return image.Images.Delete(tx, w.img) })
		}), want: volume.StateAvailable},
		"clone": {begin: after(exists, func(w *crashing) error {
			v, err := w.service.Create(w.ctx, volume.CreateRequest{Source: w.id})
			w.id = v.ID
			return err
		}), want: volume.StateAvailable},
		"clone that fails": {begin: spoilt(fakevolume.MethodClone, after(exists, func(w *crashing) error {
			v, err := w.service.Create(w.ctx, volume.CreateRequest{Source: w.id})
			w.id = v.ID
			return err
		})), want: volume.StateError},
	} {
		t.Run(name, func(t *testing.T) {
			optest.Crash(t, func(t *testing.T) optest.World {
				fresh := w
				fresh.cloud = newCloud(t, 1)
				return &fresh
			})
		})
	}
}
