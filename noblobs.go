package dewpoint

import (
	"context"
	"fmt"
	"io"
	"iter"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image"
)

// noBlobs are those of a process that keeps no images: others do.
type noBlobs struct{}

var errNoBlobs = fmt.Errorf("dewpoint: this process keeps no contents of images, ask another: %w", errdefs.ErrFailedPrecondition)

func (noBlobs) Put(context.Context, string, io.Reader, int64) (image.Stored, error) {
	return image.Stored{}, errNoBlobs
}
func (noBlobs) Open(context.Context, string) (image.Blob, error) { return nil, errNoBlobs }
func (noBlobs) Delete(context.Context, string) error             { return errNoBlobs }
func (noBlobs) List(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", errNoBlobs) }
}
