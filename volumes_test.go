package dewpoint_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

// storage gives the rig's host volumes.
func (r *rig) storage(t *testing.T) (*fakevolume.Driver, *fakevolume.Exporter) {
	driver, err := fakevolume.New(fakevolume.Config{Dir: t.TempDir(), TotalGiB: 16})
	require.NoError(t, err)
	exporter := fakevolume.NewExporter()
	r.cfg.VolumeDriver, r.cfg.VolumeExporter = driver, exporter
	return driver, exporter
}

// TestVolumesOfACloud: a volume outlives the instance that it was attached to, and Runs of the cloud. Whoever has work is told: no agent looks by itself.
func TestVolumesOfACloud(t *testing.T) {
	r := newRig(t)
	r.cfg.Tick = 1000 * time.Hour
	driver, exporter := r.storage(t)
	cloud, s, ctx, stop := run(t, r.cfg)
	made, err := s.Compute.Run(ctx, furnish(t, ctx, s))
	require.NoError(t, err)
	instance := made[0].ID
	_, err = s.Compute.WaitActive(ctx, instance)
	require.NoError(t, err)
	v, err := s.Volumes.Create(ctx, volume.CreateRequest{SizeGiB: 2})
	require.NoError(t, err)
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	_, err = s.Compute.AttachVolume(ctx, compute.AttachRequest{Instance: instance, Volume: v.ID})
	require.NoError(t, err)
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateInUse)
	require.NoError(t, err)
	_, err = s.Volumes.Extend(ctx, v.ID, 3)
	require.NoError(t, err)
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = s.Volumes.WaitFor(soon, v.ID, volume.StateInUse)
	require.NoError(t, err)
	found, err := cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	_, used, err := s.Auth.GetQuota(ctx, "project")
	require.NoError(t, err)
	require.Equal(t, 3, used.Of(auth.Gigabytes))
	require.NoError(t, stop())

	exporter.Restart()
	cloud, s, ctx, stop = run(t, r.cfg)
	found, err = cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found, "the volume is exported again")

	// What an audit finds.
	plugger := r.cfg.Hypervisor.(compute.Plugger)
	require.NoError(t, plugger.UnplugDisk(ctx, instance, compute.VolumeSerial(v.ID)))
	require.NoError(t, driver.Create(ctx, "11111111-1111-1111-1111-111111111111", 1))
	_, err = exporter.Export(ctx, volume.Export{VolumeID: "22222222-2222-2222-2222-222222222222"})
	require.NoError(t, err)
	found, err = cloud.Audit(ctx)
	require.NoError(t, err)
	text := strings.Join(found, "\n")
	require.Contains(t, text, "volume 11111111-1111-1111-1111-111111111111 of 1 GiB: no record wants it")
	require.Contains(t, text, "volume 22222222-2222-2222-2222-222222222222 is exported with epoch 0: no record wants it")
	require.Contains(t, text, "instance "+instance+" has volume "+v.ID+" on record, its domain does not have it")
	require.NoError(t, driver.Delete(ctx, "11111111-1111-1111-1111-111111111111"))
	require.NoError(t, exporter.Unexport(ctx, "22222222-2222-2222-2222-222222222222", 0))

	require.NoError(t, s.Compute.Terminate(ctx, instance))
	require.NoError(t, s.Compute.WaitGone(ctx, instance))
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	found, err = cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, stop())
}

// TestAProcessWithVolumesAlone serves those of machines elsewhere.
func TestAProcessWithVolumesAlone(t *testing.T) {
	r := newRig(t)
	r.storage(t)
	cfg := dewpoint.Config{Dir: r.cfg.Dir, Log: r.cfg.Log, VolumeDriver: r.cfg.VolumeDriver, VolumeExporter: r.cfg.VolumeExporter}
	cloud, s, ctx, stop := run(t, cfg)
	v, err := s.Volumes.Create(ctx, volume.CreateRequest{SizeGiB: 1})
	require.NoError(t, err)
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	found, err := cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, stop())

	cfg.VolumeExporter = nil
	_, err = dewpoint.New(cfg)
	require.ErrorContains(t, err, "Config.VolumeDriver and VolumeExporter")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

// TestACloudWithoutVolumes says that there is no room for one.
func TestACloudWithoutVolumes(t *testing.T) {
	_, s, ctx, stop := run(t, newRig(t).cfg)
	_, err := s.Volumes.Create(ctx, volume.CreateRequest{SizeGiB: 1})
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	require.ErrorContains(t, err, "of 0 with volumes")
	require.NoError(t, stop())
}

// passing is a hypervisor whose domains go as soon as they are listed.
type passing struct {
	*fakecompute.Hypervisor
}

func (p passing) DisksOf(context.Context, string) ([]string, error) {
	return nil, fmt.Errorf("domain: %w", errdefs.ErrNotFound)
}

