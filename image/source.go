package image

import (
	"context"
	"io"
)

// Source is where a [Cache] gets the content of images from.
type Source interface {
	// OpenImage returns the content of an active image from its beginning; the caller closes it. An image without
	// content is NotFound. It may be called many times at once, and the content may break off at any place: the caller
	// checks what it got.
	OpenImage(ctx context.Context, img Image) (io.ReadCloser, error)
}

// BlobSource is the [Source] of a node that can reach the blobs of the image service itself.
type BlobSource struct {
	Blobs Blobs
}

// OpenImage implements [Source].
func (s BlobSource) OpenImage(ctx context.Context, img Image) (io.ReadCloser, error) {
	return s.Blobs.Open(ctx, img.blobID())
}
