package networktest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// rule is a rule of the suite.
func rule(text string) network.Rule {
	r, err := network.ParseRule(text)
	if err != nil {
		panic(err) // the suite's own
	}
	return r
}

func group(id string, members []netip.Addr, rules ...string) network.Group {
	g := network.Group{ID: id, Members: slices.Clone(members)}
	for _, text := range rules {
		g.Rules = append(g.Rules, rule(text))
	}
	return g
}

// guarded has two taps on the first bridge: one of group nt-app, one of nt-db, which nt-app may ask.
func guarded() network.Desired {
	d := desired(1, 2)
	for i, id := range []string{"nt-app", "nt-db"} {
		d.Taps[i].Guarded, d.Taps[i].Groups = true, []string{id}
	}
	d.Groups = []network.Group{
		group("nt-app", d.Taps[0].IPs, "egress any any any"),
		group("nt-db", nil, "ingress tcp 5432-5432 group:nt-app", "ingress icmp 8/any 10.99.1.0/24"),
	}
	return d
}

func groupRows() []row {
	return []row{
		{
			name: "apply groups",
			rule: "mends what differs",
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, guarded()); err != nil {
					return err
				}
				for name, change := range map[string]func(d *network.Desired){
					"rule": func(d *network.Desired) { d.Groups[1].Rules[0].From = 5000 },
					"rule more": func(d *network.Desired) {
						d.Groups[1].Rules = append(d.Groups[1].Rules, rule("egress udp 53-53 fd00::/8"))
					},
					"rule less":     func(d *network.Desired) { d.Groups[1].Rules = d.Groups[1].Rules[1:] },
					"no rules":      func(d *network.Desired) { d.Groups[0].Rules = nil },
					"members":       func(d *network.Desired) { d.Groups[0].Members = []netip.Addr{netip.MustParseAddr("fd00::7")} },
					"no members":    func(d *network.Desired) { d.Groups[0].Members = nil },
					"group of tap":  func(d *network.Desired) { d.Taps[0].Groups = []string{"nt-db"} },
					"groups of tap": func(d *network.Desired) { d.Taps[0].Groups = []string{"nt-app", "nt-db"} },
					"no groups":     func(d *network.Desired) { d.Taps[1].Groups = nil },
					"not guarded":   func(d *network.Desired) { d.Taps[1].Guarded, d.Taps[1].Groups = false, nil },
					"group":         func(d *network.Desired) { d.Groups = append(d.Groups, group("nt-new", nil, "egress any any any")) },
					"group less":    func(d *network.Desired) { d.Groups, d.Taps[1].Groups = d.Groups[:1], nil },
				} {
					d := guarded()
					change(&d)
					report, err := e.Manager.Apply(ctx, d)
					if err == nil && len(report.Changes) == 0 {
						err = fmt.Errorf("an Apply reported no change")
					}
					if err == nil {
						err = e.is(ctx, d)
					}
					if err == nil {
						err = e.apply(ctx, guarded())
					}
					if err != nil {
						return fmt.Errorf("another %s: %w", name, err)
					}
				}
				return all(
					func() error { return e.is(ctx, guarded()) },
					func() error { return e.apply(ctx, network.Desired{}) },
					func() error { return e.is(ctx, network.Desired{}) },
				)
			},
		},
		{
			name:  "what groups let through",
			rule:  "A tap that is Guarded gets and sends what a rule of one of its Groups lets through, and the answers to that, and nothing else",
			needs: func(e Env) bool { return e.Passes != nil },
			check: func(ctx context.Context, e *bench) error {
				d := guarded()
				d.Bridges[0].Uplink = ""
				if err := e.apply(ctx, d); err != nil {
					return err
				}
				app, db := d.Taps[0], d.Taps[1]
				query := network.Packet{Protocol: network.TCP, Port: 5432}
				return all(
					func() error { return e.passes(app, db, query, true) },
					func() error { return e.passes(app, db, network.Packet{Protocol: network.TCP, Port: 22}, false) },
					func() error { return e.passes(db, app, query, false) },
					func() error { return e.passes(app, db, network.Packet{Protocol: network.ICMP, Type: 8}, true) },
					func() error {
						return e.Manager.SetGroups(ctx, []network.Group{group("nt-app", nil, "egress any any any")})
					},
					func() error { return e.passes(app, db, query, false) },
					func() error { return e.apply(ctx, d) },
					func() error { return e.passes(app, db, query, true) },
					func() error { app.Guarded, app.Groups = true, nil; return e.Manager.Plug(ctx, d.Bridges[0], app) },
					func() error { return e.passes(app, db, query, false) },
					func() error { app.Guarded = false; return e.Manager.Plug(ctx, d.Bridges[0], app) },
					func() error { return e.passes(app, db, query, true) },
				)
			},
		},
		{
			name:  "rules that are taken away",
			rule:  "A rule that is taken away lets through no further packet, also of connections that it had let through.",
			needs: func(e Env) bool { return e.Passes != nil },
			check: func(ctx context.Context, e *bench) error {
				d := guarded()
				if err := e.apply(ctx, d); err != nil {
					return err
				}
				query := network.Packet{Protocol: network.TCP, Port: 5432}
				return all(
					func() error { return e.passes(d.Taps[0], d.Taps[1], query, true) },
					func() error { return e.Manager.SetGroups(ctx, []network.Group{group("nt-db", nil)}) },
					func() error { return e.passes(d.Taps[0], d.Taps[1], query, false) },
				)
			},
		},
		{
			name: "set groups",
			rule: "SetGroups makes each of the groups as it is in gs, and leaves others as they are. It does the same as Apply with these in place of those of the same id",
			check: func(ctx context.Context, e *bench) error {
				d := guarded()
				fresh := group("nt-new", d.Taps[1].IPs, "ingress udp any any")
				d.Groups[1] = group("nt-db", nil, "ingress any any group:nt-new")
				d.Groups = append(d.Groups, fresh)
				return all(
					func() error { return e.Manager.SetGroups(ctx, []network.Group{fresh}) },
					func() error { return e.is(ctx, network.Desired{Groups: []network.Group{fresh}}) },
					func() error { return e.apply(ctx, guarded()) },
					func() error { return e.Manager.SetGroups(ctx, []network.Group{fresh, d.Groups[1]}) },
					func() error { return e.is(ctx, d) },
					func() error { return e.Manager.SetGroups(ctx, nil) },
					func() error { return e.is(ctx, d) },
				)
			},
		},
		{
			name: "groups that are wrong",
			rule: "What is wrong with gs by itself is InvalidArgument, and nothing was changed.",
			check: func(ctx context.Context, e *bench) error {
				if err := e.apply(ctx, guarded()); err != nil {
					return err
				}
				bad := rule("ingress tcp 22-22 any")
				bad.Protocol = "TCP"
				host := netip.MustParseAddr("10.99.1.9")
				for name, gs := range map[string][]network.Group{
					"no id":          {group("", nil)},
					"an id of words": {group("nt-app", nil), group("two words", nil)},
					"a long id":      {group(fmt.Sprintf("%065d", 1), nil)},
					"a group twice":  {group("nt-app", nil), group("nt-app", nil)},
					"a wrong rule":   {{ID: "nt-app", Rules: []network.Rule{bad}}},
					"a rule twice":   {group("nt-app", nil, "ingress any any any", "ingress any any any")},
					"a member twice": {group("nt-app", []netip.Addr{host, host})},
					"no member":      {group("nt-app", []netip.Addr{{}})},
				} {
					if err := class("SetGroups with "+name, e.Manager.SetGroups(ctx, gs), errdefs.ErrInvalidArgument); err != nil {
						return err
					}
					d := guarded()
					d.Groups = gs
					_, err := e.Manager.Apply(ctx, d)
					if err := class("Apply with "+name, err, errdefs.ErrInvalidArgument); err != nil {
						return err
					}
				}
				return e.is(ctx, guarded())
			},
		},
		{
			name: "plug into groups",
			rule: "The addresses of a Guarded t become Members of its Groups.",
			check: func(ctx context.Context, e *bench) error {
				d := guarded()
				third := tap(1, 3)
				third.Guarded, third.Groups = true, []string{"nt-app", "nt-db"}
				d.Taps = append(d.Taps, third)
				d.Groups[0].Members = append(d.Groups[0].Members, third.IPs...)
				d.Groups[1].Members = third.IPs
				moved := d.Clone()
				moved.Taps[2].Groups = []string{"nt-db"}
				return all(
					func() error { return e.apply(ctx, guarded()) },
					func() error { return e.Manager.Plug(ctx, d.Bridges[0], third) },
					func() error { return e.is(ctx, d) },
					func() error { return e.Manager.Plug(ctx, d.Bridges[0], moved.Taps[2]) },
					func() error { return e.is(ctx, moved) },
				)
			},
		},
		{
			name: "plug into a group that nobody told of",
			rule: "A group of t that the node does not have is made without rules: it lets nothing through until SetGroups or Apply bring them.",
			check: func(ctx context.Context, e *bench) error {
				one := tap(1, 1)
				one.Guarded, one.Groups = true, []string{"nt-app"}
				d := network.Desired{Bridges: []network.Bridge{bridge(1)}, Taps: []network.Tap{one}, Groups: []network.Group{group("nt-app", one.IPs)}}
				return all(
					func() error { return e.Manager.Plug(ctx, bridge(1), one) },
					func() error { return e.is(ctx, d) },
				)
			},
		},
		{
			name: "unplug leaves groups",
			rule: "Groups stay as they are.",
			check: func(ctx context.Context, e *bench) error {
				d := guarded()
				d.Taps = d.Taps[1:]
				return all(
					func() error { return e.apply(ctx, guarded()) },
					func() error { return e.Manager.Unplug(ctx, tap(1, 1).Name) },
					func() error { return e.is(ctx, d) },
				)
			},
		},
	}
}

// passes checks whether a packet that one tap sends, the first of its flow, gets to another.
func (e *bench) passes(from, to network.Tap, p network.Packet, want bool) error {
	got, err := e.Passes(from, to, p)
	if err == nil && got != want {
		err = fmt.Errorf("%+v from %s to %s passes: %v, must be %v", p, from.Name, to.Name, got, want)
	}
	return err
}
