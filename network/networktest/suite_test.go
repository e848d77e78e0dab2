package networktest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
)

func fakeNode(*testing.T) Open {
	node := fakenetwork.NewNode()
	return func() (network.Manager, error) { return fakenetwork.New(fakenetwork.Config{Node: node}), nil }
}

func TestTheFakeKeepsTheContract(t *testing.T) { TestManager(t, fakeNode) }

// broken is a fake with one fault.
type broken struct {
	network.Manager
	apply  func(ctx context.Context, m network.Manager, d network.Desired) (network.Report, error)
	plug   func(ctx context.Context, m network.Manager, b network.Bridge, t network.Tap) error
	unplug func(ctx context.Context, m network.Manager, tap string) error
}

func (b broken) Apply(ctx context.Context, d network.Desired) (network.Report, error) {
	if b.apply == nil {
		return b.Manager.Apply(ctx, d)
	}
	return b.apply(ctx, b.Manager, d)
}

func (b broken) Plug(ctx context.Context, on network.Bridge, t network.Tap) error {
	if b.plug == nil {
		return b.Manager.Plug(ctx, on, t)
	}
	return b.plug(ctx, b.Manager, on, t)
}

func (b broken) Unplug(ctx context.Context, tap string) error {
	if b.unplug == nil {
		return b.Manager.Unplug(ctx, tap)
	}
	return b.unplug(ctx, b.Manager, tap)
}

func TestBrokenManagersAreCaught(t *testing.T) {
	for _, c := range []struct {
		row string
		m   broken
	}{
		{"apply", broken{apply: func(ctx context.Context, m network.Manager, d network.Desired) (network.Report, error) {
			had, _ := m.Inspect(ctx)
			if len(d.Taps) < len(had.Taps) { // removes nothing
				return network.Report{}, nil
			}
			return m.Apply(ctx, d)
		}}},
		{"twice", broken{apply: func(ctx context.Context, m network.Manager, d network.Desired) (network.Report, error) {
			r, err := m.Apply(ctx, d)
			r.Changes = append(r.Changes, "always something")
			return r, err
		}}},
		{"contradiction", broken{apply: func(ctx context.Context, m network.Manager, d network.Desired) (network.Report, error) {
			r, err := m.Apply(ctx, d)
			if err != nil {
				_, _ = m.Apply(ctx, network.Desired{})
			}
			return r, err
		}}},
		{"uplink", broken{apply: func(ctx context.Context, m network.Manager, d network.Desired) (network.Report, error) {
			r, err := m.Apply(ctx, d)
			if err != nil {
				_ = m.Unplug(ctx, d.Taps[0].Name)
			}
			return r, err
		}}},
		{"plug", broken{plug: func(ctx context.Context, m network.Manager, b network.Bridge, t network.Tap) error {
			t.IPs = nil
			return m.Plug(ctx, b, t)
		}}},
		{"plug as apply", broken{plug: func(context.Context, network.Manager, network.Bridge, network.Tap) error { return nil }}},
		{"unplug", broken{unplug: func(context.Context, network.Manager, string) error { return nil }}},
		{"context", broken{plug: func(ctx context.Context, m network.Manager, b network.Bridge, t network.Tap) error {
			return m.Plug(context.WithoutCancel(ctx), b, t)
		}}},
		{"concurrent", broken{plug: func(ctx context.Context, m network.Manager, b network.Bridge, t network.Tap) error {
			if t.Name == "tap1-15" {
				return nil
			}
			return m.Plug(ctx, b, t)
		}}},
	} {
		caught := false
		for _, r := range rows() {
			if r.name == c.row {
				m := c.m
				m.Manager = fakenetwork.New(fakenetwork.Config{})
				caught = check(t.Context(), func() (network.Manager, error) { return m, nil }, r) != nil
			}
		}
		require.True(t, caught, "a manager that breaks the row %q passes it", c.row)
	}
}
