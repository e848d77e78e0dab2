package compute_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/state/operation/optest"
)

// crashing is a cloud of one host whose agents die.
type crashing struct {
	*cloud
	begin func(t *testing.T, w *crashing)
	point func(w *crashing, r operation.Record, where string) error // nil: none
	want  compute.State                                             // in the end; "": it is gone
	id    string                                                    // of the instance
	met   int                                                       // points so far
}

func (w *crashing) Begin(t *testing.T) { w.begin(t, w) }

func (w *crashing) Work(ctx context.Context, hooks operation.Hooks) error {
	if w.point != nil {
		inner := hooks.Point
		hooks.Point = func(r operation.Record, where string) error {
			if err := w.point(w, r, where); err != nil {
				return err
			}
			return inner(r, where)
		}
	}
	return w.nodes[0].work(ctx, hooks)
}

func (w *crashing) Settled() bool {
	synctest.Wait() // what a hook begins is begun
	return w.operations() == 0
}

func (w *crashing) Check() error {
	i, err := w.service.Get(admin(), w.id)
	switch {
	case w.want == "" && !errdefs.IsNotFound(err):
		return fmt.Errorf("the instance is not gone: %+v, %w", i, err)
	case w.want != "" && (i.State != w.want || i.Task != compute.TaskNone):
		return fmt.Errorf("the instance should be %s: %+v, %w", w.want, i, err)
	}
	return w.audit()
}

func (w *crashing) Close() error { return w.close() }

// launched has an instance that runs, and no agent.
func launched(t *testing.T, w *crashing) {
	stop := w.start(t)
	w.id = w.run(t, one())[0].ID
	_, err := w.service.WaitActive(w.ctx, w.id)
	require.NoError(t, err)
	stop()
}

func stopped(t *testing.T, w *crashing) {
	launched(t, w)
	stop := w.start(t)
	require.NoError(t, w.service.Stop(w.ctx, w.id))
	_, err := w.service.Wait(w.ctx, w.id, func(i compute.Instance) bool { return i.State == compute.StateStopped })
	require.NoError(t, err)
	stop()
}

func launching(t *testing.T, w *crashing) {
	w.enlist(t)
	w.id = w.run(t, one())[0].ID
}

func crash(t *testing.T, w crashing) {
	optest.Crash(t, func(t *testing.T) optest.World {
		fresh := w
		fresh.cloud = newCloud(t, 1)
		return &fresh
	})
}

func TestCrashes(t *testing.T) {
	act := func(before func(*testing.T, *crashing), action func(w *crashing) error) func(*testing.T, *crashing) {
		return func(t *testing.T, w *crashing) {
			before(t, w)
			require.NoError(t, action(w))
		}
	}
	terminate := func(w *crashing) error { return w.service.Terminate(w.ctx, w.id) }
	adding := act(launched, func(w *crashing) error {
		_, err := w.service.AddFixedIP(w.ctx, w.id, netID, netip.Addr{})
		return err
	})
	setLimits := func(w *crashing) error { return w.service.SetLimits(admin(), w.id, "lan", slow) }
	removeFirst := func(w *crashing) error { return w.service.RemoveFixedIP(w.ctx, w.id, "lan", w.addresses(w.id)[0]) }
	for name, w := range map[string]crashing{
		"launch":      {begin: launching, want: compute.StateActive},
		"terminate":   {begin: act(launched, terminate)},
		"stop":        {begin: act(launched, func(w *crashing) error { return w.service.Stop(w.ctx, w.id) }), want: compute.StateStopped},
		"start":       {begin: act(stopped, func(w *crashing) error { return w.service.Start(w.ctx, w.id) }), want: compute.StateActive},
		"soft reboot": {begin: act(launched, func(w *crashing) error { return w.service.Reboot(w.ctx, w.id, false) }), want: compute.StateActive},
		"hard reboot": {begin: act(launched, func(w *crashing) error { return w.service.Reboot(w.ctx, w.id, true) }), want: compute.StateActive},
		"hard reboot without a domain": {begin: act(launched, func(w *crashing) error {
			w.nodes[0].host.Remove(w.id)
			w.nodes[0].forgetTaps()
			return w.service.Reboot(w.ctx, w.id, true)
		}), want: compute.StateActive},
		"start after the host was reset": {begin: act(stopped, func(w *crashing) error {
			w.nodes[0].host.Remove(w.id)
			w.nodes[0].forgetTaps()
			return w.service.Start(w.ctx, w.id)
		}), want: compute.StateActive},
		"add a fixed IP": {begin: act(launched, func(w *crashing) error {
			_, err := w.service.AddFixedIP(w.ctx, w.id, "lan", netip.MustParseAddr("10.0.0.77"))
			return err
		}), want: compute.StateActive},
		"remove a fixed IP":                 {begin: act(withTwo, removeFirst), want: compute.StateActive},
		"set limits":                        {begin: act(launched, setLimits), want: compute.StateActive},
		"terminate while limits change":     {begin: act(act(launched, setLimits), terminate)},
		"terminate while a fixed IP comes":  {begin: act(adding, terminate)},
		"terminate while a fixed IP leaves": {begin: act(act(withTwo, removeFirst), terminate)},
		"terminate stopped":                 {begin: act(stopped, terminate)},
		"terminate before launch":           {begin: act(launching, terminate)},
		"terminate without domain":          {begin: act(launched, func(w *crashing) error { w.nodes[0].host.Remove(w.id); return terminate(w) })},
	} {
		t.Run(name, func(t *testing.T) { crash(t, w) })
	}
}

