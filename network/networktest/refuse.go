package networktest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

func refuseRows() []row {
	return []row{
		{
			name: "contradictions",
			rule: "What [Desired.Validate] refuses (two taps of one name, a tap on a bridge that is not in d, an address twice on one bridge) is InvalidArgument, and nothing was changed.",
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, desired(1)); err != nil {
					return err
				}
				for name, spoil := range map[string]func(d *network.Desired){
					"two taps of one name":     func(d *network.Desired) { d.Taps[2].Name = d.Taps[1].Name },
					"two bridges of one name":  func(d *network.Desired) { d.Bridges = append(d.Bridges, bridge(1)) },
					"a tap without its bridge": func(d *network.Desired) { d.Taps[2].Bridge = "unknown" },
					"an address twice":         func(d *network.Desired) { d.Taps[2].IPs = d.Taps[1].IPs },
					"a MAC address twice":      func(d *network.Desired) { d.Taps[2].MAC = d.Taps[1].MAC },
					"the gateway's address":    func(d *network.Desired) { d.Taps[2].IPs = []netip.Addr{d.Bridges[0].Gateway.Addr()} },
					"a long name":              func(d *network.Desired) { d.Taps[2].Name = "a-name-too-long-" },
					"no name":                  func(d *network.Desired) { d.Bridges[0].Name = "" },
					"a bridge as uplink":       func(d *network.Desired) { d.Bridges[0].Uplink = d.Bridges[0].Name },
					"no MAC address":           func(d *network.Desired) { d.Taps[2].MAC = nil },
					"a tiny rate":              func(d *network.Desired) { d.Taps[2].Limits.In.Bytes = network.MinRate - 1 },
					"a huge rate":              func(d *network.Desired) { d.Taps[2].Limits.Out.Bytes = network.MaxRate + 1 },
					"a burst without a rate":   func(d *network.Desired) { d.Taps[2].Limits.Out.Burst = 1 },
					"a tiny MTU":               func(d *network.Desired) { d.Bridges[0].MTU = 20 },
					"a negative MTU":           func(d *network.Desired) { d.Bridges[0].MTU = -1 },
					"a VLAN above 4094":        func(d *network.Desired) { d.Bridges[0].VLAN, d.Bridges[0].Uplink = 4095, "nt-card" },
					"a VLAN without an uplink": func(d *network.Desired) { d.Bridges[0].VLAN = 100 },
					"a VLAN twice": func(d *network.Desired) {
						d.Bridges = append(d.Bridges, bridge(2))
						for i := range d.Bridges {
							d.Bridges[i].VLAN, d.Bridges[i].Uplink = 100, fmt.Sprint("nt-card", i)
						}
					},
					"a tap with the name of a VLAN": func(d *network.Desired) {
						d.Bridges[0].VLAN, d.Bridges[0].Uplink, d.Taps[2].Name = 100, "nt-card", "vlan100"
					},
					"a tap as the uplink of a VLAN": func(d *network.Desired) {
						d.Bridges[0].VLAN, d.Bridges[0].Uplink = 100, d.Taps[2].Name
					},
					"a router outside its prefix": func(d *network.Desired) {
						d.Bridges[0] = routed(bridge(1))
						d.Bridges[0].Prefix6 = routed(bridge(2)).Prefix6
					},
					"a router's address that is the subnet's": func(d *network.Desired) {
						d.Bridges[0] = routed(bridge(1))
						d.Bridges[0].Gateway6 = netip.PrefixFrom(d.Bridges[0].Prefix6.Addr(), 128)
					},
					"the router's address": func(d *network.Desired) {
						d.Bridges[0] = routed(bridge(1))
						d.Taps[2].IPs = []netip.Addr{d.Bridges[0].Gateway6.Addr()}
					},
					"an MTU without IPv6": func(d *network.Desired) {
						d.Bridges[0] = routed(bridge(1))
						d.Bridges[0].MTU = network.MinMTU6 - 1
					},
					"a router on an administrator's bridge": func(d *network.Desired) {
						d.Bridges[0] = routed(network.Bridge{Name: bridge(1).Name, External: true})
					},
					"a gateway on an administrator's bridge": func(d *network.Desired) { d.Bridges[0].MTU, d.Bridges[0].External = 0, true },
				} {
					d := desired(1, 2, 3)
					spoil(&d)
					_, err := e.Manager.Apply(ctx, d)
					if err := class("Apply with "+name, err, errdefs.ErrInvalidArgument); err != nil {
						return err
					}
				}
				return e.is(ctx, desired(1))
			},
		},
		{
			name: "an uplink that is not there",
			rule: "An uplink that does not exist is NotFound, names it, and everything else in d is applied all the same.",
			check: func(ctx context.Context, e *bench) error {
				d := desired(1, 2)
				d.Bridges = append(d.Bridges, bridge(2))
				d.Bridges[0].Uplink = "nt-nowhere"
				d.Taps = append(d.Taps, tap(2, 1))
				for range 2 {
					_, err := e.Manager.Apply(ctx, d)
					if err := names("Apply", err, errdefs.ErrNotFound, "nt-nowhere"); err != nil {
						return err
					}
				}
				d.Bridges[0].Uplink = ""
				return e.has(ctx, d)
			},
		},
		{
			name:  "links of others",
			rule:  "A link of the host that has the name of a bridge or tap in d, and not our mark, is AlreadyExists, names it, is not touched, and everything else in d is applied all the same.",
			needs: func(e Env) bool { return e.Foreign != nil && e.Others != nil },
			check: func(ctx context.Context, e *bench) error {
				for _, name := range []string{bridge(1).Name, tap(2, 1).Name} {
					if err := e.Foreign(name); err != nil {
						return fmt.Errorf("Env.Foreign: %w", err)
					}
				}
				before, err := e.Others()
				if err != nil {
					return err
				}
				d := desired(1)
				d.Bridges = append(d.Bridges, bridge(2))
				d.Taps = append(d.Taps, tap(2, 1), tap(2, 2))
				_, err = e.Manager.Apply(ctx, d)
				for _, name := range []string{bridge(1).Name, tap(2, 1).Name} {
					if err := names("Apply", err, errdefs.ErrAlreadyExists, name); err != nil {
						return err
					}
				}
				rest := network.Desired{Bridges: []network.Bridge{bridge(2)}, Taps: []network.Tap{tap(2, 2)}}
				if err := e.has(ctx, rest); err != nil {
					return err
				}
				if err := names("Plug", e.Manager.Plug(ctx, bridge(2), tap(2, 1)), errdefs.ErrAlreadyExists, tap(2, 1).Name); err != nil {
					return err
				}
				if err := names("Plug", e.Manager.Plug(ctx, bridge(1), tap(1, 1)), errdefs.ErrAlreadyExists, bridge(1).Name); err != nil {
					return err
				}
				after, err := e.Others()
				if err == nil && before != after {
					err = fmt.Errorf("the links of others were changed from\n%s\nto\n%s", before, after)
				}
				return err
			},
		},
		{
			name:  "unplug a link of others",
			rule:  "One that does not exist, or that is not ours, is success, and nothing was changed.",
			needs: func(e Env) bool { return e.Foreign != nil && e.Others != nil },
			check: func(ctx context.Context, e *bench) error {
				if err := e.Foreign("nt-theirs"); err != nil {
					return fmt.Errorf("Env.Foreign: %w", err)
				}
				before, err := e.Others()
				if err != nil {
					return err
				}
				if err := e.apply(ctx, desired(1)); err != nil {
					return err
				}
				for _, name := range []string{"nt-theirs", "nt-nothing", bridge(1).Name} {
					if err := e.Manager.Unplug(ctx, name); err != nil {
						return fmt.Errorf("an Unplug of %s: %w", name, err)
					}
				}
				after, err := e.Others()
				if err == nil && before != after {
					err = fmt.Errorf("the links of others were changed from\n%s\nto\n%s", before, after)
				}
				if err != nil {
					return err
				}
				return e.is(ctx, desired(1))
			},
		},
	}
}

// names checks that err is of a class and names the link that is in the way.
func names(what string, err, want error, name string) error {
	if err := class(what, err, want); err != nil {
		return err
	}
	if !strings.Contains(err.Error(), name) {
		return fmt.Errorf("%s: error %q does not name %s", what, err, name)
	}
	return nil
}
