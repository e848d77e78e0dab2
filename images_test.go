package dewpoint_test

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// fromFront gets images out of another process.
type fromFront struct {
	images *image.Service
	asked  atomic.Int64
}

func (f *fromFront) OpenImage(ctx context.Context, img image.Image) (io.ReadCloser, error) {
	f.asked.Add(1)
	_, blob, err := f.images.Download(auth.NewContext(ctx, auth.Admin("")), img.ID)
	return blob, err
}

// A node that keeps no images gets them from a process that does, and refuses what only that one can do.
func TestANodeThatGetsImagesFromAnother(t *testing.T) {
	testneed.Tools(t, "qemu-img", "prlimit")
	r := newRig(t)
	front := dewpoint.Config{Log: r.cfg.Log, Dir: filepath.Join(t.TempDir(), "front")}
	_, s, ctx, _ := run(t, front)
	source := &fromFront{images: s.Images}
	r.cfg.Images, r.cfg.Disks = source, nil
	_, node, _, _ := run(t, r.cfg)
	made, err := s.Compute.Run(ctx, furnish(t, ctx, s))
	require.NoError(t, err)
	_, err = s.Compute.WaitActive(ctx, made[0].ID)
	require.NoError(t, err)
	require.EqualValues(t, 1, source.asked.Load())
	_, err = node.Images.Create(ctx, image.Spec{Name: "other", Format: image.Raw}, bytes.NewReader([]byte("x")))
	require.True(t, errdefs.IsFailedPrecondition(err), err)
	require.NoDirExists(t, filepath.Join(r.cfg.Dir, "images"))
}
