package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// expect has a host make an image.
func (r rig) expect(t *testing.T, format Format) Image {
	t.Helper()
	var img Image
	require.NoError(t, r.store.Update(t.Context(), func(tx *state.Tx) (err error) {
		img, _, err = Expect(tx, auth.Caller{ProjectID: "p", UserID: "ann"}, "host", Spec{Name: "made", Format: format})
		return err
	}))
	return img
}

func (r rig) attempt(t *testing.T, id string) Image {
	t.Helper()
	var img Image
	require.NoError(t, r.store.Update(t.Context(), func(tx *state.Tx) (err error) { img, err = Attempt(tx, id, "host"); return err }))
	return img
}

func (r rig) now(t *testing.T, id string) Image {
	t.Helper()
	img, err := r.Get(as(t, "p"), id)
	require.NoError(t, err)
	return img
}

func (r rig) arrived(t *testing.T, id string, upload uint64) Image {
	t.Helper()
	require.NoError(t, r.store.Update(t.Context(), func(tx *state.Tx) error { return Arrived(tx, id, "host", upload) }))
	return r.now(t, id)
}

// TestAnImageThatAHostMakes is nothing that anybody can use until all of it is there, and the last attempt alone counts.
func TestAnImageThatAHostMakes(t *testing.T) {
	r := newRig(t)
	img := r.expect(t, Raw)
	require.Equal(t, Uploading, r.now(t, img.ID).Status)
	first := r.attempt(t, img.ID)
	_, err := r.Receive(t.Context(), "host", img.ID, first.Upload, io.MultiReader(bytes.NewReader(disk(100)), iotest.ErrReader(errors.New("cut"))))
	require.ErrorContains(t, err, "cut")
	_, err = r.Receive(t.Context(), "another", img.ID, first.Upload, bytes.NewReader(disk(512)))
	require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
	_, err = r.Receive(t.Context(), "host", img.ID, first.Upload, bytes.NewReader(disk(1<<20+1)))
	require.ErrorIs(t, err, ErrTooLarge)
	require.Empty(t, names(t, filepath.Join(r.dir, blobsDir)), "nothing is left of what was refused")
	require.Equal(t, Uploading, r.arrived(t, img.ID, first.Upload).Status, "there is no content yet")

	second := r.attempt(t, img.ID)
	_, err = r.Receive(t.Context(), "host", img.ID, first.Upload, bytes.NewReader(disk(512)))
	require.ErrorIs(t, err, errdefs.ErrAborted)
	// One that began while it counted, and ends when it does not any more, leaves nothing.
	third := Image{}
	_, err = r.Receive(t.Context(), "host", img.ID, second.Upload, io.MultiReader(bytes.NewReader(disk(512)), before(func() { third = r.attempt(t, img.ID) })))
	require.ErrorIs(t, err, errdefs.ErrAborted)
	stored, err := r.Receive(t.Context(), "host", img.ID, third.Upload, bytes.NewReader(disk(1000)))
	require.NoError(t, err)
	require.EqualValues(t, 1000, stored.Size)
	require.Equal(t, Uploading, r.now(t, img.ID).Status)
	_, _, err = r.Download(as(t, "p"), img.ID)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	n, err := r.SweepBlobs(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, Uploading, r.arrived(t, img.ID, second.Upload).Status)
	active := r.arrived(t, img.ID, third.Upload)
	require.Equal(t, Active, active.Status)
	require.Equal(t, stored.SHA256, active.SHA256)
	require.EqualValues(t, 1024, active.VirtualBytes)
	_, blob, err := r.Download(as(t, "p"), img.ID)
	require.NoError(t, err)
	got, err := io.ReadAll(blob)
	require.NoError(t, errors.Join(err, blob.Close()))
	require.Equal(t, disk(1000), got)
	_, err = r.Receive(t.Context(), "host", img.ID, third.Upload, bytes.NewReader(disk(512)))
	require.ErrorIs(t, err, errdefs.ErrAborted, "what is active never changes")

	// One that will not come can be uploaded by its owner.
	lost := r.expect(t, Raw)
	require.NoError(t, r.store.Update(t.Context(), func(tx *state.Tx) error { return Lost(tx, lost.ID, "host", "the host burnt down") }))
	require.Equal(t, "the host burnt down", r.now(t, lost.ID).Reason)
	require.Equal(t, Failed, r.now(t, lost.ID).Status)
	active, err = r.Upload(as(t, "p"), lost.ID, bytes.NewReader(disk(512)))
	require.NoError(t, err)
	require.NoError(t, r.store.Update(t.Context(), func(tx *state.Tx) error { return Lost(tx, lost.ID, "host", "too late") }))
	require.Equal(t, Active, r.now(t, lost.ID).Status)

	require.ErrorIs(t, r.store.Update(t.Context(), func(tx *state.Tx) error {
		_, _, err := Expect(tx, auth.Caller{ProjectID: "p"}, "host", Spec{Name: "x", Format: Raw, Visibility: Public})
		return err
	}), errdefs.ErrInvalidArgument)
}

