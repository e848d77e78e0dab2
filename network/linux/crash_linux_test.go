package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// mortal is a wire whose process dies at its n-th call, before the call's effect or after it: nothing has an effect from then on.
type mortal struct {
	wire
	left  int // calls until death
	after bool
	dead  bool
}

var errDead = errors.New("killed by the test")

func dies[T any](m *mortal, f func() (T, error)) (result T, err error) {
	if m.dead {
		return result, errDead
	}
	if m.left--; m.left >= 0 {
		return f()
	}
	m.dead = true
	if m.after {
		_, _ = f()
	}
	return result, errDead
}

func (m *mortal) route(req netlink.Message) ([]netlink.Message, error) {
	return dies(m, func() ([]netlink.Message, error) { return m.wire.route(req) })
}

func (m *mortal) group(id string) (filter, error) {
	return dies(m, func() (filter, error) { return m.wire.group(id) })
}

func (m *mortal) class(chain string) (n uint32, there bool, err error) {
	n, err = dies(m, func() (n uint32, err error) { n, there, err = m.wire.class(chain); return n, err })
	return n, there, err
}

func (m *mortal) nat() (nat, error) { return dies(m, m.wire.nat) }

func (m *mortal) setNAT(have, want nat) error {
	_, err := dies(m, func() (struct{}, error) { return struct{}{}, m.wire.setNAT(have, want) })
	return err
}

func (m *mortal) announce(link uint32, mac net.HardwareAddr, a netip.Addr) error {
	_, err := dies(m, func() (struct{}, error) { return struct{}{}, m.wire.announce(link, mac, a) })
	return err
}

func (m *mortal) setConf6(link, name string, value int) error {
	_, err := dies(m, func() (struct{}, error) { return struct{}{}, m.wire.setConf6(link, name, value) })
	return err
}

func (m *mortal) filter() (filter, error) { return dies(m, m.wire.filter) }

func (m *mortal) commit(c filterChange) error {
	_, err := dies(m, func() (struct{}, error) { return struct{}{}, m.wire.commit(c) })
	return err
}

func (m *mortal) forwarding() (forwards, error) { return dies(m, m.wire.forwarding) }

func (m *mortal) forward(f forwards) error {
	_, err := dies(m, func() (struct{}, error) { return struct{}{}, m.wire.forward(f) })
	return err
}

func (m *mortal) openTap(name string) (tapFile, error) {
	var opened tapFile
	f, err := dies(m, func() (f tapFile, err error) { opened, err = m.wire.openTap(name); return opened, err })
	if err != nil {
		if opened != nil {
			_ = opened.close() // the kernel closes what a dead process had open
		}
		return nil, err
	}
	return &mortalTap{f, m}, nil
}

type mortalTap struct {
	tapFile
	m *mortal
}

func (t *mortalTap) keep() error {
	_, err := dies(t.m, func() (struct{}, error) { return struct{}{}, t.tapFile.keep() })
	return err
}

// A manager that dies at any of its calls to the kernel leaves what the next one mends: the node is as it should be then, and
// an uplink has lost nothing.
func TestTheNextManagerMendsWhatADeadOneLeft(t *testing.T) {
	testneed.Slow(t)
	for _, c := range []life{
		{"first Apply", network.Desired{},
			func(ctx context.Context, m *Manager) error { _, err := m.Apply(ctx, withUplink(1, 2)); return err }, withUplink(1, 2)},
		{"Plug", withUplink(1),
			func(ctx context.Context, m *Manager) error { return m.Plug(ctx, withUplink().Bridges[0], tap(2)) }, withUplink(1, 2)},
		{"Unplug", withUplink(1, 2),
			func(ctx context.Context, m *Manager) error { return m.Unplug(ctx, tapName(2)) }, withUplink(1)},
		{"last Apply", withUplink(1, 2),
			func(ctx context.Context, m *Manager) error { _, err := m.Apply(ctx, network.Desired{}); return err }, network.Desired{}},
	} {
		c.survives(t)
	}
}

// life is a call that a manager dies in: what the node has before, and what it is to have.
type life struct {
	name   string
	before network.Desired
	do     func(context.Context, *Manager) error
	want   network.Desired
}

func (c life) survives(t *testing.T) {
	t.Helper()
	for _, after := range []bool{false, true} {
		for place, died := 0, true; died; place++ {
			require.Less(t, place, 500, "%s: does not end", c.name)
			// A test of its own, whose namespaces are gone when it ends.
			if !t.Run(fmt.Sprintf("%s, call %d, after its effect: %v", c.name, place, after), func(t *testing.T) { died = c.survivesAt(t, place, after) }) {
				return
			}
		}
	}
}

func (c life) survivesAt(t *testing.T, place int, after bool) (died bool) {
	ns, healthy := withCard(t)
	if len(c.before.Bridges) > 0 {
		_, err := healthy.Apply(t.Context(), c.before)
		require.NoError(t, err)
	}
	died = die(t, ns, place, after, c.do)
	_, err := healthy.Apply(t.Context(), c.want)
	require.NoError(t, err)
	got, err := healthy.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, len(c.want.Taps), len(got.Taps))
	if len(c.want.Bridges) > 0 {
		require.Equal(t, applied(c.want), got)
	} else {
		require.Empty(t, got.Bridges)
	}
	if len(c.want.Bridges) > 0 && enslaved(c.want.Bridges[0]) != "" {
		requireNetworkOn(t, ns, "br100", "card")
	} else {
		requireNetworkOn(t, ns, "card", "")
	}
	report, err := healthy.Apply(t.Context(), c.want)
	require.NoError(t, err)
	require.Empty(t, report.Changes)
	for _, want := range []network.Desired{c.want, {}} {
		_, err := healthy.Apply(t.Context(), want)
		require.NoError(t, err)
		routes := []string{"0", "1"} // whether IPv6 is forwarded, and how the card hears routers
		if len(routedBridges(want.Bridges)) > 0 {
			routes = []string{"1", "2"}
		}
		require.Equal(t, routes, []string{conf6(t, ns, "all/forwarding"), conf6(t, ns, "card/accept_ra")})
	}
	return died
}

func die(t *testing.T, ns *netnstest.NS, place int, after bool, do func(context.Context, *Manager) error) (died bool) {
	t.Helper()
	k, err := dial(ns.Path())
	require.NoError(t, err)
	w := &mortal{wire: k, left: place, after: after}
	m := newManager(w, nil)
	err = do(t.Context(), m)
	if w.dead {
		require.Error(t, err)
	} else {
		require.NoError(t, err)
	}
	require.NoError(t, m.Close())
	return w.dead
}
