package networktest

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// routed is a bridge that the node routes IPv6 for.
func routed(b network.Bridge) network.Bridge {
	a := netip.AddrFrom16([16]byte{0xfd, 0x99, 2: b.Name[len(b.Name)-1], 15: 1})
	b.Gateway6 = netip.PrefixFrom(a, 64)
	b.Prefix6 = b.Gateway6.Masked()
	return b
}

// forwards checks whether the node forwards IPv6.
func (e *bench) forwards(want bool) error {
	on, err := e.Forwards6()
	if err != nil {
		return fmt.Errorf("Env.Forwards6: %w", err)
	}
	if on != want {
		return fmt.Errorf("the node forwards IPv6: %v, must be %v", on, want)
	}
	return nil
}

func route6Rows() []row {
	needs := func(e Env) bool { return e.Forwards6 != nil && e.SetForwards6 != nil }
	one, two := desired(1), desired(1)
	one.Bridges[0] = routed(one.Bridges[0])
	two.Bridges = []network.Bridge{routed(bridge(1)), routed(bridge(2)), bridge(3)}
	two.Taps = append(two.Taps, tap(2, 1), tap(3, 1))
	second := two.Clone()
	second.Bridges[0] = bridge(1)
	other := one.Clone()
	other.Bridges[0].Gateway6 = netip.PrefixFrom(other.Bridges[0].Gateway6.Addr().Next(), 64)
	return []row{
		{
			name:  "IPv6 is forwarded",
			rule:  "The node forwards IPv6 while there is such a bridge.",
			needs: needs,
			check: func(ctx context.Context, e *bench) error {
				if err := e.SetForwards6(false); err != nil {
					return fmt.Errorf("Env.SetForwards6: %w", err)
				}
				for i, step := range []struct {
					d    network.Desired
					want bool
				}{{desired(1), false}, {one, true}, {two, true}, {second, true}, {other, true}, {one, true}, {desired(1), false}, {two, true}, {network.Desired{}, false}} {
					report, err := e.Manager.Apply(ctx, step.d)
					if err == nil && len(report.Changes) == 0 {
						err = fmt.Errorf("an Apply reported no change")
					}
					if err == nil {
						err = all(func() error { return e.forwards(step.want) }, func() error { return e.is(ctx, step.d) }, func() error { return e.forwards(step.want) })
					}
					if err != nil {
						return fmt.Errorf("step %d: %w", i+1, err)
					}
				}
				for _, on := range []network.Bridge{bridge(1), one.Bridges[0], other.Bridges[0], bridge(1), one.Bridges[0]} {
					d := desired(1)
					d.Bridges[0] = on
					if err := all(
						func() error { return e.Manager.Plug(ctx, on, tap(1, 1)) },
						func() error { return e.forwards(on.Gateway6.IsValid()) },
						func() error { return e.is(ctx, d) },
					); err != nil {
						return fmt.Errorf("a Plug on %+v: %w", on, err)
					}
				}
				return nil
			},
		},
		{
			name:  "IPv6 is not forwarded",
			rule:  "If it did not before, it forwards for these bridges alone, cards of the host that hear router advertisements go on hearing them, and with the last of these bridges it is as before.",
			needs: needs,
			check: func(ctx context.Context, e *bench) error {
				return all(
					func() error { return e.SetForwards6(false) },
					func() error { return e.apply(ctx, one) },
					func() error { return e.SetForwards6(false) }, // by other hands
					func() error {
						report, err := e.Manager.Apply(ctx, one)
						if err == nil && len(report.Changes) == 0 {
							err = fmt.Errorf("an Apply found nothing to mend")
						}
						return err
					},
					func() error { return e.forwards(true) },
					func() error { return e.is(ctx, one) },
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.forwards(false) },
				)
			},
		},
		{
			name:  "IPv6 was forwarded",
			rule:  "If it did, nothing else of it changes.",
			needs: needs,
			check: func(ctx context.Context, e *bench) error {
				return all(
					func() error { return e.SetForwards6(true) },
					func() error { return e.apply(ctx, one) },
					func() error { return e.is(ctx, one) },
					func() error { return e.forwards(true) },
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.forwards(true) },
				)
			},
		},
	}
}
