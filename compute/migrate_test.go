package compute_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/state/operation/optest"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// newRack is a cloud with hosts between which machines can move, and with volumes.
func newRack(t testing.TB, hosts int) *storage {
	c := newCloud(t, hosts)
	var all []*fakecompute.Host
	for _, n := range c.nodes {
		all = append(all, n.host)
	}
	fakecompute.Connected(all...)
	return newStorage(t, c)
}

// live returns how many copies of a machine run.
func (c *cloud) live(id string) (n int) {
	for _, node := range c.nodes {
		for _, d := range node.host.Domains() {
			if d.ID == id && d.Power == compute.PowerRunning {
				n++
			}
		}
	}
	return n
}

// from returns the host that an instance is on, and another one.
func (c *cloud) from(t testing.TB, id string) (source, destination *node) {
	t.Helper()
	source = c.node(c.get(t, id).HostID)
	for _, n := range c.nodes {
		if n != source {
			return source, n
		}
	}
	t.Fatal("there is no other host")
	return nil, nil
}

// inRack runs a test of an instance that runs on the first of two hosts, with a volume, and of what migrates it.
func inRack(t *testing.T, f func(t *testing.T, s *storage, id string, source, destination *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newRack(t, 2)
		stopVolumes, stop := s.run(t), s.start(t)
		id := s.cloud.run(t, one())[0].ID
		_, err := s.service.WaitActive(s.ctx, id)
		require.NoError(t, err)
		s.attach(t, id, s.volume(t))
		source, destination := s.from(t, id)
		f(t, s, id, source, destination)
		require.NoError(t, s.settled())
		stop()
		stopVolumes()
		require.NoError(t, s.close())
	})
}

// settled waits until the cloud is at rest and as its records say.
func (s *storage) settled() (err error) {
	for range 120 {
		synctest.Wait()
		if err = s.audit(); err == nil {
			return nil
		}
		time.Sleep(time.Second)
	}
	return err
}

func TestLiveMigration(t *testing.T) {
	inRack(t, func(t *testing.T, s *storage, id string, source, destination *node) {
		before, _ := source.host.Machine(id)
		for _, host := range []string{"host-" + destination.id[:8], source.id, ""} {
			on, to := s.from(t, id)
			begun := time.Now()
			sending := on.host.Inject(fakecompute.Fault{Method: fakecompute.MethodMigrate, Hang: true})
			got, err := s.service.LiveMigrate(admin(), id, host)
			require.NoError(t, err)
			require.Equal(t, to.id, got)
			require.Equal(t, "MIGRATING", func() string { i := s.get(t, id); return i.Status() }())
			sending.Remove()
			i, err := s.service.WaitActive(s.ctx, id)
			require.NoError(t, err)
			require.Equal(t, to.id, i.HostID)
			require.Less(t, time.Since(begun), time.Second, "the hosts are rung, and wait for no tick")
			require.Empty(t, i.Fault)
			require.Equal(t, 1, s.live(id))
			require.NoError(t, s.settled())
			_, there := on.host.Machine(id)
			require.False(t, there, "what is left on the host that it has left is removed")
		}
		m, _ := destination.host.Machine(id)
		require.Equal(t, before.Epoch, m.Epoch)
		require.Equal(t, before.NICs, m.NICs)
		require.Equal(t, 1, destination.host.Calls(fakecompute.MethodPrepare)-destination.host.Calls(fakecompute.MethodMigrate))
		require.NoError(t, s.service.Reboot(s.ctx, id, true))
		s.waitRest(t, id)
		require.NoError(t, s.service.Terminate(s.ctx, id))
		require.NoError(t, s.service.WaitGone(s.ctx, id))
	})
}

// A console is the host's: a guest that moves does not boot.
func TestAMachineThatMovesDoesNotBoot(t *testing.T) {
	inRack(t, func(t *testing.T, s *storage, id string, source, destination *node) {
		_, err := s.service.LiveMigrate(admin(), id, "")
		require.NoError(t, err)
		_, err = s.service.WaitActive(s.ctx, id)
		require.NoError(t, err)
		out, err := s.service.Console(s.ctx, id, 0)
		require.NoError(t, err)
		require.Empty(t, string(out))
	})
}

