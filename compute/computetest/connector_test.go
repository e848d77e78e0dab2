package computetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// host is one on which volumes are devices: what has which path.
type host map[string]compute.Connection

func (h host) Connect(_ context.Context, c compute.Connection) (compute.Disk, error) {
	for path, other := range h {
		if other.VolumeID == c.VolumeID && other.Epoch < c.Epoch {
			delete(h, path)
		}
	}
	path := "/dev/" + c.VolumeID + c.User
	h[path] = c
	return compute.Disk{Path: path, Format: "raw", Device: c.Device, Serial: compute.VolumeSerial(c.VolumeID)}, nil
}

func (h host) Disconnect(_ context.Context, c compute.Connection) error {
	for path, other := range h {
		if other.VolumeID == c.VolumeID && other.Epoch <= c.Epoch {
			delete(h, path)
		}
	}
	return nil
}

func (h host) Grow(_ context.Context, c compute.Connection, bytes int64) error {
	for path, other := range h {
		if other.VolumeID == c.VolumeID && other.Epoch == c.Epoch {
			other.Secret = fmt.Sprint(bytes) // of a fake, the size it has seen
			h[path] = other
		}
	}
	return nil
}

func (h host) env(c compute.Connector) ConnectorEnv {
	size := int64(0)
	return ConnectorEnv{
		Connector: c,
		Connection: func() (compute.Connection, error) {
			return compute.Connection{VolumeID: uuid.NewString(), Epoch: 1, Device: "vdb", User: "1", Target: volume.Target{IQN: "iqn.x"}}, nil
		},
		Newer: func(c compute.Connection) (compute.Connection, error) {
			c.Epoch, c.User = c.Epoch+1, "2"
			return c, nil
		},
		Use: func(d compute.Disk) error {
			if _, there := h[d.Path]; !there && d.Path != "" {
				return errors.New("no such device")
			}
			return nil
		},
		Enlarge: func(_ compute.Connection, bytes int64) error { size = bytes; return nil },
		Size: func(d compute.Disk) (int64, error) {
			if d.ISCSI != nil { // it is asked when it is opened
				return size, nil
			}
			return strconv.ParseInt(h[d.Path].Secret, 10, 64)
		},
		Left: func(c compute.Connection) string {
			for path, other := range h {
				if other.VolumeID == c.VolumeID && other.Epoch == c.Epoch {
					return path
				}
			}
			return ""
		},
	}
}

func TestConnectorOfAHost(t *testing.T) {
	TestConnector(t, func(*testing.T) ConnectorEnv { h := host{}; return h.env(h) })
}

// TestQEMUInitiator: QEMU's own initiator needs nothing on the host.
func TestQEMUInitiator(t *testing.T) {
	TestConnector(t, func(*testing.T) ConnectorEnv { return host{}.env(compute.QEMUInitiator{}) })
}

type brokenConnector struct {
	grow       func(context.Context, compute.Connection, int64) error
	connect    func(context.Context, compute.Connection) (compute.Disk, error)
	disconnect func(context.Context, compute.Connection) error
}

func (b brokenConnector) Connect(ctx context.Context, c compute.Connection) (compute.Disk, error) {
	return b.connect(ctx, c)
}
func (b brokenConnector) Disconnect(ctx context.Context, c compute.Connection) error {
	return b.disconnect(ctx, c)
}

func (b brokenConnector) Grow(ctx context.Context, c compute.Connection, bytes int64) error {
	return b.grow(ctx, c, bytes)
}

func TestSuiteFindsBrokenConnectors(t *testing.T) {
	all, found := map[string]connectorRow{}, map[string]bool{}
	for _, r := range connectorRows() {
		all[r.name] = r
	}
	for name, c := range map[string]struct {
		rows  []string
		spoil func(h host, b *brokenConnector)
	}{
		"no serial": {[]string{"connect"}, func(h host, b *brokenConnector) {
			b.connect = func(ctx context.Context, c compute.Connection) (compute.Disk, error) {
				d, err := h.Connect(ctx, c)
				d.Serial = ""
				return d, err
			}
		}},
		"another device each time": {[]string{"connect again"}, func(h host, b *brokenConnector) {
			b.connect = func(ctx context.Context, c compute.Connection) (compute.Disk, error) {
				c.User = uuid.NewString()
				return h.Connect(ctx, c)
			}
		}},
		"older ones stay": {[]string{"a newer epoch"}, func(h host, b *brokenConnector) {
			b.connect = func(ctx context.Context, c compute.Connection) (compute.Disk, error) {
				d, err := host{}.Connect(ctx, c)
				h[d.Path] = c
				return d, err
			}
		}},
		"nothing is ended": {[]string{"disconnect"}, func(_ host, b *brokenConnector) {
			b.disconnect = func(context.Context, compute.Connection) error { return nil }
		}},
		"what is gone is an error": {[]string{"disconnect what is not connected"}, func(h host, b *brokenConnector) {
			b.disconnect = func(ctx context.Context, c compute.Connection) error {
				if h.env(h).Left(c) == "" {
					return errdefs.ErrNotFound
				}
				return h.Disconnect(ctx, c)
			}
		}},
		"the host is not told": {[]string{"grow"}, func(_ host, b *brokenConnector) {
			b.grow = func(context.Context, compute.Connection, int64) error { return nil }
		}},
		"growing wants a connection": {[]string{"grow what is not connected"}, func(h host, b *brokenConnector) {
			b.grow = func(ctx context.Context, c compute.Connection, bytes int64) error {
				if h.env(h).Left(c) == "" {
					return errdefs.ErrNotFound
				}
				return h.Grow(ctx, c, bytes)
			}
		}},
		"all is ended": {[]string{"disconnect what is older"}, func(h host, b *brokenConnector) {
			b.disconnect = func(context.Context, compute.Connection) error { clear(h); return nil }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, row := range c.rows {
				found[row] = true
				h := host{}
				b := &brokenConnector{h.Grow, h.Connect, h.Disconnect}
				c.spoil(h, b)
				require.Error(t, all[row].run(t.Context(), h.env(b)), "row %q does not find it", row)
			}
		})
	}
	for name := range all {
		require.True(t, found[name], "no broken connector shows that the row %q finds anything", name)
	}
	require.Error(t, all["connect"].run(t.Context(), ConnectorEnv{}))
}

func TestRulesOfConnectorsAreInTheContract(t *testing.T) {
	source, err := os.ReadFile("../connector.go")
	require.NoError(t, err)
	contract := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), " ")), " ")
	for _, r := range connectorRows() {
		require.Contains(t, contract, strings.Join(strings.Fields(r.rule), " "), r.name)
	}
}
