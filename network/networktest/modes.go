package networktest

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// onVLAN makes the n-th bridge of d one of a VLAN of the environment's uplink.
func (e *bench) onVLAN(d network.Desired, n, id int) network.Desired {
	d = d.Clone()
	d.Bridges[n].Uplink, d.Bridges[n].VLAN = e.Uplink, id
	return d
}

// external has taps on an administrator's bridge.
func external(bridge string, taps ...int) network.Desired {
	d := desired(taps...)
	d.Bridges[0] = network.Bridge{Name: bridge, External: true}
	for i := range d.Taps {
		d.Taps[i].Bridge = bridge
	}
	return d
}

func modeRows() []row {
	canVLAN := func(e Env) bool { return e.VLAN && e.Uplink != "" }
	return []row{
		{
			name:  "VLANs",
			rule:  "The uplink itself is no port of it, keeps its addresses and routes, and carries as many VLANs as there are.",
			needs: func(e Env) bool { return canVLAN(e) && e.Others != nil },
			check: func(ctx context.Context, e *bench) error {
				before, err := e.Others()
				if err != nil {
					return fmt.Errorf("Env.Others: %w", err)
				}
				d := desired(1)
				d.Bridges = append(d.Bridges, bridge(2))
				d.Taps = append(d.Taps, tap(2, 1))
				d = e.onVLAN(e.onVLAN(d, 0, 100), 1, network.MaxVLAN)
				untouched := func() error {
					after, err := e.Others()
					if err == nil && after != before {
						err = fmt.Errorf("what is not the manager's was changed from\n%s\nto\n%s", before, after)
					}
					return err
				}
				return all(
					func() error { return e.apply(ctx, d) },
					func() error { return e.is(ctx, d) },
					untouched,
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.is(ctx, network.Desired{}) },
					untouched,
				)
			},
		},
		{
			name:  "VLANs come and go",
			rule:  "The sub-interface is made and removed with the bridge.",
			needs: canVLAN,
			check: func(ctx context.Context, e *bench) error {
				one := e.onVLAN(desired(1), 0, 100)
				other := e.onVLAN(desired(1), 0, 101)
				plain := desired(1)
				plain.Bridges[0].Uplink = e.Uplink
				moved := desired()
				moved.Bridges = []network.Bridge{bridge(2)}
				moved = e.onVLAN(moved, 0, 100)
				var steps []func() error
				for _, d := range []network.Desired{one, other, desired(1), one, plain, one, moved, one} {
					steps = append(steps,
						func() error { return e.apply(ctx, d) },
						func() error { return e.is(ctx, d) })
				}
				for _, d := range []network.Desired{other, plain, one} {
					steps = append(steps,
						func() error { return e.Manager.Plug(ctx, d.Bridges[0], d.Taps[0]) },
						func() error { return e.is(ctx, d) })
				}
				return all(append(steps,
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.is(ctx, network.Desired{}) },
					func() error { return e.Manager.Plug(ctx, one.Bridges[0], one.Taps[0]) },
					func() error { return e.is(ctx, one) },
				)...)
			},
		},
		{
			name:  "a VLAN of an uplink that is not there",
			rule:  "An uplink that does not exist is NotFound, names it, and everything else in d is applied all the same.",
			needs: canVLAN,
			check: func(ctx context.Context, e *bench) error {
				d := e.onVLAN(desired(1), 0, 100)
				d.Bridges[0].Uplink = "nt-nowhere"
				d.Bridges = append(d.Bridges, bridge(2))
				d.Taps = append(d.Taps, tap(2, 1))
				_, err := e.Manager.Apply(ctx, d)
				if err := names("Apply", err, errdefs.ErrNotFound, "nt-nowhere"); err != nil {
					return err
				}
				d.Bridges[0].Uplink, d.Bridges[0].VLAN = "", 0
				return e.has(ctx, d)
			},
		},
		{
			name:  "an administrator's bridge",
			rule:  "taps join it and leave it, and nothing else of it is changed.",
			needs: func(e Env) bool { return e.External != "" && e.Others != nil },
			check: func(ctx context.Context, e *bench) error {
				before, err := e.Others()
				if err != nil {
					return fmt.Errorf("Env.Others: %w", err)
				}
				mixed := external(e.External, 1)
				mixed.Bridges = append(mixed.Bridges, bridge(2))
				mixed.Taps = append(mixed.Taps, tap(2, 1))
				steps := []func() error{
					func() error { return e.apply(ctx, external(e.External, 1, 2)) },
					func() error { return e.is(ctx, external(e.External, 1, 2)) },
					func() error { return e.apply(ctx, mixed) },
					func() error { return e.is(ctx, mixed) },
					func() error { return e.Manager.Plug(ctx, mixed.Bridges[0], external(e.External, 3).Taps[0]) },
					func() error { return e.Manager.Unplug(ctx, tap(1, 1).Name) },
					func() error { return e.apply(ctx, external(e.External, 3)) },
					func() error { return e.is(ctx, external(e.External, 3)) },
					func() error { return e.apply(ctx, desired(3)) }, // to one of ours
					func() error { return e.is(ctx, desired(3)) },
					func() error { return e.apply(ctx, external(e.External, 3)) },
					func() error { return e.is(ctx, external(e.External, 3)) },
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.is(ctx, network.Desired{}) },
				}
				for i, step := range steps {
					if err := step(); err != nil {
						return fmt.Errorf("step %d: %w", i+1, err)
					}
					after, err := e.Others()
					if err != nil {
						return fmt.Errorf("Env.Others: %w", err)
					}
					if before != after {
						return fmt.Errorf("step %d: what is not the manager's was changed from\n%s\nto\n%s", i+1, before, after)
					}
				}
				return nil
			},
		},
		{
			name: "no administrator's bridge",
			rule: "An External bridge that does not exist, or is no bridge, is NotFound, names it, its taps are on no bridge until it is there, and everything else in d is applied all the same.",
			check: func(ctx context.Context, e *bench) error {
				d := external("nt-nobridge", 1)
				d.Bridges = append(d.Bridges, bridge(2))
				d.Taps = append(d.Taps, tap(2, 1))
				rest := desired()
				rest.Bridges, rest.Taps = d.Bridges[1:], d.Taps[1:]
				for range 2 {
					_, err := e.Manager.Apply(ctx, d)
					if err := names("Apply", err, errdefs.ErrNotFound, "nt-nobridge"); err != nil {
						return err
					}
				}
				if err := names("Plug", e.Manager.Plug(ctx, d.Bridges[0], d.Taps[0]), errdefs.ErrNotFound, "nt-nobridge"); err != nil {
					return err
				}
				if err := e.has(ctx, rest); err != nil || e.Foreign == nil {
					return err
				}
				if err := e.Foreign("nt-nobridge"); err != nil {
					return fmt.Errorf("Env.Foreign: %w", err)
				}
				return all(
					func() error { return e.apply(ctx, d) },
					func() error { return e.is(ctx, d) },
				)
			},
		},
	}
}
