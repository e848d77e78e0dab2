package linux

import (
	"context"
	"testing"
	"time"

	"github.com/dewpoint-cloud/dewpoint/internal/nodevm"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// A manager that dies at any of its calls to the kernel while it makes, moves or removes a VLAN leaves what the next one mends.
func TestAVLANOutlivesItsManager(t *testing.T) {
	if !nodevm.Inside() {
		testneed.Slow(t)
		nodevm.Run(t, nodevm.Config{Tests: "^TestAVLANOutlivesItsManager$", Timeout: 30 * time.Minute})
		return
	}
	apply := func(d network.Desired) func(context.Context, *Manager) error {
		return func(ctx context.Context, m *Manager) error { _, err := m.Apply(ctx, d); return err }
	}
	for _, c := range []life{
		{"a VLAN made", network.Desired{}, apply(onVLAN(100, 1)), onVLAN(100, 1)},
		{"a VLAN plugged", network.Desired{},
			func(ctx context.Context, m *Manager) error { return m.Plug(ctx, onVLAN(100).Bridges[0], tap(1)) }, onVLAN(100, 1)},
		{"a VLAN in place of another", onVLAN(100, 1), apply(onVLAN(101, 1)), onVLAN(101, 1)},
		{"a VLAN in place of the card", withUplink(1), apply(onVLAN(100, 1)), onVLAN(100, 1)},
		{"a VLAN removed", onVLAN(100, 1), apply(network.Desired{}), network.Desired{}},
	} {
		c.survives(t)
	}
}