func TestMigrationsThatAreRefused(t *testing.T) {
	inRack(t, func(t *testing.T, s *storage, id string, source, destination *node) {
		refused := func(says string, class error, host string) {
			t.Helper()
			_, err := s.service.LiveMigrate(admin(), id, host)
			require.ErrorIs(t, err, class)
			require.ErrorContains(t, err, says)
			require.Equal(t, compute.TaskNone, s.get(t, id).Task)
		}
		host := func(change func(h *scheduler.Host)) {
			s.update(t, func(tx *state.Tx) error {
				h, err := scheduler.Hosts.Get(tx, destination.id)
				change(&h)
				return errors.Join(err, scheduler.Hosts.Put(tx, h))
			})
		}
		_, err := s.service.LiveMigrate(s.ctx, id, "")
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
		_, err = s.service.LiveMigrate(admin(), uuid.NewString(), "")
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		require.ErrorIs(t, s.service.CancelMigration(admin(), id), errdefs.ErrFailedPrecondition)
		refused("is on host host-"+source.id[:8]+" already", errdefs.ErrFailedPrecondition, source.id)
		refused("1 failed another host, 1 failed host", scheduler.ErrNoValidHost, "nowhere")
		host(func(h *scheduler.Host) { h.Disabled = true })
		refused("1 failed another host, 1 failed enabled", scheduler.ErrNoValidHost, "")
		host(func(h *scheduler.Host) { h.Disabled = false; h.Total.MemoryMiB = 1000 })
		refused("1 failed memory", scheduler.ErrNoValidHost, "")
		host(func(h *scheduler.Host) { h.Total = roomy })

		other := s.volume(t)
		s.attach(t, id, other)
		s.update(t, func(tx *state.Tx) error {
			at, err := volume.Attachments.Get(tx, other)
			return errors.Join(err, volume.Leave(tx, other, at.Epoch))
		})
		refused("is detaching, must be in-use", errdefs.ErrFailedPrecondition, "")
		s.update(t, func(tx *state.Tx) error {
			at, err := volume.Attachments.Get(tx, other)
			return errors.Join(err, volume.Confirm(tx, other, at.Epoch, ""))
		})
		lan := func(multi bool) {
			s.update(t, func(tx *state.Tx) error {
				n, err := network.Networks.Get(tx, netID)
				n.MultiHost = multi
				return errors.Join(err, network.Networks.Put(tx, n))
			})
		}
		lan(true)
		refused("has a gateway on each node", errdefs.ErrFailedPrecondition, "")
		lan(false)
		s.update(t, func(tx *state.Tx) error { return image.Images.Delete(tx, debianID) })
		refused("image "+debianID+", which it was made of, is gone", errdefs.ErrFailedPrecondition, "")
		s.update(t, func(tx *state.Tx) error { return image.Images.Put(tx, debian()) })

		moving := destination.host.Inject(fakecompute.Fault{Method: fakecompute.MethodPrepare, Hang: true})
		_, err = s.service.LiveMigrate(admin(), id, "")
		require.NoError(t, err)
		require.ErrorIs(t, s.service.DetachVolume(s.ctx, other), errdefs.ErrFailedPrecondition)
		require.ErrorIs(t, s.service.Stop(s.ctx, id), errdefs.ErrFailedPrecondition)
		_, err = s.service.AddFixedIP(s.ctx, id, netID, netip.Addr{})
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		_, err = s.service.LiveMigrate(admin(), id, "")
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		moving.Remove()
		_, err = s.service.WaitActive(s.ctx, id)
		require.NoError(t, err)
		require.NoError(t, s.service.Stop(s.ctx, id))
		s.waitRest(t, id)
		refused("is stopped", errdefs.ErrFailedPrecondition, "")
	})
}

