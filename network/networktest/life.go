package networktest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func lifeRows() []row {
	return []row{
		{
			name: "a new manager goes on",
			rule: "It keeps no state that matters between calls: a new Manager on a node where an old one was killed goes on from what the node has.",
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, desired(1, 2)); err != nil {
					return err
				}
				again, err := e.Open()
				if err != nil {
					return fmt.Errorf("Env.Open: %w", err)
				}
				defer func() { _ = again.Close() }()
				second := &bench{e.Env, again}
				return all(
					func() error { return second.is(ctx, desired(1, 2)) },
					func() error { return again.Unplug(ctx, tap(1, 1).Name) },
					func() error { return again.Plug(ctx, bridge(1), tap(1, 3)) },
					func() error { return e.is(ctx, desired(2, 3)) },
				)
			},
		},
		{
			name: "close changes nothing",
			rule: "It changes nothing on the node: machines keep their network while no process of ours runs.",
			check: func(ctx context.Context, e *bench) error {
				again, err := e.Open()
				if err != nil {
					return fmt.Errorf("Env.Open: %w", err)
				}
				if _, err := again.Apply(ctx, desired(1)); err != nil {
					return err
				}
				return all(
					again.Close,
					again.Close,
					func() error { return e.is(ctx, desired(1)) },
				)
			},
		},
		{
			name: "a context that ended",
			rule: "When ctx ends, a method returns soon, with the context's error",
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, desired(1)); err != nil {
					return err
				}
				ended, cancel := context.WithCancel(ctx)
				cancel()
				_, apply := e.Manager.Apply(ended, desired(1, 2))
				_, inspect := e.Manager.Inspect(ended)
				for method, err := range map[string]error{
					"Apply": apply, "Inspect": inspect, "Plug": e.Manager.Plug(ended, bridge(1), tap(1, 2)),
					"Unplug": e.Manager.Unplug(ended, tap(1, 1).Name),
				} {
					if err != context.Canceled { // itself, not wrapped
						return fmt.Errorf("%s returned %v, must return context.Canceled itself", method, err)
					}
				}
				return e.is(ctx, desired(1))
			},
		},
		{
			name: "a context that ends during an apply",
			rule: "a later Apply repairs what was left half-done",
			check: func(ctx context.Context, e *bench) error {
				d := desired()
				for n := range 30 {
					d.Taps = append(d.Taps, tap(1, n+1))
				}
				for timeout := 50 * time.Microsecond; ; timeout = timeout * 3 / 2 {
					short, cancel := context.WithTimeout(ctx, timeout)
					_, err := e.Manager.Apply(short, d)
					cancel()
					if err := e.guarded(); err != nil {
						return err
					}
					if err == nil {
						break
					}
					if !errors.Is(err, context.DeadlineExceeded) {
						return fmt.Errorf("an Apply: %w", err)
					}
				}
				return all(
					func() error { return e.is(ctx, d) },
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.is(ctx, network.Desired{}) },
				)
			},
		},
	}
}
