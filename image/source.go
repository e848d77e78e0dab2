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

// Sink is what a [Source] has besides that takes the content of images that a host makes of its volumes.
type Sink interface {
	// PutImage stores the content of an image that [Expect] registered, by the attempt img.Upload, and returns what it was when [Service.Receive] has
	// taken it. Its errors are of the same classes, and Unavailable where nobody takes it now.
	PutImage(ctx context.Context, img Image, content io.Reader) (Stored, error)
}

// BlobSource is the [Source] of a node that can reach the blobs of the image service itself.
type BlobSource struct {
	Blobs Blobs
}

// OpenImage implements [Source].
func (s BlobSource) OpenImage(ctx context.Context, img Image) (io.ReadCloser, error) {
	return s.Blobs.Open(ctx, img.blobID())
}