// TestADomainThatGoesDuringAnAudit is no reason for the audit to fail.
func TestADomainThatGoesDuringAnAudit(t *testing.T) {
	r := newRig(t)
	r.storage(t)
	r.cfg.Hypervisor = passing{Hypervisor: r.cfg.Hypervisor.(*fakecompute.Hypervisor)}
	cloud, s, ctx, _ := run(t, r.cfg)
	made, err := s.Compute.Run(ctx, furnish(t, ctx, s))
	require.NoError(t, err)
	_, err = s.Compute.WaitActive(ctx, made[0].ID)
	require.NoError(t, err)
	found, err := cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
}

// watched is a hypervisor that tells when it is asked for anything.
type watched struct {
	compute.Hypervisor
	asked atomic.Int32
}

func (w *watched) Describe(ctx context.Context) (compute.HostInfo, error) {
	w.asked.Add(1)
	return w.Hypervisor.Describe(ctx)
}

// TestNothingStartsBeforeTheVolumesCan: all that a Run may fail for when it begins is looked at before any of its parts works, which nobody would
// end then.
func TestNothingStartsBeforeTheVolumesCan(t *testing.T) {
	r := newRig(t)
	r.storage(t)
	hypervisor := &watched{Hypervisor: r.cfg.Hypervisor}
	r.cfg.Hypervisor = hypervisor
	// The last word that a program has before its node works spoils what the volumes are told: who their host is.
	id := filepath.Join(r.cfg.Dir, "host-id")
	r.cfg.Metadata = func(*dewpoint.Services) (network.Server, error) {
		return silent{}, os.WriteFile(id, []byte("nonsense"), 0o600)
	}
	_, s, ctx, stop := run(t, r.cfg)
	require.NotZero(t, hypervisor.asked.Load())
	v, err := s.Volumes.Create(ctx, volume.CreateRequest{SizeGiB: 1})
	require.NoError(t, err, "the host that the node was is the volumes' too")
	_, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	require.NoError(t, stop())

	asked := hypervisor.asked.Load()
	cloud, err := dewpoint.New(r.cfg)
	require.NoError(t, err)
	require.ErrorIs(t, cloud.Run(t.Context()), errdefs.ErrDataLoss)
	require.Equal(t, asked, hypervisor.asked.Load())
}

// silent is a server that answers nobody.
type silent struct{}

func (silent) Apply(context.Context, network.Desired) error            { return nil }
func (silent) Plug(context.Context, network.Bridge, network.Tap) error { return nil }
func (silent) Unplug(context.Context, string) error                    { return nil }
func (silent) Run(ctx context.Context) error                           { <-ctx.Done(); return nil }

// TestAVolumeOfAnImage holds what the image holds, through the image store of its process.
func TestAVolumeOfAnImage(t *testing.T) {
	r := newRig(t)
	driver, _ := r.storage(t)
	cloud, s, ctx, stop := run(t, r.cfg)
	img, err := s.Images.Create(ctx, image.Spec{Name: "small", Format: image.Raw}, strings.NewReader("this is an image"))
	require.NoError(t, err)
	v, err := s.Volumes.Create(ctx, volume.CreateRequest{Image: img.ID})
	require.NoError(t, err)
	v, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	require.Equal(t, 1, v.SizeGiB)
	path, err := driver.Path(ctx, v.ID)
	require.NoError(t, err)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	got := make([]byte, 17)
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, "this is an image\x00", string(got))

	// And an image of a snapshot of it holds the same.
	snapshot, err := s.Volumes.Snapshot(ctx, volume.SnapshotRequest{Volume: v.ID})
	require.NoError(t, err)
	_, err = s.Volumes.WaitSnapshot(ctx, snapshot.ID, func(x volume.Snapshot) bool { return x.State == volume.StateAvailable })
	require.NoError(t, err)
	made, err := s.Volumes.CreateImage(ctx, volume.ImageRequest{Snapshot: snapshot.ID, Name: "back"})
	require.NoError(t, err)
	require.NoError(t, image.Images.Await(ctx, s.Store, made.ID, func(now image.Image, found bool) (bool, error) {
		made = now
		return !found || now.Status != image.Uploading, nil
	}))
	require.Equal(t, image.Active, made.Status, made.Reason)
	require.EqualValues(t, 1<<30, made.VirtualBytes)
	again, err := s.Volumes.Create(ctx, volume.CreateRequest{Image: made.ID})
	require.NoError(t, err)
	_, err = s.Volumes.WaitFor(ctx, again.ID, volume.StateAvailable)
	require.NoError(t, err)
	path, err = driver.Path(ctx, again.ID)
	require.NoError(t, err)
	content, err := os.Open(path)
	require.NoError(t, err)
	defer content.Close()
	_, err = content.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, "this is an image\x00", string(got))
	found, err := cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, stop())
}
