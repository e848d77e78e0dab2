package compute_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/state/operation/optest"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

// volumeCrash is a world whose agents of instances die; that of volumes lives.
type volumeCrash struct {
	*storage
	begin    func(t *testing.T, w *volumeCrash)
	want     volume.State // "": it is gone
	id       string       // of the volume
	instance string
	to       string // the instance that the volume moves to; "": it does not move
	hosts    int    // 0: one
}

func (w *volumeCrash) Begin(t *testing.T) { w.begin(t, w) }

func (w *volumeCrash) Work(ctx context.Context, hooks operation.Hooks) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, err := w.agent()
	if err != nil {
		return err
	}
	ended := make(chan error, len(w.nodes)+1)
	go func() { ended <- a.Run(ctx) }()
	go func() { ended <- w.move(auth.NewContext(ctx, auth.Admin(project))) }()
	for _, n := range w.nodes[1:] {
		go func() { ended <- n.work(ctx, hooks) }()
	}
	err = w.nodes[0].work(ctx, hooks)
	cancel()
	for range len(w.nodes) + 1 {
		err = errors.Join(err, <-ended)
	}
	return err
}

// move is who moves a volume: what one has left off, the next goes on with.
func (w *volumeCrash) move(ctx context.Context) error {
	if w.to == "" {
		return nil
	}
	_, err := w.volumes.Wait(ctx, w.id, func(v volume.Volume) bool { return v.State == volume.StateAvailable || v.AttachedTo == w.to })
	if err == nil {
		_, err = w.service.AttachVolume(ctx, compute.AttachRequest{Instance: w.to, Volume: w.id})
	}
	if ctx.Err() != nil || errdefs.IsFailedPrecondition(err) { // it is on its way there, or there
		return nil
	}
	return err
}

func (w *volumeCrash) Settled() bool {
	synctest.Wait()
	return w.operations() == 0
}

func (w *volumeCrash) Check() error {
	v, err := w.volumes.Get(admin(), w.id)
	if w.to != "" && v.AttachedTo != w.to {
		return fmt.Errorf("the volume should be attached to %s: %+v, %w", w.to, v, err)
	}
	if w.want == "" && !errdefs.IsNotFound(err) || w.want != "" && (err != nil || v.State != w.want) {
		return fmt.Errorf("the volume should be %q: %+v, %w", w.want, v, err)
	}
	return w.audit()
}

func (w *volumeCrash) Close() error { return w.close() }

