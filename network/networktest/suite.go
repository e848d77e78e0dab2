// Package networktest tells whether a [network.Manager] keeps its contract: a row for each sentence of it.
//
// A driver's own test calls [TestManager]; a failure prints the sentence that does not hold:
//
//	func TestContract(t *testing.T) {
//		networktest.TestManager(t, func(t *testing.T) networktest.Env {
//			return networktest.Env{Open: …}
//		})
//	}
package networktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Env is a node, which has nothing of the managers' at first, and what the suite needs to know of it. What the optional parts
// would check is left out where they are nil, and the test says so.
type Env struct {
	// Open returns another manager of the node, as a process would make it that starts after the one before was killed. The
	// suite closes what it opens. Required.
	Open func() (network.Manager, error)

	// Uplink is a network card of the node that the suite may use as an uplink. Optional.
	Uplink string

	// VLAN says that the node knows VLANs: the suite makes some of Uplink.
	VLAN bool

	// External is a bridge of the node that an administrator made. Others describes it too. Optional.
	External string

	// Foreign makes a link on the node that is not the managers', of the given name. Optional.
	Foreign func(name string) error

	// Others describes all that the node has and that is not the managers', so that two descriptions are equal if nothing of
	// it was changed in between. Optional.
	Others func() (string, error)

	// Hold opens a tap as a machine does, until release. Optional.
	Hold func(tap string) (release func(), err error)

	// Identity returns what a link keeps for as long as it is there, and another one of its name has not. Optional.
	Identity func(link string) (string, error)

	// Drift are ways in which the node comes to differ from what was applied last, by other hands: each gets a bridge and a tap on
	// it. Optional.
	Drift map[string]func(bridge, tap string) error

	// Passes sends a packet of IPv4 from the machine behind one tap to that behind another, which have their first addresses, and tells
	// whether it came. The packet's Direction and Remote are not given. Optional.
	Passes func(from, to network.Tap, p network.Packet) (bool, error)

	// Forwards6 tells whether the node forwards IPv6, and SetForwards6 is an administrator who says so. Optional, both or none.
	Forwards6    func() (bool, error)
	SetForwards6 func(on bool) error

	// Unguarded names the taps that are on a bridge at this moment without their filter. Optional.
	Unguarded func() ([]string, error)
}

// TestManager runs the suite. Each row has a node of its own, which node makes.
func TestManager(t *testing.T, node func(t *testing.T) Env) {
	t.Helper()
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			env := node(t)
			if r.needs != nil && !r.needs(env) {
				t.Skip("the environment has no means for this row")
			}
			if err := r.run(t.Context(), env); err != nil {
				t.Errorf("contract: %q\n%v", r.rule, err)
			}
		})
	}
}

// row checks one sentence of the contract.
type row struct {
	name  string
	rule  string // as it is in network/manager.go
	needs func(Env) bool
	check func(ctx context.Context, e *bench) error
}

func rows() []row {
	return slices.Concat(applyRows(), mendRows(), modeRows(), refuseRows(), plugRows(), lifeRows(), groupRows(), floatingRows(), route6Rows())
}

// bench is an Env with a manager during one row.
type bench struct {
	Env
	Manager network.Manager
}

func (r row) run(ctx context.Context, env Env) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	m, err := env.Open()
	if err != nil {
		return fmt.Errorf("Env.Open: %w", err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return r.check(ctx, &bench{env, m})
}

// bridge is the n-th bridge of the suite, tap the n-th tap on it, with n from 1 to 200.
func bridge(n int) network.Bridge {
	return network.Bridge{
		Name: fmt.Sprint("nt-br", n), MTU: 1500, Gateway: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(n), 1}), 24),
		Router: netip.AddrFrom4([4]byte{10, 99, byte(n), 1}), Domain: "test", Lease: time.Hour,
	}
}

func tap(b, n int) network.Tap {
	return network.Tap{
		Name: fmt.Sprintf("nt-%d-%d", b, n), Bridge: bridge(b).Name, Port: fmt.Sprintf("port-%d-%d", b, n),
		MAC: []byte{0x52, 0x54, 0, 0x99, byte(b), byte(n)}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 99, byte(b), byte(n + 1)})}, Hostname: "host",
	}
}

// desired has the first bridge with taps.
func desired(taps ...int) network.Desired {
	d := network.Desired{Bridges: []network.Bridge{bridge(1)}}
	for _, n := range taps {
		d.Taps = append(d.Taps, tap(1, n))
	}
	return d
}

func (e *bench) apply(ctx context.Context, d network.Desired) error {
	if _, err := e.Manager.Apply(ctx, d); err != nil {
		return fmt.Errorf("an Apply: %w", err)
	}
	return nil
}

// is checks that the node has d, and that nothing has to be changed for it.
func (e *bench) is(ctx context.Context, d network.Desired) error {
	if err := e.has(ctx, d); err != nil {
		return err
	}
	report, err := e.Manager.Apply(ctx, d)
	if err != nil {
		return fmt.Errorf("an Apply of what is there: %w", err)
	}
	if len(report.Changes) > 0 {
		return fmt.Errorf("an Apply of what is there changed: %q", report.Changes)
	}
	return e.guarded()
}

// has checks that Inspect returns d.
func (e *bench) has(ctx context.Context, d network.Desired) error {
	got, err := e.Manager.Inspect(ctx)
	if err != nil {
		return fmt.Errorf("an Inspect: %w", err)
	}
	if want := kept(d); !reflect.DeepEqual(got.Clone(), want) {
		return fmt.Errorf("what Inspect returned is\n\t%+v\nand must be\n\t%+v", got, want)
	}
	return nil
}

func (e *bench) guarded() error {
	if e.Unguarded == nil {
		return nil
	}
	taps, err := e.Unguarded()
	if err == nil && len(taps) > 0 {
		err = fmt.Errorf("taps on a bridge without their filter: %q", taps)
	}
	return err
}

// kept is d as Inspect returns it: sorted, and without what only DHCP uses.
func kept(d network.Desired) network.Desired {
	d = d.Clone()
	for i, b := range d.Bridges {
		d.Bridges[i] = network.Bridge{Name: b.Name, NAT: b.NAT, MTU: cmp.Or(b.MTU, network.DefaultMTU), Uplink: b.Uplink, VLAN: b.VLAN, Gateway: b.Gateway, Gateway6: b.Gateway6}
		if b.External {
			d.Bridges[i] = network.Bridge{Name: b.Name, External: true}
		}
	}
	for i := range d.Taps {
		d.Taps[i].Hostname = ""
	}
	for i, g := range d.Groups {
		slices.SortFunc(g.Rules, func(a, b network.Rule) int { return cmp.Compare(a.String(), b.String()) })
		slices.SortFunc(d.Groups[i].Members, netip.Addr.Compare)
	}
	slices.SortFunc(d.Groups, func(a, b network.Group) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(d.Bridges, func(a, b network.Bridge) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Taps, func(a, b network.Tap) int { return cmp.Compare(a.Name, b.Name) })
	return d
}

// all runs the steps in order up to the first that fails.
func all(steps ...func() error) error {
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

// class checks that err is of a class of errdefs.
func class(what string, err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%s: got error %v, must be one of class %q", what, err, want)
	}
	return nil
}
