package networktest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fakeEnv() (Env, *fakenetwork.Node) {
	node := fakenetwork.NewNode()
	node.AddLink("eth1")
	node.AddLink("adminbr")
	return Env{
		Open:   func() (network.Manager, error) { return fakenetwork.New(fakenetwork.Config{Node: node}), nil },
		Uplink: "eth1", VLAN: true, External: "adminbr",
		Foreign: func(name string) error { node.AddLink(name); return nil },
		Others:  func() (string, error) { return fmt.Sprint(node.Links()), nil },
		Hold:    func(string) (func(), error) { return func() {}, nil },
		Identity: func(link string) (string, error) {
			return fmt.Sprint(node.Index(link)), nil
		},
		Drift: map[string]func(bridge, tap string) error{
			"tap removed":    func(_, tap string) error { node.RemoveTap(tap); return nil },
			"bridge removed": func(bridge, _ string) error { node.RemoveBridge(bridge); return nil },
			"other: group changed": func(_, _ string) error {
				node.ChangeGroup("nt-app", func(g *network.Group) { g.Rules = nil })
				return nil
			},
			"tap changed": func(_, tap string) error {
				node.Change(tap, func(t *network.Tap) { t.IPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")} })
				return nil
			},
		},
		Unguarded:    func() ([]string, error) { return nil, nil },
		Forwards6:    func() (bool, error) { return node.Forwards6(), nil },
		SetForwards6: func(on bool) error { node.SetForwards6(on); return nil },
		Passes: func(from, to network.Tap, p network.Packet) (bool, error) {
			out, in := p, p
			out.Direction, out.Remote, in.Direction, in.Remote = network.Egress, to.IPs[0], network.Ingress, from.IPs[0]
			return node.Passes(from.Name, out) && node.Passes(to.Name, in), nil
		},
	}, node
}

func TestFake(t *testing.T) {
	TestManager(t, func(*testing.T) Env { env, _ := fakeEnv(); return env })
}

// TestBareEnv runs the suite with nothing that is optional.
func TestBareEnv(t *testing.T) {
	TestManager(t, func(*testing.T) Env { env, _ := fakeEnv(); return Env{Open: env.Open} })
}

func TestRulesAreInTheContract(t *testing.T) {
	source, err := os.ReadFile("../manager.go")
	require.NoError(t, err)
	contract := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), " ")), " ")
	names := map[string]bool{}
	for _, r := range rows() {
		require.Contains(t, contract, r.rule, r.name)
		require.False(t, names[r.name], "two rows are named %q", r.name)
		names[r.name] = true
	}
}

// broken is a manager with one thing wrong.
type broken struct {
	network.Manager
	apply    func(context.Context, network.Desired) (network.Report, error)
	plug     func(context.Context, network.Bridge, network.Tap) error
	unplug   func(context.Context, string) error
	inspect  func(context.Context) (network.Desired, error)
	groups   func(context.Context, []network.Group) error
	floating func(context.Context, []network.Floating) error
	end      func() error
}

func (b *broken) Apply(ctx context.Context, d network.Desired) (network.Report, error) {
	return b.apply(ctx, d)
}
func (b *broken) Plug(ctx context.Context, on network.Bridge, t network.Tap) error {
	return b.plug(ctx, on, t)
}
func (b *broken) Unplug(ctx context.Context, tap string) error               { return b.unplug(ctx, tap) }
func (b *broken) Inspect(ctx context.Context) (d network.Desired, err error) { return b.inspect(ctx) }
func (b *broken) SetGroups(ctx context.Context, gs []network.Group) error    { return b.groups(ctx, gs) }
func (b *broken) SetFloating(ctx context.Context, fs []network.Floating) error {
	return b.floating(ctx, fs)
}
func (b *broken) Close() error { return b.end() }

