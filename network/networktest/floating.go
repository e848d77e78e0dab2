package networktest

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// floating is the n-th address of the outside, which leads to a tap of the first bridge.
func (e *bench) floating(n, tapN int) network.Floating {
	return network.Floating{Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + n)}), Fixed: tap(1, tapN).IPs[0], Link: e.Uplink}
}

func floatingRows() []row {
	needs := func(e Env) bool { return e.Uplink != "" }
	return []row{
		{
			name:  "apply floating IPs",
			rule:  "mends what differs, and removes what is ours and not in d.",
			needs: needs,
			check: func(ctx context.Context, e *bench) error {
				with := func(nat bool, fs ...network.Floating) network.Desired {
					d := desired(1, 2)
					d.Bridges[0].NAT = nat
					d.Floating = fs
					return d
				}
				for i, d := range []network.Desired{with(false, e.floating(1, 1)), with(true, e.floating(1, 1), e.floating(2, 2)), with(true, e.floating(1, 2), e.floating(2, 1)),
					with(true), with(false), with(false, e.floating(3, 1)), {}} {
					report, err := e.Manager.Apply(ctx, d)
					if err == nil && len(report.Changes) == 0 {
						err = fmt.Errorf("an Apply reported no change")
					}
					if err == nil {
						err = e.is(ctx, d)
					}
					if err != nil {
						return fmt.Errorf("step %d: %w", i+1, err)
					}
				}
				return nil
			},
		},
		{
			name:  "set floating IPs",
			rule:  "SetFloating makes the node answer for exactly fs. It does the same as Apply with these in place of those that are there",
			needs: needs,
			check: func(ctx context.Context, e *bench) error {
				d := desired(1, 2)
				d.Bridges[0].NAT = true
				if err := e.apply(ctx, d); err != nil {
					return err
				}
				for _, fs := range [][]network.Floating{{e.floating(1, 1)}, {e.floating(1, 2)}, {e.floating(2, 1), e.floating(1, 2)}, {e.floating(1, 1), e.floating(2, 2)}, nil} {
					if err := e.Manager.SetFloating(ctx, fs); err != nil {
						return err
					}
					d.Floating = fs
					if len(fs) == 2 && fs[1].Addr.Less(fs[0].Addr) {
						d.Floating = []network.Floating{fs[1], fs[0]}
					}
					if err := e.is(ctx, d); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name:  "wrong floating IPs",
			rule:  "What is wrong with fs by itself (not IPv4, an address twice) is InvalidArgument, and nothing was changed.",
			needs: needs,
			check: func(ctx context.Context, e *bench) error {
				d := desired(1, 2)
				d.Floating = []network.Floating{e.floating(1, 1)}
				if err := e.apply(ctx, d); err != nil {
					return err
				}
				six, twice := e.floating(2, 2), e.floating(1, 2)
				six.Addr = netip.MustParseAddr("fd00::1")
				nowhere := e.floating(2, 2)
				nowhere.Link = ""
				for name, f := range map[string]network.Floating{"IPv6": six, "an address twice": twice, "a fixed IP twice": e.floating(2, 1), "no link": nowhere, "nothing": {}} {
					fs := []network.Floating{e.floating(1, 1), f}
					if err := class("SetFloating with "+name, e.Manager.SetFloating(ctx, fs), errdefs.ErrInvalidArgument); err != nil {
						return err
					}
					bad := desired(1, 2)
					bad.Floating = fs
					_, err := e.Manager.Apply(ctx, bad)
					if err := class("Apply with "+name, err, errdefs.ErrInvalidArgument); err != nil {
						return err
					}
				}
				return e.is(ctx, d)
			},
		},
		{
			name:  "a floating IP's link that is not there",
			rule:  "A Link that does not exist is NotFound, names it, and all others are answered for.",
			needs: needs,
			check: func(ctx context.Context, e *bench) error {
				d := desired(1, 2)
				lost := e.floating(2, 2)
				lost.Link = "nt-nowhere"
				d.Floating = []network.Floating{e.floating(1, 1), lost}
				_, err := e.Manager.Apply(ctx, d)
				if err := names("Apply", err, errdefs.ErrNotFound, "nt-nowhere"); err != nil {
					return err
				}
				if err := names("SetFloating", e.Manager.SetFloating(ctx, []network.Floating{lost, e.floating(3, 1)}), errdefs.ErrNotFound, "nt-nowhere"); err != nil {
					return err
				}
				d.Floating = []network.Floating{e.floating(3, 1)}
				return e.has(ctx, d)
			},
		},
	}
}
