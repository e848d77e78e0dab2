package iscsi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/volumetest"
)

func newExporter(t *testing.T) (*Exporter, string, string) {
	server, addr := serve(t, Config{})
	x, err := NewExporter(ExporterConfig{Target: server, Portal: addr})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, x.Close()) })
	path := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, 1<<20))
	return x, addr, path
}

func TestExporterKeepsTheContract(t *testing.T) {
	volumetest.TestExporter(t, func(t *testing.T) volumetest.ExporterEnv {
		x, addr, path := newExporter(t)
		return volumetest.ExporterEnv{Exporter: x, Path: path, Login: func(at volume.Target, name, user, secret string) (func() error, error) {
			require.Equal(t, addr, at.Portal)
			i := dial(t, at.Portal, name)
			if err := i.login(at.IQN, secrets{algorithm: "5", user: user, secret: secret}); err != nil {
				return nil, err
			}
			return func() error {
				res, err := i.do(write16(0, 1), make([]byte, 512), 0)
				if err == nil && res.key == 6 { // a unit attention, as after a resize
					res, err = i.do(write16(0, 1), make([]byte, 512), 0)
				}
				if err == nil && res.status != 0 {
					err = fmt.Errorf("status %#x, key %#x", res.status, res.key)
				}
				return err
			}, nil
		}}
	})
}

func TestExporterConfigIsChecked(t *testing.T) {
	for field, cfg := range map[string]ExporterConfig{
		"Target": {Portal: "127.0.0.1:1"}, "Portal": {Target: NewServer(Config{})},
		"Prefix": {Target: NewServer(Config{}), Portal: "127.0.0.1:1", Prefix: "UPPER"},
	} {
		_, err := NewExporter(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, field)
	}
}

// TestExporterClosesWhatItOpened: a device that is unexported can be removed, and one of an older epoch too.
func TestExporterClosesWhatItOpened(t *testing.T) {
	x, _, path := newExporter(t)
	ctx := context.Background()
	open := func() (n int) {
		fds, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to == path {
				n++
			}
		}
		return n
	}
	e := volume.Export{VolumeID: uuid.NewString(), Epoch: 1, Path: path, Initiator: testInitiator, User: "u", Secret: "twelve bytes and more"}
	for range 2 {
		_, err := x.Export(ctx, e)
		require.NoError(t, err)
		require.Equal(t, 1, open())
	}
	e.Epoch = 2
	_, err := x.Export(ctx, e)
	require.NoError(t, err)
	require.Equal(t, 1, open())
	older := e
	older.Epoch = 1
	_, err = x.Export(ctx, older)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	other := e
	other.Secret = "another secret altogether"
	_, err = x.Export(ctx, other)
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	other.Path = path + ".missing"
	_, err = x.Export(ctx, other)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.Equal(t, 1, open())
	require.NoError(t, x.Unexport(ctx, e.VolumeID, 2))
	require.Zero(t, open())
}