func TestSuiteFindsBrokenManagers(t *testing.T) {
	type manager = network.Manager
	for _, c := range []struct {
		fault string
		rows  []string // which must fail
		spoil func(b *broken, m manager, node *fakenetwork.Node)
	}{
		{"apply adds nothing to what is there", []string{"apply adds", "apply mends what differs"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				if len(node.Desired().Taps) > 0 {
					return network.Report{}, nil
				}
				return m.Apply(ctx, d)
			}
		}},
		{"a plug leaves limits that are there", []string{"limits"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.plug = func(ctx context.Context, on network.Bridge, t network.Tap) error {
				for _, there := range node.Desired().Taps {
					if there.Name == t.Name {
						t.Limits = there.Limits
					}
				}
				return m.Plug(ctx, on, t)
			}
		}},
		{"a plug forgets limits", []string{"limits"}, func(b *broken, m manager, _ *fakenetwork.Node) {
			b.plug = func(ctx context.Context, on network.Bridge, t network.Tap) error {
				t.Limits = network.Limits{}
				return m.Plug(ctx, on, t)
			}
		}},
		{"floating IPs are only added", []string{"set floating IPs"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.floating = func(ctx context.Context, fs []network.Floating) error {
				if len(fs) < len(node.Desired().Floating) {
					return nil
				}
				return m.SetFloating(ctx, fs)
			}
		}},
		{"one missing link keeps all floating IPs away", []string{"a floating IP's link that is not there"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.floating = func(ctx context.Context, fs []network.Floating) error {
				had := node.Desired().Floating
				if err := m.SetFloating(ctx, fs); err != nil {
					return errors.Join(err, m.SetFloating(ctx, had))
				}
				return nil
			}
		}},
		{"floating IPs are not looked at", []string{"wrong floating IPs"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.floating = func(context.Context, []network.Floating) error { return nil }
		}},
		{"apply forgets floating IPs", []string{"apply floating IPs"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				d.Floating = nil
				return m.Apply(ctx, d)
			}
		}},
		{"groups are not set", []string{"set groups", "what groups let through", "rules that are taken away"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.groups = func(context.Context, []network.Group) error { return nil }
		}},
		{"groups that are set replace all", []string{"set groups"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.groups = func(ctx context.Context, gs []network.Group) error {
				d := node.Desired()
				d.Groups = gs
				_, err := m.Apply(ctx, d)
				return err
			}
		}},
		{"wrong groups are taken one by one", []string{"groups that are wrong"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.groups = func(ctx context.Context, gs []network.Group) error {
				for _, g := range gs {
					if err := m.SetGroups(ctx, []network.Group{g}); err != nil {
						return err
					}
				}
				return nil
			}
		}},
		{"apply forgets groups", []string{"apply groups", "what groups let through"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				d = d.Clone()
				d.Groups = node.Desired().Groups
				return m.Apply(ctx, d)
			}
		}},
		{"plug guards nothing", []string{"plug into groups", "what groups let through", "plug into a group that nobody told of"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.plug = func(ctx context.Context, on network.Bridge, t network.Tap) error {
				t.Guarded, t.Groups = false, nil
				return m.Plug(ctx, on, t)
			}
		}},
		{"unplug empties groups", []string{"unplug leaves groups"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.unplug = func(ctx context.Context, tap string) error {
				node.ChangeGroup("nt-app", func(g *network.Group) { g.Members = nil })
				return m.Unplug(ctx, tap)
			}
		}},
		{"IPv6 is forwarded for ever", []string{"IPv6 is forwarded", "IPv6 is not forwarded"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				had := node.Forwards6()
				r, err := m.Apply(ctx, d)
				if had {
					node.SetForwards6(true)
				}
				return r, err
			}
		}},
		{"IPv6 is forwarded no more, whoever wanted it", []string{"IPv6 was forwarded"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				r, err := m.Apply(ctx, d)
				if len(d.Bridges) == 0 {
					node.SetForwards6(false)
				}
				return r, err
			}
		}},
		{"whether IPv6 is forwarded is not looked at again", []string{"IPv6 is not forwarded"}, func(b *broken, m manager, node *fakenetwork.Node) {
			applied := false
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				had := node.Forwards6()
				r, err := m.Apply(ctx, d)
				if applied && len(d.Bridges) > 0 {
					node.SetForwards6(had)
				}
				applied = true
				return r, err
			}
		}},
		{"plug makes no router", []string{"IPv6 is forwarded"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.plug = func(ctx context.Context, on network.Bridge, t network.Tap) error {
				on.Gateway6 = netip.Prefix{}
				return m.Plug(ctx, on, t)
			}
		}},
		{"apply removes nothing", []string{"apply removes"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				if had := node.Desired(); len(d.Taps) < len(had.Taps) {
					d = had
				}
				return m.Apply(ctx, d)
			}
		}},
		{"apply makes all anew", []string{"a tap held open keeps its identity", "what is right is not made anew"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				for _, t := range d.Taps {
					node.RemoveTap(t.Name)
				}
				return m.Apply(ctx, d)
			}
		}},
		{"apply always reports something", []string{"apply twice", "inspect an empty node"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				r, err := m.Apply(ctx, d)
				r.Changes = append(r.Changes, "something")
				return r, err
			}
		}},
		{"apply reports nothing", []string{"apply reports", "drift"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				_, err := m.Apply(ctx, d)
				return network.Report{}, err
			}
		}},
		{"apply looks at its memory, not at the node", []string{"drift"}, func(b *broken, m manager, node *fakenetwork.Node) {
			var last string
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				if last == fmt.Sprint(d) {
					return network.Report{}, nil
				}
				last = fmt.Sprint(d)
				return m.Apply(ctx, d)
			}
		}},
		{"apply sweeps up before it refuses", []string{"contradictions"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				r, err := m.Apply(ctx, d)
				if errdefs.IsInvalidArgument(err) {
					node.RemoveTap(tap(1, 1).Name)
				}
				return r, err
			}
		}},
		{"apply takes the last of two taps of one name", []string{"contradictions"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				if len(d.Taps) == 3 && d.Taps[1].Name == d.Taps[2].Name {
					return network.Report{}, nil
				}
				return m.Apply(ctx, d)
			}
		}},
		{"apply stops where an uplink is missing", []string{"an uplink that is not there"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				for _, bridge := range d.Bridges {
					if strings.Contains(bridge.Uplink, "nowhere") {
						return network.Report{}, fmt.Errorf("uplink %s: %w", bridge.Uplink, errdefs.ErrNotFound)
					}
				}
				return m.Apply(ctx, d)
			}
		}},
		{"apply does not name the uplink", []string{"an uplink that is not there"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				r, err := m.Apply(ctx, d)
				if errdefs.IsNotFound(err) {
					err = errdefs.ErrNotFound
				}
				return r, err
			}
		}},
		{"apply takes links of others", []string{"links of others"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				node.RemoveLink(bridge(1).Name)
				return m.Apply(ctx, d)
			}
		}},
		{"an uplink is lost with its bridge", []string{"others are left alone", "an uplink comes and goes"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				had := node.Desired().Bridges
				r, err := m.Apply(ctx, d)
				if len(had) > 0 && had[0].Uplink != "" && (len(d.Bridges) == 0 || d.Bridges[0].Uplink == "") {
					node.RemoveLink(had[0].Uplink)
				}
				return r, err
			}
		}},
		{"VLANs are not looked at", []string{"VLANs", "VLANs come and go"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				d = d.Clone()
				for i := range d.Bridges {
					d.Bridges[i].VLAN = 0
				}
				return m.Apply(ctx, d)
			}
		}},
		{"an uplink that is not there is no matter to a VLAN", []string{"a VLAN of an uplink that is not there"}, func(b *broken, m manager, node *fakenetwork.Node) {
			node.AddLink("nt-nowhere")
		}},
		{"an administrator's bridge goes with its last tap", []string{"an administrator's bridge"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				if len(d.Taps) == 0 {
					node.RemoveLink("adminbr")
				}
				return m.Apply(ctx, d)
			}
		}},
		{"an administrator's bridge is made where there is none", []string{"no administrator's bridge"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				for _, bridge := range d.Bridges {
					if bridge.External {
						node.AddLink(bridge.Name)
					}
				}
				return m.Apply(ctx, d)
			}
		}},
		{"inspect does not sort", []string{"inspect"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.inspect = func(ctx context.Context) (network.Desired, error) {
				d, err := m.Inspect(ctx)
				if len(d.Taps) > 1 {
					d.Taps[0], d.Taps[1] = d.Taps[1], d.Taps[0]
				}
				return d, err
			}
		}},
		{"inspect cuts long lists of addresses", []string{"inspect a port with many addresses"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.inspect = func(ctx context.Context) (network.Desired, error) {
				d, err := m.Inspect(ctx)
				for i := range d.Taps {
					d.Taps[i].IPs = d.Taps[i].IPs[:min(10, len(d.Taps[i].IPs))]
				}
				return d, err
			}
		}},
		{"plug does nothing", []string{"plug", "plug is apply", "plug after drift", "plug with an uplink", "many at once"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.plug = func(ctx context.Context, on network.Bridge, t network.Tap) error { return ctx.Err() }
		}},
		{"plug leaves a tap that is there as it is", []string{"plug", "plug is apply", "plug after drift"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.plug = func(ctx context.Context, on network.Bridge, t network.Tap) error {
				if _, there := node.Tap(t.Name); there {
					return ctx.Err()
				}
				return m.Plug(ctx, on, t)
			}
		}},
		{"plug does not look at the bridge's name", []string{"plug refuses"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.plug = func(ctx context.Context, on network.Bridge, t network.Tap) error {
				t.Bridge = on.Name
				return m.Plug(ctx, on, t)
			}
		}},
		{"unplug does nothing", []string{"unplug", "unplug what is held open", "many at once"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.unplug = func(ctx context.Context, tap string) error { return ctx.Err() }
		}},
		{"unplug is not idempotent", []string{"unplug", "unplug a link of others"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.unplug = func(ctx context.Context, tap string) error {
				if _, there := node.Tap(tap); !there && ctx.Err() == nil {
					return errdefs.ErrNotFound
				}
				return m.Unplug(ctx, tap)
			}
		}},
		{"unplug takes links of others", []string{"unplug a link of others"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.unplug = func(ctx context.Context, tap string) error {
				node.RemoveLink(tap)
				return m.Unplug(ctx, tap)
			}
		}},
		{"close takes the network down", []string{"close changes nothing"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.end = func() error {
				_, err := m.Apply(context.Background(), network.Desired{})
				return err
			}
		}},
		{"the context's error is wrapped", []string{"a context that ended"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.unplug = func(ctx context.Context, tap string) error {
				if err := m.Unplug(ctx, tap); err != nil {
					return fmt.Errorf("unplug: %w", err)
				}
				return nil
			}
		}},
		{"the context is not looked at", []string{"a context that ended"}, func(b *broken, m manager, node *fakenetwork.Node) {
			b.plug = func(ctx context.Context, on network.Bridge, t network.Tap) error {
				return m.Plug(context.WithoutCancel(ctx), on, t)
			}
		}},
		{"an apply that was cut short is not mended", []string{"a context that ends during an apply"}, func(b *broken, m manager, node *fakenetwork.Node) {
			first := true
			b.apply = func(ctx context.Context, d network.Desired) (network.Report, error) {
				if first && len(d.Taps) > 1 {
					first = false
					_, err := m.Apply(context.WithoutCancel(ctx), network.Desired{Bridges: d.Bridges, Taps: d.Taps[1:]})
					return network.Report{}, errors.Join(err, context.DeadlineExceeded)
				}
				if len(d.Taps) > 1 {
					d.Taps = d.Taps[1:]
				}
				return m.Apply(ctx, d)
			}
		}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			for _, name := range c.rows {
				env, node := fakeEnv()
				env.Open = func() (network.Manager, error) {
					m := fakenetwork.New(fakenetwork.Config{Node: node})
					b := &broken{Manager: m, apply: m.Apply, plug: m.Plug, unplug: m.Unplug, inspect: m.Inspect, groups: m.SetGroups, floating: m.SetFloating, end: m.Close}
					c.spoil(b, m, node)
					return b, nil
				}
				found := false
				for _, r := range rows() {
					if r.name == name {
						found = true
						require.Error(t, r.run(t.Context(), env), "row %q did not notice", name)
					}
				}
				require.True(t, found, "no row %q", name)
			}
		})
	}
}

func TestTapsWithoutFilterAreSeen(t *testing.T) {
	env, _ := fakeEnv()
	env.Unguarded = func() ([]string, error) { return []string{"nt-1-1"}, nil }
	for _, r := range rows() {
		if r.name == "plug" || r.name == "apply twice" {
			require.ErrorContains(t, r.run(t.Context(), env), "without their filter")
		}
	}
}