// A launch that fails for good at any of its steps leaves an instance in error, and terminating that leaves nothing.
func TestCrashesOfLaunchesThatFail(t *testing.T) {
	broken := fmt.Errorf("broken: %w", errdefs.ErrFailedPrecondition)
	only := func(method string) func(string) error {
		return func(m string) error {
			if m == method {
				return broken
			}
			return nil
		}
	}
	for name, spoil := range map[string]func(n *node){
		"disks":   func(n *node) { n.disks.fail = only("Make") },
		"network": func(n *node) { n.net.Inject(fakenetwork.Fault{Method: fakenetwork.MethodPlug, Err: broken}) },
		"domain":  func(n *node) { n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Err: broken}) },
		"domain after": func(n *node) {
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Err: broken, After: true})
		},
		"domain always": func(n *node) {
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Err: errors.New("flaky"), After: true})
		},
	} {
		for _, terminated := range []bool{false, true} {
			t.Run(fmt.Sprint(name, terminated), func(t *testing.T) {
				w := crashing{want: compute.StateError, begin: func(t *testing.T, w *crashing) {
					launching(t, w)
					spoil(w.nodes[0])
				}}
				if terminated {
					w.want = ""
					w.begin = func(t *testing.T, w *crashing) {
						spoil(w.nodes[0])
						stop := w.start(t)
						w.id = w.run(t, one())[0].ID
						_, err := w.service.WaitActive(w.ctx, w.id)
						require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
						stop()
						require.NoError(t, w.service.Terminate(w.ctx, w.id))
					}
				}
				crash(t, w)
			})
		}
	}
}

// An instance is terminated at each place of its launch, and its agents die at each place of what follows.
func TestCrashesOfTerminationDuringLaunch(t *testing.T) {
	for at := 1; ; at++ {
		reached := false
		t.Run(fmt.Sprint("at place ", at), func(t *testing.T) {
			crash(t, crashing{begin: launching, point: func(w *crashing, r operation.Record, where string) error {
				if w.met++; w.met == at && r.Kind == "instance.launch" {
					reached, w.want = true, ""
					return w.service.Terminate(w.ctx, w.id)
				}
				return nil
			}, want: compute.StateActive})
		})
		if !reached || t.Failed() {
			break
		}
	}
}

// waitRest waits until nothing is done to the instance.
func (c *cloud) waitRest(t *testing.T, id string) compute.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Hour)
	defer cancel()
	i, err := c.service.Wait(ctx, id, func(i compute.Instance) bool { return i.Task == compute.TaskNone })
	require.NoError(t, err)
	return i
}