func TestCrashesWithVolumes(t *testing.T) {
	broken := fmt.Errorf("broken: %w", errdefs.ErrFailedPrecondition)
	// before has an instance and a volume, and then no agent.
	before := func(attached bool, then func(w *volumeCrash) error) func(t *testing.T, w *volumeCrash) {
		return func(t *testing.T, w *volumeCrash) {
			stopVolumes, stop := w.run(t), w.start(t)
			w.instance = w.cloud.run(t, one())[0].ID
			_, err := w.service.WaitActive(w.ctx, w.instance)
			require.NoError(t, err)
			w.id = w.volume(t)
			if attached {
				w.attach(t, w.instance, w.id)
			}
			stop()
			stopVolumes()
			require.NoError(t, then(w))
		}
	}
	attach := func(w *volumeCrash) error {
		_, err := w.service.AttachVolume(w.ctx, compute.AttachRequest{Instance: w.instance, Volume: w.id})
		return err
	}
	extend := func(w *volumeCrash) error { _, err := w.volumes.Extend(w.ctx, w.id, 2); return err }
	detach := func(w *volumeCrash) error { return w.service.DetachVolume(w.ctx, w.id) }
	terminate := func(w *volumeCrash) error { return w.service.Terminate(w.ctx, w.instance) }
	both := func(first, second func(w *volumeCrash) error) func(w *volumeCrash) error {
		return func(w *volumeCrash) error {
			if err := first(w); err != nil {
				return err
			}
			return second(w)
		}
	}
	// moving has a second instance, to which the volume is to move from the first, and no agent.
	moving := func(stopped bool) func(t *testing.T, w *volumeCrash) {
		return func(t *testing.T, w *volumeCrash) {
			before(true, func(w *volumeCrash) error {
				stop := w.start(t)
				w.to = w.active(t).ID
				if stopped {
					require.NoError(t, w.service.Stop(w.ctx, w.to))
					w.waitRest(t, w.to)
				}
				stop()
				return detach(w)
			})(t, w)
			if w.hosts > 1 {
				require.NotEqual(t, w.get(t, w.instance).HostID, w.get(t, w.to).HostID)
			}
		}
	}
	noDomain := fakecompute.Fault{Method: fakecompute.MethodCreate, Err: broken}
	// booting has an instance that is to boot from a volume, or from one that is made of a snapshot, and no agent. The volume goes with it.
	booting := func(existing bool, then func(w *volumeCrash) error) func(t *testing.T, w *volumeCrash) {
		return func(t *testing.T, w *volumeCrash) {
			stopVolumes, stop := w.run(t), w.start(t)
			b := compute.BootVolume{DeleteOnTermination: true}
			if id := w.volume(t); existing {
				b.Volume = id
			} else {
				s, err := w.volumes.Snapshot(w.ctx, volume.SnapshotRequest{Volume: id})
				require.NoError(t, err)
				s, err = w.volumes.WaitSnapshot(w.ctx, s.ID, func(s volume.Snapshot) bool { return s.State == volume.StateAvailable })
				require.NoError(t, err)
				b.Snapshot = s.ID
			}
			stop()
			stopVolumes()
			req := one()
			req.Image, req.BootVolume = "", &b
			i := w.cloud.run(t, req)[0]
			w.instance, w.id = i.ID, i.BootVolume
			if then != nil {
				require.NoError(t, then(w))
			}
		}
	}
	for name, w := range map[string]volumeCrash{
		"attach": {begin: before(false, attach), want: volume.StateInUse},
		"attach that fails": {begin: before(false, func(w *volumeCrash) error {
			w.nodes[0].host.Inject(fakecompute.Fault{Method: fakecompute.MethodPlugDisk, After: true, Err: broken})
			return attach(w)
		}), want: volume.StateAvailable},
		"attach that is not exported": {begin: before(false, func(w *volumeCrash) error {
			w.exporter.Fail(func(method, _ string) error {
				if method == "Export" {
					return broken
				}
				return nil
			})
			return attach(w)
		}), want: volume.StateAvailable},
		"boot":                            {begin: booting(true, nil), want: volume.StateInUse},
		"boot from a snapshot":            {begin: booting(false, nil), want: volume.StateInUse},
		"boot that fails":                 {begin: booting(true, func(w *volumeCrash) error { w.nodes[0].host.Inject(noDomain); return nil }), want: volume.StateAvailable},
		"boot from a snapshot that fails": {begin: booting(false, func(w *volumeCrash) error { w.nodes[0].host.Inject(noDomain); return nil })},
		"boot from a snapshot that can't be copied": {begin: booting(false, func(w *volumeCrash) error {
			w.driver.Inject(fakevolume.Fault{Method: fakevolume.MethodClone, Err: broken})
			return nil
		})},
		"terminate while booting":                 {begin: booting(true, terminate)},
		"terminate while booting from a snapshot": {begin: booting(false, terminate)},
		"detach":                     {begin: before(true, detach), want: volume.StateAvailable},
		"move":                       {begin: moving(false), want: volume.StateInUse, hosts: 2},
		"move to a stopped instance": {begin: moving(true), want: volume.StateInUse},
		"extend":                     {begin: before(true, extend), want: volume.StateInUse},
		"extend that is not told": {begin: before(true, func(w *volumeCrash) error {
			w.nodes[0].host.Inject(fakecompute.Fault{Method: fakecompute.MethodGrowDisk, After: true, Err: broken})
			return extend(w)
		}), want: volume.StateInUse},
		"stop while extending":      {begin: before(true, both(extend, func(w *volumeCrash) error { return w.service.Stop(w.ctx, w.instance) })), want: volume.StateInUse},
		"terminate while extending": {begin: before(true, both(extend, terminate)), want: volume.StateAvailable},
		"terminate":                 {begin: before(true, terminate), want: volume.StateAvailable},
		"terminate while attaching": {begin: before(false, both(attach, terminate)), want: volume.StateAvailable},
		"terminate while detaching": {begin: before(true, both(detach, terminate)), want: volume.StateAvailable},
	} {
		t.Run(name, func(t *testing.T) {
			optest.Crash(t, func(t *testing.T) optest.World {
				fresh := w
				fresh.storage = newStorage(t, newCloud(t, max(1, w.hosts)))
				return &fresh
			})
		})
	}
}
