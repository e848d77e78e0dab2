// Package networktest tells whether a [network.Manager] keeps its contract: a row for each sentence of it.
package networktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Open returns another manager of one node, which has nothing at first. The suite closes what it opens.
type Open func() (network.Manager, error)

// TestManager checks managers against the contract, each sentence on a node of its own, which node makes.
func TestManager(t *testing.T, node func(t *testing.T) Open) {
	t.Helper()
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			if err := check(t.Context(), node(t), r); err != nil {
				t.Errorf("%s\n%v", r.sentence, err)
			}
		})
	}
}

type row struct {
	name, sentence string
	check          func(ctx context.Context, m network.Manager, open Open) error
}

func check(ctx context.Context, open Open, r row) (err error) {
	m, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return r.check(ctx, m, open)
}

// absent is an uplink that no node has.
const absent = "nosuchcard"

func bridge(n int) network.Bridge {
	return network.Bridge{Name: fmt.Sprintf("br%d", n), MTU: 1500, Gateway: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 1}), 16)}
}

func tap(on, n int) network.Tap {
	return network.Tap{Name: fmt.Sprintf("tap%d-%d", on, n), Bridge: fmt.Sprintf("br%d", on), Port: fmt.Sprintf("port-%d-%d", on, n),
		MAC: net.HardwareAddr{0x52, 0x54, 0, byte(on), 0, byte(n)}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(on), 1, byte(n)})}}
}

// some is two bridges with two taps each, sorted by name.
func some() network.Desired {
	return network.Desired{Bridges: []network.Bridge{bridge(1), bridge(2)}, Taps: []network.Tap{tap(1, 1), tap(1, 2), tap(2, 1), tap(2, 2)}}
}

func has(ctx context.Context, m network.Manager, want network.Desired) error {
	got, err := m.Inspect(ctx)
	if err != nil {
		return err
	}
	if len(got.Bridges)+len(got.Taps)+len(want.Bridges)+len(want.Taps) > 0 && !reflect.DeepEqual(got, want) {
		return fmt.Errorf("the node has\n\t%+v\nmust have\n\t%+v", got, want)
	}
	return nil
}

func apply(ctx context.Context, m network.Manager, d network.Desired) error {
	if _, err := m.Apply(ctx, d); err != nil {
		return err
	}
	return has(ctx, m, d)
}

