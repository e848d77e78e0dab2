package fakevolume_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
	"github.com/dewpoint-cloud/dewpoint/volume/volumetest"
)

func newDriver(t *testing.T) (*fakevolume.Driver, string) {
	dir := t.TempDir()
	d, err := fakevolume.New(fakevolume.Config{Dir: dir, TotalGiB: 16})
	require.NoError(t, err)
	return d, dir
}

func TestContract(t *testing.T) {
	volumetest.TestDriver(t, func(t *testing.T) volumetest.Env {
		d, dir := newDriver(t)
		return volumetest.Env{
			Driver: d,
			Foreign: func() (func(), error) {
				path := filepath.Join(dir, uuid.NewString())
				return func() { _ = os.Remove(path) }, os.WriteFile(path, nil, 0o600)
			},
			Hang: func() (func(), error) { return d.Inject(fakevolume.Fault{Hang: true}).Remove, nil },
			Down: func() (func(), error) { return d.Inject(fakevolume.Fault{Err: errdefs.ErrUnavailable}).Remove, nil },
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []fakevolume.Config{{}, {Dir: "/x", TotalGiB: -1}} {
		_, err := fakevolume.New(cfg)
		require.True(t, errdefs.IsInvalidArgument(err), err)
	}
	d, err := fakevolume.New(fakevolume.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	s, err := d.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, volume.Stats{TotalGiB: 1000, FreeGiB: 1000}, s)
}

// TestSnapshotsTakeRoom so that what is free is never below 0.
func TestSnapshotsTakeRoom(t *testing.T) {
	d, _ := newDriver(t)
	id := uuid.NewString()
	require.NoError(t, d.Create(t.Context(), id, 9))
	require.True(t, errdefs.IsResourceExhausted(d.Snapshot(t.Context(), uuid.NewString(), id)))
}

func TestFailedCallsLeaveNothing(t *testing.T) {
	d, err := fakevolume.New(fakevolume.Config{Dir: filepath.Join(t.TempDir(), "missing")})
	require.NoError(t, err)
	require.ErrorIs(t, d.Create(t.Context(), uuid.NewString(), 1), os.ErrNotExist)
	all, err := d.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestFaults(t *testing.T) {
	ctx := context.Background()
	d, _ := newDriver(t)
	a, b := uuid.NewString(), uuid.NewString()

	before := d.Inject(fakevolume.Fault{Method: fakevolume.MethodCreate, ID: a, Call: 2, Err: errdefs.ErrInternal})
	require.NoError(t, d.Create(ctx, a, 1))
	require.NoError(t, d.Create(ctx, b, 1))
	require.True(t, errdefs.IsInternal(d.Create(ctx, a, 1)))
	require.NoError(t, d.Create(ctx, a, 1))
	<-before.Struck()
	require.Equal(t, 1, before.Hits())
	before.Remove()
	before.Remove()

	after := d.Inject(fakevolume.Fault{Method: fakevolume.MethodDelete, After: true, Err: errdefs.ErrUnavailable})
	require.True(t, errdefs.IsUnavailable(d.Delete(ctx, b)))
	after.Remove()
	all, err := d.List(ctx)
	require.NoError(t, err)
	require.Equal(t, []volume.Info{{ID: a, SizeGiB: 1}}, all, "b is gone: the fault struck after the work")
	require.Equal(t, 4, d.Calls(fakevolume.MethodCreate))
	require.Equal(t, 6, d.Calls(""))
}

func TestHangAndDelay(t *testing.T) {
	d, _ := newDriver(t)
	id := uuid.NewString()
	synctest.Test(t, func(t *testing.T) {
		d, err := fakevolume.New(fakevolume.Config{Dir: t.TempDir()})
		require.NoError(t, err)
		slow := d.Inject(fakevolume.Fault{Method: fakevolume.MethodCreate, Delay: time.Hour})
		start := time.Now()
		require.NoError(t, d.Create(t.Context(), id, 1))
		require.Equal(t, time.Hour, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.Equal(t, context.DeadlineExceeded, d.Create(ctx, id, 1))
		slow.Remove()

		hang := d.Inject(fakevolume.Fault{Method: fakevolume.MethodExtend, Hang: true})
		ended := make(chan error, 1)
		go func() { ended <- d.Extend(t.Context(), id, 2) }()
		<-hang.Struck()
		require.NoError(t, d.Create(t.Context(), id, 1), "others go on, and nothing is extended yet")
		hang.Remove()
		require.NoError(t, <-ended)
		require.NoError(t, d.Create(t.Context(), id, 2))
	})
	require.NoError(t, d.Delete(t.Context(), id))
}
