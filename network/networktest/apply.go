package networktest

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func applyRows() []row {
	return []row{
		{
			name: "apply adds",
			rule: "Apply makes the node's data path exactly d: it adds what is missing",
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, desired(1)); err != nil {
					return err
				}
				d := desired(2, 1)
				d.Bridges = append(d.Bridges, bridge(2))
				d.Taps = append(d.Taps, tap(2, 1))
				return all(
					func() error { return e.apply(ctx, d) },
					func() error { return e.is(ctx, d) },
				)
			},
		},
		{
			name: "apply mends what differs",
			rule: "mends what differs",
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, desired(1, 2)); err != nil {
					return err
				}
				for name, change := range map[string]func(d *network.Desired){
					"MTU":     func(d *network.Desired) { d.Bridges[0].MTU = 1400 },
					"no MTU":  func(d *network.Desired) { d.Bridges[0].MTU = 0 },
					"gateway": func(d *network.Desired) { d.Bridges[0].Gateway = netip.MustParsePrefix("10.99.1.254/25") },
					"no gateway": func(d *network.Desired) {
						d.Bridges[0].Gateway = netip.Prefix{}
					},
					"IPs": func(d *network.Desired) {
						d.Taps[1].IPs = []netip.Addr{netip.MustParseAddr("10.99.1.77"), netip.MustParseAddr("10.99.1.7"), netip.MustParseAddr("fd00::7")}
					},
					"no IPs": func(d *network.Desired) { d.Taps[0].IPs = nil },
					"MAC":    func(d *network.Desired) { d.Taps[0].MAC = []byte{0x52, 0x54, 0, 0x99, 0, 0x77} },
					"port":   func(d *network.Desired) { d.Taps[0].Port = "another" },
					"bridge": func(d *network.Desired) {
						d.Bridges = append(d.Bridges, bridge(2))
						d.Taps[0].Bridge = d.Bridges[1].Name
					},
					"swapped": func(d *network.Desired) {
						d.Taps[0].IPs, d.Taps[1].IPs = d.Taps[1].IPs, d.Taps[0].IPs
						d.Taps[0].MAC, d.Taps[1].MAC = d.Taps[1].MAC, d.Taps[0].MAC
					},
				} {
					d := desired(1, 2)
					change(&d)
					report, err := e.Manager.Apply(ctx, d)
					if err == nil && len(report.Changes) == 0 && name != "no MTU" && name != "swapped" {
						err = fmt.Errorf("an Apply reported no change")
					}
					if err == nil {
						err = e.is(ctx, d)
					}
					if err != nil {
						return fmt.Errorf("another %s: %w", name, err)
					}
				}
				return nil
			},
		},
		{
			name: "apply removes",
			rule: "removes what is ours and not in d",
			check: func(ctx context.Context, e *bench) error {
				d := desired(1, 2, 3)
				d.Bridges = append(d.Bridges, bridge(2))
				d.Taps = append(d.Taps, tap(2, 1))
				return all(
					func() error { return e.apply(ctx, d) },
					func() error { return e.apply(ctx, desired(2)) },
					func() error { return e.is(ctx, desired(2)) },
					func() error { return e.apply(ctx, desired()) },
					func() error { return e.is(ctx, desired()) },
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.is(ctx, network.Desired{}) },
				)
			},
		},
		{
			name: "apply reports",
			rule: "Report says what an Apply changed, a line each, in words for a log: empty when nothing had to change.",
			check: func(ctx context.Context, e *bench) error {
				for _, d := range []network.Desired{desired(1), desired(1, 2), desired(2), {}} {
					report, err := e.Manager.Apply(ctx, d)
					if err != nil {
						return err
					}
					if len(report.Changes) == 0 {
						return fmt.Errorf("an Apply of %+v reported no change", d)
					}
					for _, change := range report.Changes {
						if change == "" {
							return fmt.Errorf("an Apply reported an empty line: %q", report.Changes)
						}
					}
				}
				return nil
			},
		},
		{
			name: "apply twice",
			rule: "It is idempotent; applied twice, the second Report is empty.",
			check: func(ctx context.Context, e *bench) error {
				return all(
					func() error { return e.apply(ctx, desired(1, 2)) },
					func() error { return e.is(ctx, desired(1, 2)) },
					func() error { return e.is(ctx, desired(1, 2)) },
				)
			},
		},
		{
			name: "inspect an empty node",
			rule: "Inspect reads what the node has of ours, in the form of a Desired, sorted by name, groups by id, rules by text.",
			check: func(ctx context.Context, e *bench) error {
				return e.is(ctx, network.Desired{})
			},
		},
		{
			name: "inspect",
			rule: "After a successful Apply(d), Inspect returns d, sorted, but for the fields that no kernel keeps (those that only DHCP uses).",
			check: func(ctx context.Context, e *bench) error {
				d := desired(9, 3, 5)
				d.Bridges = append([]network.Bridge{bridge(3)}, d.Bridges...)
				d.Taps = append(d.Taps, tap(3, 2))
				d.Taps[1].IPs = []netip.Addr{netip.MustParseAddr("10.99.1.200"), netip.MustParseAddr("10.99.1.100"), netip.MustParseAddr("fd00::2")}
				d.Bridges[0].Routes = []network.Route{{To: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("10.99.3.9")}}
				return all(
					func() error { return e.apply(ctx, d) },
					func() error { return e.has(ctx, d) },
				)
			},
		},
		{
			name: "inspect a port with many addresses",
			rule: "After a successful Apply(d), Inspect returns d, sorted, but for the fields that no kernel keeps (those that only DHCP uses).",
			check: func(ctx context.Context, e *bench) error {
				d := desired(1)
				d.Taps[0].IPs = nil
				for n := range 100 {
					d.Taps[0].IPs = append(d.Taps[0].IPs, netip.AddrFrom4([4]byte{10, 99, 1, byte(100 + n)}))
				}
				fewer := d.Clone()
				fewer.Taps[0].IPs = fewer.Taps[0].IPs[:50]
				return all(
					func() error { return e.apply(ctx, d) },
					func() error { return e.is(ctx, d) },
					func() error { return e.Manager.Plug(ctx, fewer.Bridges[0], fewer.Taps[0]) },
					func() error { return e.is(ctx, fewer) },
					func() error { return e.Manager.Unplug(ctx, fewer.Taps[0].Name) },
					func() error { return e.is(ctx, desired()) },
				)
			},
		},
	}
}