func rows() []row {
	return []row{
		{"apply", "Apply makes the node's data path exactly d: it adds what is missing, mends what differs, and removes what is ours and not in d.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				less := network.Desired{Bridges: []network.Bridge{bridge(2)}, Taps: []network.Tap{tap(2, 2)}}
				other := some()
				other.Bridges[0].MTU = 1400
				other.Taps[1].IPs = []netip.Addr{netip.MustParseAddr("10.1.9.9")}
				for _, d := range []network.Desired{some(), less, other, {}, some()} {
					if err := apply(ctx, m, d); err != nil {
						return err
					}
				}
				return nil
			}},
		{"twice", "It is idempotent; applied twice, the second Report is empty.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				first, err := m.Apply(ctx, some())
				if err != nil {
					return err
				}
				second, err := m.Apply(ctx, some())
				if err != nil || len(first.Changes) == 0 || len(second.Changes) > 0 {
					return fmt.Errorf("the first reports %q, the second %q, %v", first.Changes, second.Changes, err)
				}
				return nil
			}},
		{"contradiction", "Desired that contradicts itself is InvalidArgument, and nothing was changed.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				if err := apply(ctx, m, some()); err != nil {
					return err
				}
				for what, spoil := range map[string]func(*network.Desired){
					"two taps of one name":             func(d *network.Desired) { d.Taps[1].Name = d.Taps[0].Name },
					"a tap on a bridge that is not in": func(d *network.Desired) { d.Taps[0].Bridge = "br9" },
					"an address twice on one bridge":   func(d *network.Desired) { d.Taps[1].IPs = d.Taps[0].IPs },
				} {
					d := network.Desired{Bridges: []network.Bridge{bridge(1)}, Taps: []network.Tap{tap(1, 1), tap(1, 3)}}
					spoil(&d)
					if _, err := m.Apply(ctx, d); !errdefs.IsInvalidArgument(err) {
						return fmt.Errorf("%s: got %v, must be InvalidArgument", what, err)
					}
					if err := has(ctx, m, some()); err != nil {
						return fmt.Errorf("%s: %w", what, err)
					}
				}
				return nil
			}},
		{"uplink", "An uplink that does not exist is NotFound, names it, and everything else in d is applied all the same.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				d := some()
				d.Bridges[0].Uplink = absent
				if _, err := m.Apply(ctx, d); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), absent) {
					return fmt.Errorf("got %v, must be NotFound and name %s", err, absent)
				}
				got, err := m.Inspect(ctx)
				if err != nil || len(got.Taps) != len(d.Taps) || len(got.Bridges) != len(d.Bridges) {
					return fmt.Errorf("the node has %+v, %v: all but the uplink must be there", got, err)
				}
				return nil
			}},
		{"plug", "Plug adds or mends one tap, on a bridge that an earlier Apply or Plug made, or that is made now as b says.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				changed := tap(1, 1)
				changed.IPs = []netip.Addr{netip.MustParseAddr("10.1.7.7")}
				for _, step := range []struct {
					tap  network.Tap
					want []network.Tap
				}{{tap(1, 1), []network.Tap{tap(1, 1)}}, {tap(1, 2), []network.Tap{tap(1, 1), tap(1, 2)}}, {changed, []network.Tap{changed, tap(1, 2)}}} {
					if err := m.Plug(ctx, bridge(1), step.tap); err != nil {
						return err
					}
					if err := has(ctx, m, network.Desired{Bridges: []network.Bridge{bridge(1)}, Taps: step.want}); err != nil {
						return err
					}
				}
				return nil
			}},
		{"plug as apply", "It does the same as Apply with that tap added.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				d := some()
				if err := apply(ctx, m, network.Desired{Bridges: d.Bridges, Taps: d.Taps[:3]}); err != nil {
					return err
				}
				if err := m.Plug(ctx, d.Bridges[1], d.Taps[3]); err != nil {
					return err
				}
				if r, err := m.Apply(ctx, d); err != nil || len(r.Changes) > 0 {
					return fmt.Errorf("after Plug, Apply reports %q, %v: must find nothing to do", r.Changes, err)
				}
				return nil
			}},
		{"unplug", "Unplug removes the tap with this name and its filter. One that does not exist is success.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				d := some()
				if err := apply(ctx, m, d); err != nil {
					return err
				}
				for range 2 {
					if err := m.Unplug(ctx, d.Taps[0].Name); err != nil {
						return err
					}
				}
				d.Taps = d.Taps[1:]
				if r, err := m.Apply(ctx, d); err != nil || len(r.Changes) > 0 {
					return fmt.Errorf("after Unplug, Apply reports %q, %v: must find nothing to do", r.Changes, err)
				}
				return has(ctx, m, d)
			}},
		{"next manager", "A new Manager on a node where an old one ended goes on from what the node has; Close changes nothing on the node.",
			func(ctx context.Context, m network.Manager, open Open) error {
				if err := apply(ctx, m, some()); err != nil {
					return err
				}
				if err := m.Close(); err != nil {
					return err
				}
				next, err := open()
				if err != nil {
					return err
				}
				defer next.Close()
				if err := has(ctx, next, some()); err != nil {
					return err
				}
				if r, err := next.Apply(ctx, some()); err != nil || len(r.Changes) > 0 {
					return fmt.Errorf("the next manager reports %q, %v: must find nothing to do", r.Changes, err)
				}
				return nil
			}},
		{"context", "When ctx ends, a method returns soon, with the context's error; a later Apply repairs what was left half-done.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				over, cancel := context.WithCancel(ctx)
				cancel()
				if _, err := m.Apply(over, some()); !errors.Is(err, context.Canceled) {
					return fmt.Errorf("an Apply: %v", err)
				}
				if err := m.Plug(over, bridge(1), tap(1, 1)); !errors.Is(err, context.Canceled) {
					return fmt.Errorf("a Plug: %v", err)
				}
				if err := m.Unplug(over, "tap1-1"); !errors.Is(err, context.Canceled) {
					return fmt.Errorf("an Unplug: %v", err)
				}
				return apply(ctx, m, some())
			}},
		{"concurrent", "All methods are safe for concurrent use and take effect one after the other.",
			func(ctx context.Context, m network.Manager, _ Open) error {
				d := network.Desired{Bridges: []network.Bridge{bridge(1)}}
				var all sync.WaitGroup
				failed := make(chan error, 40)
				for n := range 20 {
					d.Taps = append(d.Taps, tap(1, 10+n))
					all.Go(func() { failed <- m.Plug(ctx, bridge(1), tap(1, 10+n)) })
					all.Go(func() {
						_, err := m.Inspect(ctx)
						failed <- err
					})
				}
				all.Wait()
				close(failed)
				for err := range failed {
					if err != nil {
						return err
					}
				}
				return has(ctx, m, d)
			}},
	}
}
