package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func qcow2With(change func(b []byte)) []byte {
	b := make([]byte, 4*512)
	copy(b, "QFI\xfb\x00\x00\x00\x03")
	b[23] = 9                     // cluster bits
	b[30], b[39] = 0x80, 1        // 32 KiB, one L1 entry
	b[46], b[54], b[59] = 6, 2, 1 // L1 at 1536, one cluster of refcount table at 512
	b[99], b[103] = 4, 104
	change(b)
	return b
}

func TestRefusedContentLeavesNothing(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	lost := errors.New("connection lost")
	rows := []struct {
		name    string
		spec    Spec
		content io.Reader
		class   error
		text    string
	}{
		{"empty", Spec{Format: Raw}, strings.NewReader(""), errdefs.ErrInvalidArgument, "0 bytes"},
		{"empty qcow2", Spec{Format: QCOW2}, strings.NewReader(""), errdefs.ErrInvalidArgument, "0 bytes"},
		{"empty kernel", Spec{Format: Kernel}, strings.NewReader(""), errdefs.ErrInvalidArgument, "0 bytes"},
		{"qcow2 in raw", Spec{Format: Raw}, bytes.NewReader(qcow2With(func([]byte) {})), errdefs.ErrInvalidArgument, "qcow2"},
		{"raw as qcow2", Spec{Format: QCOW2}, bytes.NewReader(disk(1000)), errdefs.ErrInvalidArgument, "not qcow2"},
		{"backing file", Spec{Format: QCOW2}, bytes.NewReader(qcow2With(func(b []byte) { b[14], b[19] = 1, 5 })), errdefs.ErrInvalidArgument,
			"backing file"},
		{"data file", Spec{Format: QCOW2}, bytes.NewReader(qcow2With(func(b []byte) { b[79] = 4 })), errdefs.ErrInvalidArgument,
			"external data file"},
		{"unknown feature", Spec{Format: QCOW2}, bytes.NewReader(qcow2With(func(b []byte) { b[72] = 0x40 })), errdefs.ErrInvalidArgument,
			"incompatible feature"},
		{"qcow2 in a kernel", Spec{Format: Kernel}, bytes.NewReader(qcow2With(func([]byte) {})), errdefs.ErrInvalidArgument, "disk image"},
		{"qcow2 in a ramdisk", Spec{Format: Ramdisk}, bytes.NewReader(qcow2With(func([]byte) {})), errdefs.ErrInvalidArgument, "disk image"},
		{"too large", Spec{Format: Raw}, bytes.NewReader(make([]byte, 1<<20+1)), ErrTooLarge, "1048576 bytes"},
		{"wrong checksum", Spec{Format: Raw, SHA256: strings.Repeat("00", 32)}, bytes.NewReader(disk(512)), errdefs.ErrInvalidArgument,
			"registered with 0000"},
		{"broken off", Spec{Format: Raw}, io.MultiReader(bytes.NewReader(disk(512)), errReader{lost}), lost, "connection lost"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			row.spec.Name = row.name
			_, err := r.Create(ctx, row.spec, row.content)
			require.ErrorIs(t, err, row.class)
			require.ErrorContains(t, err, row.text)
			require.Empty(t, ids(t, r.Service, ctx, Query{}))
			require.Empty(t, names(t, filepath.Join(r.dir, blobsDir)))
			require.Empty(t, names(t, filepath.Join(r.dir, incomingDir)))
		})
	}
	_, err := r.Create(ctx, Spec{Name: "good", Format: QCOW2}, bytes.NewReader(qcow2With(func([]byte) {})))
	require.NoError(t, err)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestFailedUploadSaysWhyAndCanBeRepeated(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	img, err := r.Register(ctx, Spec{Name: "img", Format: Raw})
	require.NoError(t, err)
	_, err = r.Upload(ctx, img.ID, strings.NewReader(""))
	require.Error(t, err)
	failed, err := r.Get(ctx, img.ID)
	require.NoError(t, err)
	require.Equal(t, Failed, failed.Status)
	require.Contains(t, failed.Reason, "it is empty (0 bytes)")

	_, err = r.Upload(ctx, img.ID, errReader{errors.New("read /srv/secret: broken")})
	require.Error(t, err)
	failed, err = r.Get(ctx, img.ID)
	require.NoError(t, err)
	require.Equal(t, "the content could not be read or stored", failed.Reason)

	ending, cancel := context.WithCancel(ctx)
	_, err = r.Upload(ending, img.ID, cancelling{cancel})
	require.Equal(t, context.Canceled, err)
	failed, err = r.Get(ctx, img.ID)
	require.NoError(t, err)
	require.Equal(t, "the upload was broken off", failed.Reason)

	active, err := r.Upload(ctx, img.ID, bytes.NewReader(disk(512)))
	require.NoError(t, err)
	require.Equal(t, Active, active.Status)
	require.Empty(t, active.Reason)
	require.Equal(t, []string{active.blobID()}, names(t, filepath.Join(r.dir, blobsDir)))
}