// before is an empty reader that does something when it is read.
type before func()

func (b before) Read([]byte) (int, error) { b(); return 0, io.EOF }

// bringing is a source that takes images too.
type bringing struct {
	BlobSource
	rig
	stored func(Stored) Stored
}

func (b bringing) PutImage(ctx context.Context, img Image, content io.Reader) (Stored, error) {
	stored, err := b.Receive(ctx, "host", img.ID, img.Upload, content)
	return b.stored(stored), err
}

// TestKeep makes a qcow2 image of a sparse file, which holds what the file does and is as large as what is in it.
func TestKeep(t *testing.T) {
	testneed.Tools(t, "qemu-img", "prlimit")
	r := newRig(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "raw")
	require.NoError(t, os.WriteFile(path, disk(100<<10), 0o600))
	require.NoError(t, os.Truncate(path, 1<<30))
	source := bringing{BlobSource{r.blobs}, r, func(s Stored) Stored { return s }}
	c, err := NewCache(CacheConfig{Dir: filepath.Join(dir, "cache"), Source: source})
	require.NoError(t, err)
	img := r.expect(t, QCOW2)
	img = r.attempt(t, img.ID)
	require.NoError(t, c.Keep(t.Context(), img, path))
	img = r.arrived(t, img.ID, img.Upload)
	require.Equal(t, Active, img.Status)
	require.EqualValues(t, 1<<30, img.VirtualBytes)
	require.Less(t, img.Size, int64(1<<20))
	require.NoError(t, c.Raw(t.Context(), img, func(back string) error {
		f, err := os.Open(back)
		require.NoError(t, err)
		defer f.Close()
		got := make([]byte, 101<<10)
		_, err = f.ReadAt(got, 0)
		require.NoError(t, err)
		require.Equal(t, append(disk(100<<10), make([]byte, 1<<10)...), got)
		return nil
	}))

	other := r.attempt(t, r.expect(t, QCOW2).ID)
	require.ErrorIs(t, c.Keep(t.Context(), Image{ID: "x", Format: Raw}, path), errdefs.ErrInvalidArgument)
	require.Error(t, c.Keep(t.Context(), other, path+"-no"))
	c.cfg.Source = bringing{BlobSource{r.blobs}, r, func(s Stored) Stored { s.SHA256 = "another"; return s }}
	require.ErrorIs(t, c.Keep(t.Context(), other, path), errdefs.ErrUnavailable, "what was stored is not what was sent")
	c.cfg.Source = BlobSource{r.blobs}
	require.ErrorIs(t, c.Keep(t.Context(), other, path), errdefs.ErrFailedPrecondition)
	left, err := os.ReadDir(filepath.Join(dir, "cache", incomingDir))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, c.Close())
}
