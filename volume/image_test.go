package volume_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

// holds checks how a volume begins.
func (c *cloud) holds(id, text string) error {
	path, err := c.nodes[0].driver.Path(c.ctx, id)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(f, got); err != nil || string(got) != text {
		return errors.Join(err, fmt.Errorf("the volume begins with %q, should begin with %q", got, text))
	}
	return nil
}

func TestAVolumeOfAnImage(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		img := c.image(t, func(*image.Image) {})
		v := c.create(t, volume.CreateRequest{Image: img})
		require.Equal(t, 2, v.SizeGiB, "the least that the image's disk fits into")
		require.Equal(t, img, v.ImageID)
		require.NoError(t, c.holds(v.ID, "this is Debian"))
		large := c.create(t, volume.CreateRequest{Image: c.image(t, func(i *image.Image) { i.MinDiskGiB = 3 }), SizeGiB: 4})
		require.Equal(t, 4, large.SizeGiB)

		// What is made of it knows the image too.
		clone := c.create(t, volume.CreateRequest{Source: v.ID})
		require.Equal(t, img, clone.ImageID)
		snapshot := c.snapshot(t, v.ID)
		of := c.create(t, volume.CreateRequest{Snapshot: snapshot.ID})
		require.Equal(t, img, of.ImageID)
		require.NoError(t, c.holds(of.ID, "this is Debian"))

		for _, wrong := range []struct {
			req   volume.CreateRequest
			class error
			says  string
		}{
			{volume.CreateRequest{Image: img, SizeGiB: 1}, errdefs.ErrInvalidArgument, "SizeGiB is 1, must be at least 2"},
			{volume.CreateRequest{Image: img, Source: v.ID}, errdefs.ErrInvalidArgument, "Source and Image 2 are given"},
			{volume.CreateRequest{Image: "none"}, errdefs.ErrNotFound, "none"},
			{volume.CreateRequest{Image: c.image(t, func(i *image.Image) { i.ProjectID = "other" })}, errdefs.ErrNotFound, "image"},
			{volume.CreateRequest{Image: c.image(t, func(i *image.Image) { i.Format = image.Kernel })}, errdefs.ErrInvalidArgument, "needs a disk"},
			{volume.CreateRequest{Image: c.image(t, func(i *image.Image) { i.Status = image.Queued })}, errdefs.ErrFailedPrecondition, "must be active"},
		} {
			_, err := c.service.Create(c.ctx, wrong.req)
			require.ErrorIs(t, err, wrong.class)
			require.ErrorContains(t, err, wrong.says)
		}

		// An image that goes before the volume is made is what the volume says.
		fault := n.driver.Inject(fakevolume.Fault{Method: fakevolume.MethodList, Hang: true})
		late := c.image(t, func(*image.Image) {})
		w, err := c.service.Create(c.ctx, volume.CreateRequest{Image: late})
		require.NoError(t, err)
		<-fault.Struck()
		require.NoError(t, c.store.Update(c.ctx, func(tx *state.Tx) error { return image.Images.Delete(tx, late) }))
		fault.Remove()
		_, err = c.service.WaitFor(c.ctx, w.ID, volume.StateAvailable)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, "not found")
	})
}
