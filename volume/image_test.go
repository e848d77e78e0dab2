package volume_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
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

// TestAnImageOfAVolume: what it is made of stays as long as that takes, and it boots with what the volume's own image did.
func TestAnImageOfAVolume(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		kernel := c.image(t, func(i *image.Image) { i.Format = image.Kernel })
		of := c.image(t, func(i *image.Image) { i.KernelID, i.Properties = kernel, map[string]string{"os_command_line": "quiet"} })
		v := c.create(t, volume.CreateRequest{Image: of})
		s := c.snapshot(t, v.ID)
		done := func(req volume.ImageRequest, hold fakevolume.Method) image.Image {
			fault := n.driver.Inject(fakevolume.Fault{Method: hold, Hang: true})
			img, err := c.service.CreateImage(c.ctx, req)
			require.NoError(t, err)
			require.Equal(t, image.Uploading, img.Status)
			require.Equal(t, image.QCOW2, img.Format)
			require.Equal(t, kernel, img.KernelID)
			require.Equal(t, "quiet", img.Properties["os_command_line"])
			again, err := c.service.CreateImage(c.ctx, req)
			require.NoError(t, err)
			require.Equal(t, img.ID, again.ID)
			<-fault.Struck()
			if req.Volume != "" {
				require.ErrorIs(t, c.service.Delete(c.ctx, v.ID), errdefs.ErrFailedPrecondition)
				_, err = c.service.Attach(c.ctx, request(v.ID))
				require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			} else {
				require.ErrorIs(t, c.service.DeleteSnapshot(c.ctx, s.ID), errdefs.ErrFailedPrecondition)
			}
			fault.Remove()
			require.NoError(t, image.Images.Await(c.ctx, c.store, img.ID, func(now image.Image, found bool) (bool, error) {
				img = now
				return !found || now.Status != image.Uploading, nil
			}))
			return img
		}
		content := hex.EncodeToString([]byte("this is Debian" + string(make([]byte, 18))))
		img := done(volume.ImageRequest{Volume: v.ID, Name: "of a volume", Token: "one"}, fakevolume.MethodPath)
		require.Equal(t, image.Active, img.Status)
		require.Equal(t, content, img.SHA256)
		img = done(volume.ImageRequest{Snapshot: s.ID, Name: "of a snapshot", Token: "two"}, fakevolume.MethodClone)
		require.Equal(t, image.Active, img.Status)
		require.Equal(t, content, img.SHA256)
		require.Equal(t, project, img.ProjectID)

		c.attach(t, v.ID)
		stranger := auth.NewContext(context.Background(), auth.Caller{UserID: "eve", ProjectID: "other", Roles: []string{auth.SysAdmin}})
		for _, wrong := range []struct {
			ctx   context.Context
			req   volume.ImageRequest
			class error
			says  string
		}{
			{c.ctx, volume.ImageRequest{Name: "x"}, errdefs.ErrInvalidArgument, "exactly one of Volume and Snapshot"},
			{c.ctx, volume.ImageRequest{Name: "x", Volume: v.ID, Snapshot: s.ID}, errdefs.ErrInvalidArgument, "exactly one of Volume and Snapshot"},
			{c.ctx, volume.ImageRequest{Snapshot: s.ID}, errdefs.ErrInvalidArgument, "Name"},
			{c.ctx, volume.ImageRequest{Name: "x", Volume: v.ID}, errdefs.ErrFailedPrecondition, "is in-use, must be available for an image"},
			{c.ctx, volume.ImageRequest{Name: "x", Volume: "none"}, errdefs.ErrNotFound, "none"},
			{stranger, volume.ImageRequest{Name: "x", Volume: v.ID}, errdefs.ErrNotFound, v.ID},
			{stranger, volume.ImageRequest{Name: "x", Snapshot: s.ID}, errdefs.ErrNotFound, s.ID},
		} {
			_, err := c.service.CreateImage(wrong.ctx, wrong.req)
			require.ErrorIs(t, err, wrong.class)
			require.ErrorContains(t, err, wrong.says)
		}
	})
}
