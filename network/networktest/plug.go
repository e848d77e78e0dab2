package networktest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func plugRows() []row {
	return []row{
		{
			name: "plug",
			rule: "Plug adds or mends one tap, on a bridge that an earlier Apply or Plug made, or that is made now as b says.",
			check: func(ctx context.Context, e *bench) error {
				if err := all(
					func() error { return e.Manager.Plug(ctx, bridge(1), tap(1, 1)) },
					func() error { return e.guarded() },
					func() error { return e.is(ctx, desired(1)) },
					func() error { return e.Manager.Plug(ctx, bridge(1), tap(1, 2)) },
					func() error { return e.Manager.Plug(ctx, bridge(1), tap(1, 2)) },
					func() error { return e.is(ctx, desired(1, 2)) },
				); err != nil {
					return err
				}
				d := desired(1, 2)
				d.Taps[1].IPs = []netip.Addr{netip.MustParseAddr("10.99.1.88"), netip.MustParseAddr("fd00::88")}
				d.Taps[1].MAC[5] = 0x88
				d.Taps[1].Port = "another"
				if err := all(
					func() error { return e.Manager.Plug(ctx, bridge(1), d.Taps[1]) },
					func() error { return e.is(ctx, d) },
				); err != nil {
					return fmt.Errorf("mending: %w", err)
				}
				return nil
			},
		},
		{
			name: "limits",
			rule: "Limits are how much the guest gets and sends. They may change while the tap is there.",
			check: func(ctx context.Context, e *bench) error {
				d := desired(1, 2)
				for _, limits := range []network.Limits{
					{In: network.Rate{Bytes: 1_000_000}, Out: network.Rate{Bytes: 500_000, Burst: 20_000}},
					{In: network.Rate{Bytes: 1_000_001}},
					{Out: network.Rate{Bytes: network.MaxRate, Burst: 1}},
					{},
					{In: network.Rate{Bytes: network.MinRate}},
				} {
					d.Taps[1].Limits = limits
					if err := all(
						func() error { return e.apply(ctx, desired(1)) },
						func() error { return e.Manager.Plug(ctx, d.Bridges[0], d.Taps[1]) },
						func() error { return e.is(ctx, d) },
						func() error { return e.apply(ctx, desired(1, 2)) },
						func() error { return e.is(ctx, desired(1, 2)) },
						func() error { return e.Manager.Plug(ctx, d.Bridges[0], d.Taps[1]) },
						func() error { return e.is(ctx, d) },
						func() error { return e.Manager.Plug(ctx, d.Bridges[0], desired(1, 2).Taps[1]) },
						func() error { return e.is(ctx, desired(1, 2)) },
						func() error { return e.apply(ctx, d) },
						func() error { return e.is(ctx, d) },
						func() error { return e.Manager.Unplug(ctx, d.Taps[1].Name) },
						func() error { return e.is(ctx, desired(1)) },
						func() error { return e.Manager.Plug(ctx, d.Bridges[0], d.Taps[1]) },
						func() error { return e.Manager.Plug(ctx, d.Bridges[0], desired(1, 2).Taps[0]) },
						func() error { return e.is(ctx, d) },
					); err != nil {
						return fmt.Errorf("%+v: %w", limits, err)
					}
				}
				return nil
			},
		},
		{
			name:  "addresses come and go",
			rule:  "the fixed IPs: all that the guest may use as a source",
			needs: func(e Env) bool { return e.Passes != nil },
			check: func(ctx context.Context, e *bench) error {
				d := guarded()
				db, first := d.Taps[1], d.Taps[0]
				second := first // what the guest sends from its second address
				second.IPs = []netip.Addr{netip.MustParseAddr("10.99.1.88"), first.IPs[0]}
				both := first
				both.IPs = []netip.Addr{first.IPs[0], second.IPs[0]}
				query := network.Packet{Protocol: network.TCP, Port: 5432}
				db.Groups, d.Groups[1].Rules = []string{"nt-db"}, []network.Rule{rule("ingress tcp 5432-5432 group:nt-app")}
				one, two := d.Clone(), d.Clone()
				two.Taps[0] = both
				two.Groups[0].Members = both.IPs
				return all(
					func() error { return e.apply(ctx, one) },
					func() error { return e.passes(first, db, query, true) },
					func() error { return e.Manager.Plug(ctx, d.Bridges[0], both) },
					func() error { return e.is(ctx, two) }, // it is a member of the group too
					func() error { return e.passes(first, db, query, true) },
					func() error { return e.passes(second, db, query, true) },
					func() error { return e.Manager.Plug(ctx, d.Bridges[0], first) },
					func() error { return e.Manager.SetGroups(ctx, one.Groups) },
					func() error { return e.is(ctx, one) },
					func() error { return e.passes(first, db, query, true) },
				)
			},
		},
		{
			name: "plug is apply",
			rule: "It does the same as Apply with that tap added",
			check: func(ctx context.Context, e *bench) error {
				d := desired(1)
				d.Bridges[0].MTU = 1400
				d.Bridges[0].Gateway = netip.MustParsePrefix("10.99.1.254/24")
				both := desired(1)
				both.Bridges = append(both.Bridges, bridge(2))
				both.Taps[0].Bridge = bridge(2).Name
				return all(
					func() error { return e.apply(ctx, desired()) },
					func() error { return e.Manager.Plug(ctx, d.Bridges[0], d.Taps[0]) },
					func() error { return e.is(ctx, d) },
					func() error { return e.apply(ctx, desired(1)) },
					func() error { return e.Manager.Plug(ctx, both.Bridges[1], both.Taps[0]) }, // from bridge to bridge
					func() error { return e.is(ctx, both) },
				)
			},
		},
		{
			name:  "plug after drift",
			rule:  "Plug adds or mends one tap",
			needs: func(e Env) bool { return len(e.Drift) > 0 },
			check: func(ctx context.Context, e *bench) error {
				for name, drift := range e.Drift {
					if strings.HasPrefix(name, "other: ") {
						continue // more than Plug looks at
					}
					if err := e.apply(ctx, desired(1)); err != nil {
						return err
					}
					if err := drift(bridge(1).Name, tap(1, 1).Name); err != nil {
						return fmt.Errorf("Env.Drift %s: %w", name, err)
					}
					if err := all(
						func() error { return e.Manager.Plug(ctx, bridge(1), tap(1, 1)) },
						func() error { return e.is(ctx, desired(1)) },
					); err != nil {
						return fmt.Errorf("after %s: %w", name, err)
					}
				}
				return nil
			},
		},
		{
			name:  "plug with an uplink",
			rule:  "on a bridge that an earlier Apply or Plug made, or that is made now as b says",
			needs: func(e Env) bool { return e.Uplink != "" },
			check: func(ctx context.Context, e *bench) error {
				up, down := desired(1), desired(1, 2)
				up.Bridges[0].Uplink = e.Uplink
				return all(
					func() error { return e.Manager.Plug(ctx, up.Bridges[0], up.Taps[0]) },
					func() error { return e.is(ctx, up) },
					func() error { return e.Manager.Plug(ctx, down.Bridges[0], down.Taps[1]) },
					func() error { return e.is(ctx, down) },
				)
			},
		},
		{
			name: "plug refuses",
			rule: "A t whose Bridge is not b's Name is InvalidArgument.",
			check: func(ctx context.Context, e *bench) error {
				bad := tap(1, 1)
				bad.MAC = nil
				return all(
					func() error {
						return class("Plug on another bridge", e.Manager.Plug(ctx, bridge(2), tap(1, 1)), errdefs.ErrInvalidArgument)
					},
					func() error {
						return class("Plug without a MAC", e.Manager.Plug(ctx, bridge(1), bad), errdefs.ErrInvalidArgument)
					},
					func() error { return e.is(ctx, network.Desired{}) },
				)
			},
		},
		{
			name: "unplug",
			rule: "Unplug removes the tap with this name and its filter",
			check: func(ctx context.Context, e *bench) error {
				return all(
					func() error { return e.apply(ctx, desired(1, 2)) },
					func() error { return e.Manager.Unplug(ctx, tap(1, 1).Name) },
					func() error { return e.is(ctx, desired(2)) },
					func() error { return e.Manager.Unplug(ctx, tap(1, 1).Name) },
					func() error { return e.Manager.Unplug(ctx, tap(1, 2).Name) },
					func() error { return e.is(ctx, desired()) },
				)
			},
		},
		{
			name:  "unplug what is held open",
			rule:  "Unplug removes the tap with this name and its filter, also while a machine holds it open.",
			needs: func(e Env) bool { return e.Hold != nil },
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, desired(1)); err != nil {
					return err
				}
				release, err := e.Hold(tap(1, 1).Name)
				if err != nil {
					return fmt.Errorf("Env.Hold: %w", err)
				}
				defer release()
				return all(
					func() error { return e.Manager.Unplug(ctx, tap(1, 1).Name) },
					func() error { return e.is(ctx, desired()) },
				)
			},
		},
		{
			name: "many at once",
			rule: "All methods are safe for concurrent use and take effect one after the other.",
			check: func(ctx context.Context, e *bench) error {
				const n = 8
				if err := e.apply(ctx, desired(1)); err != nil {
					return err
				}
				var group sync.WaitGroup
				errs := make(chan error, 3*n)
				for i := range n {
					group.Go(func() { errs <- e.Manager.Plug(ctx, bridge(1), tap(1, 10+i)) })
					group.Go(func() { _, err := e.Manager.Inspect(ctx); errs <- err })
					group.Go(func() {
						t := tap(1, 30+i)
						errs <- all(
							func() error { return e.Manager.Plug(ctx, bridge(1), t) },
							func() error { return e.Manager.Unplug(ctx, t.Name) },
						)
					})
				}
				group.Wait()
				for range 3 * n {
					if err := <-errs; err != nil {
						return err
					}
				}
				want := desired(1)
				for i := range n {
					want.Taps = append(want.Taps, tap(1, 10+i))
				}
				return e.is(ctx, want)
			},
		},
	}
}