// What is moving to a host has its place there from the request on, and on its own host too.
func TestAMigrationClaimsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 2)
		c.enlist(t)
		large := one()
		large.Flavor = "m1.xlarge" // 16 of 24 GiB
		made, err := c.service.Run(c.ctx, large)
		require.NoError(t, err)
		c.update(t, func(tx *state.Tx) error {
			i, err := compute.Instances.Get(tx, made[0].ID)
			i.State, i.Task = compute.StateActive, compute.TaskNone
			return errors.Join(err, compute.Instances.Put(tx, i))
		})
		_, err = c.service.LiveMigrate(admin(), made[0].ID, "")
		require.NoError(t, err)
		_, err = c.service.Run(c.ctx, large)
		require.ErrorIs(t, err, scheduler.ErrNoValidHost, "a machine that moves has its place on both")
		require.NoError(t, c.close())
	})
}

// A destination that dies before it is ready holds up its guest no longer than it is waited for, or than somebody wants. Only the instance's
// addresses are not given to others before it is known to have nothing of them.
func TestADestinationThatIsDead(t *testing.T) {
	for name, end := range map[string]func(s *storage, id string) error{
		"it is waited for": func(*storage, string) error { return nil },
		"cancelled":        func(s *storage, id string) error { return s.service.CancelMigration(admin(), id) },
		"terminated":       func(s *storage, id string) error { return s.service.Terminate(s.ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newRack(t, 2)
				stopVolumes, stop := s.run(t), s.start(t)
				id := s.cloud.run(t, one())[0].ID
				_, err := s.service.WaitActive(s.ctx, id)
				require.NoError(t, err)
				s.attach(t, id, s.volume(t))
				stop()
				source, destination := s.from(t, id)
				ctx, cancel := context.WithCancel(context.Background())
				var agents sync.WaitGroup
				work := func(n *node) {
					agents.Go(func() {
						if err := n.work(ctx, operation.Hooks{}); err != nil {
							t.Error(err)
						}
					})
				}
				_, err = s.service.LiveMigrate(admin(), id, "")
				require.NoError(t, err)
				work(source)
				time.Sleep(10 * time.Second)
				require.Equal(t, compute.TaskMigrating, s.get(t, id).Task)
				require.NoError(t, end(s, id))
				if name == "terminated" {
					time.Sleep(5 * time.Minute)
					i := s.get(t, id)
					require.Equal(t, compute.TaskDeleting, i.Task)
					require.Contains(t, i.Fault, `hosts ["host-`+destination.id[:8]+`"] have not removed yet`)
					require.Empty(t, source.host.Domains())
					work(destination)
				}
				limited, done := context.WithTimeout(s.ctx, 31*time.Minute)
				i, err := s.service.Wait(limited, id, func(i compute.Instance) bool { return i.Task == compute.TaskNone })
				done()
				if name == "terminated" {
					require.ErrorIs(t, err, errdefs.ErrNotFound)
				} else {
					require.NoError(t, err)
					require.Equal(t, source.id, i.HostID)
					require.Equal(t, compute.StateActive, i.State)
					require.Contains(t, i.Fault, map[string]string{"cancelled": "cancelled"}[name])
					require.NotEmpty(t, i.Fault)
					require.NoError(t, s.service.Reboot(s.ctx, id, true))
					s.waitRest(t, id)
					work(destination)
				}
				require.NoError(t, s.settled())
				cancel()
				agents.Wait()
				stopVolumes()
				require.NoError(t, s.close())
			})
		})
	}
}

// moving is a migration whose agents die, at both hosts or at one of them, alone or with their machines.
type moving struct {
	*storage
	boot   bool                        // it boots from the volume
	spoil  func(s, d *node)            // before it begins
	dies   func(w *moving, n int) bool // whether the agent of this host is one of those that die
	power  []int                       // hosts that lose their power with the agents; 0 is the source
	at     int                         // place at which act happens; 0: none
	act    func(w *moving) error
	gone   bool
	want   int // the host where it is in the end; -1: either
	met    int
	id     string
	nodes2 [2]*node // the source and the destination
	lives  int
	end    []func()
	mu     sync.Mutex
	twice  error
}