type cancelling struct{ cancel context.CancelFunc }

func (c cancelling) Read(p []byte) (int, error) {
	c.cancel()
	return len(p), nil
}

// begin starts an upload and returns when some of its content has arrived.
func begin(t *testing.T, r rig, ctx context.Context, id string) (*io.PipeWriter, chan error) {
	t.Helper()
	content, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := r.Upload(ctx, id, content)
		content.Close()
		ended <- err
	}()
	_, err := w.Write(disk(512))
	require.NoError(t, err)
	return w, ended
}

func TestLaterUploadWins(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	img, err := r.Register(ctx, Spec{Name: "img", Format: Raw})
	require.NoError(t, err)
	w, ended := begin(t, r, ctx, img.ID)
	got, err := r.Get(ctx, img.ID)
	require.NoError(t, err)
	require.Equal(t, Uploading, got.Status, "and so it would stay if this process were killed now")

	active, err := r.Upload(ctx, img.ID, bytes.NewReader(disk(1024)))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.ErrorIs(t, <-ended, errdefs.ErrAborted)
	got, err = r.Get(ctx, img.ID)
	require.NoError(t, err)
	require.Equal(t, active, got)
	require.Equal(t, []string{active.blobID()}, names(t, filepath.Join(r.dir, blobsDir)))
}

func TestDeleteDuringAnUpload(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	img, err := r.Register(ctx, Spec{Name: "img", Format: Raw})
	require.NoError(t, err)
	w, ended := begin(t, r, ctx, img.ID)
	require.NoError(t, r.Delete(ctx, img.ID))
	require.NoError(t, w.Close())
	require.ErrorIs(t, <-ended, errdefs.ErrAborted)
	require.Empty(t, names(t, filepath.Join(r.dir, blobsDir)))
	require.Empty(t, ids(t, r.Service, ctx, Query{}))
}

func TestSweepOfBlobs(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	put := func(id string) {
		_, err := r.blobs.Put(ctx, id, bytes.NewReader(disk(512)), 1000)
		require.NoError(t, err)
	}
	active, err := r.Create(ctx, Spec{Name: "active", Format: Raw}, bytes.NewReader(disk(512)))
	require.NoError(t, err)
	arriving, err := r.Register(ctx, Spec{Name: "arriving", Format: Raw})
	require.NoError(t, err)
	w, ended := begin(t, r, ctx, arriving.ID)

	// What kills leave: a blob that arrived before a second upload began, one whose image was deleted, and the whole
	// content of an upload that was not finished.
	put(active.ID + ".0")
	put("00000000-0000-0000-0000-000000000000.1")
	put(arriving.ID + ".1")
	put("not-ours")
	removed, err := r.SweepBlobs(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, removed)
	require.ElementsMatch(t, []string{active.blobID(), arriving.ID + ".1", "not-ours"}, names(t, filepath.Join(r.dir, blobsDir)))
	require.NoError(t, w.Close())
	require.NoError(t, <-ended)
	require.Len(t, ids(t, r.Service, asAdmin(t), Query{}), 2, "the sweep leaves no record")
}

// Two services over one log: the one that sweeps may not know yet what the other has just committed.
func TestSweepAgainstUploadsOfAnotherProcess(t *testing.T) {
	r := newRig(t)
	sweeper, err := NewService(ServiceConfig{Store: newStore(t, r.log), Blobs: r.blobs, Policy: policy()})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(as(t, "p"))
	swept := make(chan error, 1)
	go func() {
		for {
			if _, err := sweeper.SweepBlobs(ctx); err != nil {
				swept <- err
				return
			}
		}
	}()
	deadline := time.Now().Add(time.Second)
	for n := 0; n < 40 || time.Now().Before(deadline) && n < 400; n++ {
		img, err := r.Create(ctx, Spec{Name: "img", Format: Raw}, bytes.NewReader(disk(512)))
		require.NoError(t, err)
		_, blob, err := r.Download(ctx, img.ID)
		require.NoError(t, err, "the content of an active image was swept")
		require.NoError(t, blob.Close())
	}
	stop()
	require.Equal(t, context.Canceled, <-swept)
}
