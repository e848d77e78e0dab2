package networktest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func mendRows() []row {
	return []row{
		{
			name:  "a tap held open keeps its identity",
			rule:  "A tap that a machine holds open keeps its identity: Apply never makes anew what is right already.",
			needs: func(e Env) bool { return e.Hold != nil && e.Identity != nil },
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, desired(1)); err != nil {
					return err
				}
				release, err := e.Hold(tap(1, 1).Name)
				if err != nil {
					return fmt.Errorf("Env.Hold: %w", err)
				}
				defer release()
				changed := desired(1, 2)
				changed.Bridges[0].MTU, changed.Taps[0].Port = 1400, "another"
				return e.same(func() error {
					return all(
						func() error { return e.is(ctx, desired(1)) },
						func() error { return e.apply(ctx, desired(1, 2)) },
						func() error { return e.Manager.Plug(ctx, bridge(1), tap(1, 1)) },
						func() error { return e.apply(ctx, changed) },
						func() error { return e.is(ctx, changed) },
					)
				})
			},
		},
		{
			name:  "what is right is not made anew",
			rule:  "Apply never makes anew what is right already.",
			needs: func(e Env) bool { return e.Identity != nil },
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, desired(1)); err != nil {
					return err
				}
				return e.same(func() error {
					again, err := e.Open()
					if err != nil {
						return fmt.Errorf("Env.Open: %w", err)
					}
					defer func() { _ = again.Close() }()
					_, err = again.Apply(ctx, desired(1, 3))
					return err
				})
			},
		},
		{
			name:  "drift",
			rule:  "it adds what is missing, mends what differs, and removes what is ours and not in d",
			needs: func(e Env) bool { return len(e.Drift) > 0 },
			check: func(ctx context.Context, e *bench) error {
				d := guarded()
				d.Bridges[0] = routed(d.Bridges[0])
				for _, name := range slices.Sorted(maps.Keys(e.Drift)) {
					if err := e.apply(ctx, d); err != nil {
						return err
					}
					if err := e.Drift[name](bridge(1).Name, tap(1, 1).Name); err != nil {
						return fmt.Errorf("Env.Drift %s: %w", name, err)
					}
					report, err := e.Manager.Apply(ctx, d)
					if err == nil && len(report.Changes) == 0 {
						err = fmt.Errorf("an Apply found nothing to mend")
					}
					if err == nil {
						err = e.is(ctx, d)
					}
					if err != nil {
						return fmt.Errorf("after %s: %w", name, err)
					}
				}
				return nil
			},
		},
		{
			name:  "others are left alone",
			rule:  "owns what carries its mark and nothing else: links and tables of the host that it did not make are never changed, except for an uplink that a Bridge names, and for whether IPv6 is forwarded.",
			needs: func(e Env) bool { return e.Others != nil },
			check: func(ctx context.Context, e *bench) error {
				before, err := e.Others()
				if err != nil {
					return fmt.Errorf("Env.Others: %w", err)
				}
				d := desired(1, 2)
				if e.Uplink != "" {
					d.Bridges[0].Uplink = e.Uplink
				}
				for _, step := range []func() error{
					func() error { return e.apply(ctx, desired(1, 2)) },
					func() error { return e.Manager.Plug(ctx, bridge(1), tap(1, 3)) },
					func() error { return e.Manager.Unplug(ctx, tap(1, 3).Name) },
					func() error {
						return all(func() error { return e.apply(ctx, d) }, func() error { return e.apply(ctx, desired(1)) })
					},
					func() error { return e.apply(ctx, network.Desired{}) },
				} {
					if err := step(); err != nil {
						return err
					}
					// A kernel may need a moment to have the routes again that belong to an address which came back.
					for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
						after, err := e.Others()
						if err != nil {
							return fmt.Errorf("Env.Others: %w", err)
						}
						if before == after {
							break
						}
						if time.Since(begun) > 2*time.Second {
							return fmt.Errorf("what is not the manager's was changed from\n%s\nto\n%s", before, after)
						}
					}
				}
				return nil
			},
		},
		{
			name:  "an uplink comes and goes",
			rule:  "Its addresses and routes move to the bridge when it is enslaved and back when the bridge goes.",
			needs: func(e Env) bool { return e.Uplink != "" },
			check: func(ctx context.Context, e *bench) error {
				up := desired(1)
				up.Bridges[0].Uplink = e.Uplink
				other := desired(1)
				other.Bridges = append(other.Bridges, bridge(2))
				other.Bridges[1].Uplink = e.Uplink
				return all(
					func() error { return e.apply(ctx, up) },
					func() error { return e.is(ctx, up) },
					func() error { return e.apply(ctx, desired(1)) },
					func() error { return e.is(ctx, desired(1)) },
					func() error { return e.apply(ctx, up) },
					func() error { return e.apply(ctx, other) }, // from bridge to bridge
					func() error { return e.is(ctx, other) },
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.is(ctx, network.Desired{}) },
				)
			},
		},
	}
}

// same checks that the first bridge and its first tap are the same links after f.
func (e *bench) same(f func() error) error {
	names := []string{bridge(1).Name, tap(1, 1).Name}
	var before []string
	for _, name := range names {
		id, err := e.Identity(name)
		if err != nil {
			return fmt.Errorf("Env.Identity: %w", err)
		}
		before = append(before, id)
	}
	if err := f(); err != nil {
		return err
	}
	for i, name := range names {
		id, err := e.Identity(name)
		if err != nil {
			return fmt.Errorf("Env.Identity: %w", err)
		}
		if id != before[i] {
			return fmt.Errorf("%s was %s and is %s now: it was made anew", name, before[i], id)
		}
	}
	return nil
}
