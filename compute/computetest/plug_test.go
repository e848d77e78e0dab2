package computetest

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
)

func fakeDisk() (compute.Disk, error) {
	return compute.Disk{Path: "/disk", Format: "raw", Device: "vdx", Serial: uuid.NewString()[:20]}, nil
}

func TestFakePlugger(t *testing.T) {
	TestPlugger(t, func(t *testing.T) PlugEnv { return fakePlugEnv(fakecompute.New(fakecompute.Config{})) })
}

func fakePlugEnv(h *fakecompute.Hypervisor) PlugEnv {
	return PlugEnv{Env: fakeEnv(h), Disk: fakeDisk, Enlarge: func(compute.Disk, int64) error { return nil },
		Size: func(id string, d compute.Disk) (int64, error) { return h.Host().DiskSize(id, d.Serial), nil }}
}

// brokenPlugger is the fake with a method in its place.
type brokenPlugger struct {
	*fakecompute.Hypervisor
	plug   func(ctx context.Context, id string, d compute.Disk) error
	unplug func(ctx context.Context, id, serial string) error
	disks  func(ctx context.Context, id string) ([]string, error)
	grow   func(ctx context.Context, id, serial string, bytes int64) error
}

func (b *brokenPlugger) PlugDisk(ctx context.Context, id string, d compute.Disk) error {
	return b.plug(ctx, id, d)
}

func (b *brokenPlugger) UnplugDisk(ctx context.Context, id, serial string) error {
	return b.unplug(ctx, id, serial)
}

func (b *brokenPlugger) GrowDisk(ctx context.Context, id, serial string, bytes int64) error {
	return b.grow(ctx, id, serial, bytes)
}

func (b *brokenPlugger) DisksOf(ctx context.Context, id string) ([]string, error) {
	return b.disks(ctx, id)
}

func TestSuiteFindsBrokenPluggers(t *testing.T) {
	all, found := map[string]plugRow{}, map[string]bool{}
	for _, r := range plugRows() {
		all[r.name] = r
	}
	for name, c := range map[string]struct {
		rows  []string
		spoil func(b *brokenPlugger)
	}{
		"it plugs nothing": {[]string{"plug", "plug again", "unplug"}, func(b *brokenPlugger) {
			b.plug = func(context.Context, string, compute.Disk) error { return nil }
		}},
		"it has no virtio-scsi": {[]string{"plug on virtio-scsi"}, func(b *brokenPlugger) {
			b.plug = func(ctx context.Context, id string, d compute.Disk) error {
				if d.Device[0] == 's' {
					return errdefs.ErrNotImplemented
				}
				return b.Hypervisor.PlugDisk(ctx, id, d)
			}
		}},
		"it plugs anything": {[]string{"plug what is bad"}, func(b *brokenPlugger) {
			b.plug = func(ctx context.Context, id string, d compute.Disk) error {
				d.Path, d.Device = "/disk", "vdx"
				if d.Serial == "" {
					d.Serial = "x"
				}
				return b.Hypervisor.PlugDisk(ctx, id, d)
			}
		}},
		"what is off is success": {[]string{"plug what is off", "an unknown machine"}, func(b *brokenPlugger) {
			b.plug = func(ctx context.Context, id string, d compute.Disk) error {
				_ = b.Hypervisor.PlugDisk(ctx, id, d)
				return ctx.Err()
			}
		}},
		"it unplugs nothing": {[]string{"unplug", "unplug without an answer"}, func(b *brokenPlugger) {
			b.unplug = func(ctx context.Context, _, _ string) error { return ctx.Err() }
		}},
		"it unplugs everything": {[]string{"unplug what is not there"}, func(b *brokenPlugger) {
			b.unplug = func(ctx context.Context, id, _ string) error {
				serials, err := b.Hypervisor.DisksOf(ctx, id)
				for _, s := range serials {
					_ = b.Hypervisor.UnplugDisk(ctx, id, s)
				}
				return err
			}
		}},
		"it tells nobody": {[]string{"grow"}, func(b *brokenPlugger) {
			b.grow = func(context.Context, string, string, int64) error { return nil }
		}},
		"it grows what there is": {[]string{"grow what is not there"}, func(b *brokenPlugger) {
			b.grow = func(ctx context.Context, id, serial string, bytes int64) error {
				if serials, err := b.Hypervisor.DisksOf(ctx, id); err != nil || !slices.Contains(serials, serial) {
					return errdefs.ErrNotFound
				}
				return b.Hypervisor.GrowDisk(ctx, id, serial, bytes)
			}
		}},
		"it grows to less": {[]string{"grow to less"}, func(b *brokenPlugger) {
			b.grow = func(ctx context.Context, id, serial string, bytes int64) error {
				return b.Hypervisor.GrowDisk(ctx, id, serial, max(bytes, 3<<20))
			}
		}},
		"it remembers disks": {[]string{"until it is off", "disks"}, func(b *brokenPlugger) {
			var seen []string
			b.disks = func(ctx context.Context, id string) ([]string, error) {
				now, err := b.Hypervisor.DisksOf(ctx, id)
				if len(now) > 0 {
					seen = now
				}
				return seen, err
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, row := range c.rows {
				found[row] = true
				h := fakecompute.New(fakecompute.Config{})
				b := &brokenPlugger{Hypervisor: h, plug: h.PlugDisk, unplug: h.UnplugDisk, disks: h.DisksOf, grow: h.GrowDisk}
				c.spoil(b)
				env := fakePlugEnv(h)
				env.Driver = b
				require.Error(t, all[row].run(t.Context(), env), "row %q does not find it", row)
			}
		})
	}
	for name := range all {
		require.True(t, found[name], "no broken driver shows that the row %q finds anything", name)
	}
	require.Error(t, all["plug"].run(t.Context(), PlugEnv{}))
}

func TestRulesOfPluggersAreInTheContract(t *testing.T) {
	source, err := os.ReadFile("../plug.go")
	require.NoError(t, err)
	contract := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), " ")), " ")
	for _, r := range plugRows() {
		require.Contains(t, contract, strings.Join(strings.Fields(r.rule), " "), r.name)
	}
}