func (w *moving) Begin(t *testing.T) {
	stopVolumes, stop := w.run(t), w.start(t)
	w.end = append(w.end, stopVolumes)
	req := one()
	v := w.volume(t)
	if w.boot {
		req.Image, req.BootVolume = "", &compute.BootVolume{Volume: v}
	}
	w.id = w.cloud.run(t, req)[0].ID
	_, err := w.service.WaitActive(w.ctx, w.id)
	require.NoError(t, err)
	if !w.boot {
		w.attach(t, w.id, v)
	}
	stop()
	w.nodes2[0], w.nodes2[1] = w.from(t, w.id)
	if w.spoil != nil {
		w.spoil(w.nodes2[0], w.nodes2[1])
	}
	_, err = w.service.LiveMigrate(admin(), w.id, "")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	for n, node := range w.nodes2 {
		if w.dies != nil && !w.dies(w, n) {
			others.Go(func() {
				if err := node.work(ctx, operation.Hooks{Point: w.watch}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	w.end = append(w.end, func() { cancel(); others.Wait() })
}

// watch looks at each place whether the machine runs once.
func (w *moving) watch(r operation.Record, where string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.live(w.id); n > 1 && w.twice == nil {
		w.twice = fmt.Errorf("%d copies of the machine run, %s %s", n, r.Kind, where)
	}
	if w.met++; w.at > 0 && w.met == w.at {
		return w.act(w)
	}
	return nil
}

// places returns how many there were so far.
func (w *moving) places() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.met
}

func (w *moving) Work(ctx context.Context, hooks operation.Hooks) error {
	if w.lives++; w.lives > 1 {
		for _, n := range w.power {
			w.nodes2[n].host.Reset()
			w.nodes2[n].forgetTaps()
		}
	}
	inner := hooks.Point
	hooks.Point = func(r operation.Record, where string) error {
		return errors.Join(w.watch(r, where), inner(r, where))
	}
	errs := make(chan error, 2)
	began := 0
	for n, node := range w.nodes2 {
		if w.dies == nil || w.dies(w, n) {
			began++
			go func() { errs <- node.work(ctx, hooks) }()
		}
	}
	var err error
	for range began {
		err = errors.Join(err, <-errs)
	}
	return err
}

func (w *moving) Settled() bool {
	synctest.Wait()
	if w.operations() > 0 {
		return false
	}
	for _, n := range w.nodes { // what a network agent does every few seconds
		ports, err := n.ports()
		if err == nil {
			_, err = ports.Sync(w.ctx)
		}
		if err != nil {
			return false
		}
	}
	return w.Check() == nil
}

func (w *moving) Check() error {
	i, err := w.service.Get(admin(), w.id)
	switch {
	case w.gone && !errdefs.IsNotFound(err):
		return fmt.Errorf("the instance is not gone: %+v, %w", i, err)
	case w.gone:
	case err != nil:
		return err
	case i.Task != compute.TaskNone || i.State != compute.StateActive && (i.State != compute.StateStopped || w.power == nil):
		return fmt.Errorf("the instance should run: %+v", i)
	case w.want >= 0 && i.HostID != w.nodes2[w.want].id:
		return fmt.Errorf("the instance should be on the other host: %+v", i)
	case i.State == compute.StateActive && w.live(w.id) != 1:
		return fmt.Errorf("%d copies of it run", w.live(w.id))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.twice, w.audit())
}

func (w *moving) Close() error {
	for _, end := range w.end {
		end()
	}
	return w.close()
}

func TestCrashesOfMigrations(t *testing.T) {
	testneed.Slow(t)
	broken := fmt.Errorf("broken: %w", errdefs.ErrFailedPrecondition)
	flaky := errors.New("flaky")
	fails := func(f fakecompute.Fault, at int) func(s, d *node) {
		return func(s, d *node) { [2]*node{s, d}[at].host.Inject(f) }
	}
	onlyIn := func(method string, err error) func(string) error {
		return func(m string) error {
			if m == method {
				return err
			}
			return nil
		}
	}
	only := func(host int) func(*moving, int) bool { return func(_ *moving, n int) bool { return n == host } }
	for name, w := range map[string]*moving{
		"all agents die":                   {want: 1},
		"it boots from a volume":           {want: 1, boot: true},
		"the source's agent dies":          {want: 1, dies: only(0)},
		"the destination's agent dies":     {want: 1, dies: only(1)},
		"the source loses its power":       {want: -1, power: []int{0}},
		"the destination loses its power":  {want: -1, power: []int{1}},
		"both lose their power":            {want: -1, power: []int{0, 1}},
		"it has no disk there":             {want: 0, spoil: func(_, d *node) { d.disks.fail = onlyIn("Make", broken) }},
		"it is not expected":               {want: 0, spoil: fails(fakecompute.Fault{Method: fakecompute.MethodPrepare, Err: broken, After: true}, 1)},
		"it can't be sent":                 {want: 0, spoil: fails(fakecompute.Fault{Method: fakecompute.MethodMigrate, Err: broken}, 0)},
		"it is sent at the second attempt": {want: 1, spoil: fails(fakecompute.Fault{Method: fakecompute.MethodMigrate, Call: 1, Err: flaky}, 0)},
		"that it was sent is not known":    {want: 1, spoil: fails(fakecompute.Fault{Method: fakecompute.MethodMigrate, Err: flaky, After: true, Call: 1}, 0)},
		"that it was sent is never known":  {want: 1, spoil: fails(fakecompute.Fault{Method: fakecompute.MethodMigrate, Err: broken, After: true}, 0)},
	} {
		t.Run(name, func(t *testing.T) { crashMove(t, w) })
	}
}

func crashMove(t *testing.T, w *moving) {
	optest.Crash(t, func(t *testing.T) optest.World {
		return &moving{storage: newRack(t, 2), boot: w.boot, spoil: w.spoil, dies: w.dies, power: w.power, at: w.at, act: w.act, gone: w.gone, want: w.want}
	})
}

// At each place of a migration somebody wants it ended, or the instance gone.
func TestMigrationsThatAreEnded(t *testing.T) {
	for name, w := range map[string]*moving{
		"cancelled": {want: -1, act: func(w *moving) error {
			err := w.service.CancelMigration(admin(), w.id)
			if errdefs.IsFailedPrecondition(err) {
				return nil // it is over
			}
			return err
		}},
		"terminated": {gone: true, act: func(w *moving) error { return w.service.Terminate(w.ctx, w.id) }},
	} {
		t.Run(name, func(t *testing.T) {
			for at := 1; ; at++ {
				reached := true
				synctest.Test(t, func(t *testing.T) {
					w := &moving{storage: newRack(t, 2), act: w.act, at: at, gone: w.gone, want: w.want}
					w.Begin(t)
					ctx, cancel := context.WithCancel(context.Background())
					ended := make(chan error, 1)
					go func() {
						ended <- w.Work(ctx, operation.Hooks{Point: func(operation.Record, string) error { return nil }})
					}()
					for range 600 {
						if w.Settled() || w.places() < at && w.operations() == 0 {
							break
						}
						time.Sleep(time.Second)
					}
					cancel()
					require.NoError(t, <-ended)
					if reached = w.places() >= at; reached {
						require.NoError(t, w.Check(), "at place %d", at)
					}
					require.NoError(t, w.Close())
				})
				if !reached || t.Failed() {
					require.Greater(t, at, 10)
					return
				}
			}
		})
	}
}

// TestAVolumeGrowsWhileItsInstanceMoves: the machine is told where it is when it has moved.
func TestAVolumeGrowsWhileItsInstanceMoves(t *testing.T) {
	inRack(t, func(t *testing.T, s *storage, id string, source, destination *node) {
		var v string
		s.update(t, func(tx *state.Tx) error {
			for at := range volume.Attachments.By(tx, "instance", id) {
				v = at.VolumeID
			}
			return nil
		})
		moving := source.host.Inject(fakecompute.Fault{Method: fakecompute.MethodMigrate, Hang: true})
		_, err := s.service.LiveMigrate(admin(), id, "")
		require.NoError(t, err)
		<-moving.Struck()
		_, err = s.volumes.Extend(s.ctx, v, 2)
		require.NoError(t, err)
		synctest.Wait() // it is larger, and its instance is to be told
		moving.Remove()
		require.Equal(t, destination.id, s.waitRest(t, id).HostID)
		grown, err := s.volumes.WaitFor(s.ctx, v, volume.StateInUse)
		require.NoError(t, err)
		require.Empty(t, grown.Fault)
		require.EqualValues(t, 2<<30, destination.host.DiskSize(id, compute.VolumeSerial(v)))
	})
}
