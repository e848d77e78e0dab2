package computetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// ConnectorEnv is what the suite of [compute.Connector] works on. All fields are required.
type ConnectorEnv struct {
	Connector compute.Connector

	// Connection returns one to a volume that is exported to this host: each time another one.
	Connection func() (compute.Connection, error)
	// Newer exports the volume of a connection with the next epoch, and returns the connection to that.
	Newer func(compute.Connection) (compute.Connection, error)
	// Use writes and reads the first block of a disk, as a machine would.
	Use func(compute.Disk) error
	// Enlarge has the volume of a connection, where it is exported, have so many bytes, and tells initiators. It had at most 64 MiB before.
	Enlarge func(c compute.Connection, bytes int64) error
	// Size returns how many bytes a machine that opens the disk now gets.
	Size func(compute.Disk) (int64, error)
	// Left tells what is on the host for a connection, in words; "": nothing.
	Left func(compute.Connection) string
}

// TestConnector runs the suite of [compute.Connector].
func TestConnector(t *testing.T, open func(t *testing.T) ConnectorEnv) {
	for _, r := range connectorRows() {
		t.Run(r.name, func(t *testing.T) {
			if err := r.run(t.Context(), open(t)); err != nil {
				t.Errorf("contract: %q\n%v", r.rule, err)
			}
		})
	}
}

// connectorRow checks one sentence of the contract.
type connectorRow struct {
	name  string
	rule  string // as it is in compute/connector.go
	check func(ctx context.Context, e ConnectorEnv, c compute.Connection) error
}

func (r connectorRow) run(ctx context.Context, e ConnectorEnv) error {
	if e.Connector == nil || e.Connection == nil || e.Newer == nil || e.Use == nil || e.Left == nil || e.Enlarge == nil || e.Size == nil {
		return errors.New("ConnectorEnv is not complete")
	}
	c, err := e.Connection()
	if err != nil {
		return err
	}
	err = r.check(ctx, e, c)
	return errors.Join(err, e.Connector.Disconnect(context.WithoutCancel(ctx), c))
}

// usable connects and uses the disk.
func (e ConnectorEnv) usable(ctx context.Context, c compute.Connection) (compute.Disk, error) {
	d, err := e.Connector.Connect(ctx, c)
	if err != nil {
		return d, fmt.Errorf("connecting: %w", err)
	}
	if d.Device != c.Device || d.Serial != compute.VolumeSerial(c.VolumeID) || (d.Path == "") == (d.ISCSI == nil) {
		return d, fmt.Errorf("the disk is %+v", d)
	}
	if err := e.Use(d); err != nil {
		return d, fmt.Errorf("using the disk: %w", err)
	}
	return d, nil
}

func same(a, b compute.Disk) bool {
	return a.Path == b.Path && a.Format == b.Format && a.Serial == b.Serial && a.Device == b.Device && (a.ISCSI == nil) == (b.ISCSI == nil) &&
		(a.ISCSI == nil || *a.ISCSI == *b.ISCSI)
}

func connectorRows() []connectorRow {
	return []connectorRow{
		{
			name: "connect",
			rule: "Connect makes a volume reachable and returns the disk that a machine gets, with the connection's Device, and [VolumeSerial] as its Serial.",
			check: func(ctx context.Context, e ConnectorEnv, c compute.Connection) error {
				_, err := e.usable(ctx, c)
				return err
			},
		},
		{
			name: "connect again",
			rule: "What is connected already stays as it is, and the disk is the same.",
			check: func(ctx context.Context, e ConnectorEnv, c compute.Connection) error {
				d, err := e.usable(ctx, c)
				if err != nil {
					return err
				}
				again, err := e.usable(ctx, c)
				if err == nil && !same(d, again) {
					err = fmt.Errorf("the disk was %+v, is %+v", d, again)
				}
				return errors.Join(err, e.Use(d))
			},
		},
		{
			name: "a newer epoch",
			rule: "What older epochs of the volume have left on this host is ended first.",
			check: func(ctx context.Context, e ConnectorEnv, c compute.Connection) error {
				if _, err := e.usable(ctx, c); err != nil {
					return err
				}
				newer, err := e.Newer(c)
				if err != nil {
					return err
				}
				if _, err := e.usable(ctx, newer); err != nil {
					return err
				}
				if left := e.Left(c); left != "" {
					return fmt.Errorf("of epoch %d is left: %s", c.Epoch, left)
				}
				return e.Connector.Disconnect(ctx, newer)
			},
		},
		{
			name: "disconnect",
			rule: "Disconnect ends what Connect began; no machine has the disk any more.",
			check: func(ctx context.Context, e ConnectorEnv, c compute.Connection) error {
				if _, err := e.usable(ctx, c); err != nil {
					return err
				}
				if err := e.Connector.Disconnect(ctx, c); err != nil {
					return err
				}
				if left := e.Left(c); left != "" {
					return fmt.Errorf("there is left: %s", left)
				}
				_, err := e.usable(ctx, c)
				return err
			},
		},
		{
			name: "disconnect what is not connected",
			rule: "One that is not connected is success.",
			check: func(ctx context.Context, e ConnectorEnv, c compute.Connection) error {
				return errors.Join(e.Connector.Disconnect(ctx, c), e.Connector.Disconnect(ctx, c))
			},
		},
		{
			name: "grow",
			rule: "Grow has the host see that a volume is bytes large, which it is already where it is exported, and returns when the host does.",
			check: func(ctx context.Context, e ConnectorEnv, c compute.Connection) error {
				d, err := e.usable(ctx, c)
				if err != nil {
					return err
				}
				const bytes = 65 << 20
				if err := e.Enlarge(c, bytes); err != nil {
					return err
				}
				for range 2 {
					if err := e.Connector.Grow(ctx, c, bytes); err != nil {
						return err
					}
				}
				if size, err := e.Size(d); err != nil || size != bytes {
					return fmt.Errorf("the disk has %d bytes, want %d: %w", size, bytes, err)
				}
				return e.Use(d)
			},
		},
		{
			name: "grow what is not connected",
			rule: "One that is not connected is success.",
			check: func(ctx context.Context, e ConnectorEnv, c compute.Connection) error {
				return errors.Join(e.Enlarge(c, 65<<20), e.Connector.Grow(ctx, c, 65<<20))
			},
		},
		{
			name: "disconnect what is older",
			rule: "What a newer epoch of the volume has stays.",
			check: func(ctx context.Context, e ConnectorEnv, c compute.Connection) error {
				newer, err := e.Newer(c)
				if err != nil {
					return err
				}
				d, err := e.usable(ctx, newer)
				if err != nil {
					return err
				}
				if err := e.Connector.Disconnect(ctx, c); err != nil && !errdefs.IsFailedPrecondition(err) {
					return err
				}
				if err := e.Use(d); err != nil {
					return fmt.Errorf("the disk of epoch %d is not what it was: %w", newer.Epoch, err)
				}
				return e.Connector.Disconnect(ctx, newer)
			},
		},
	}
}
