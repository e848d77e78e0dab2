package image

import (
	"context"
	"fmt"
	"io"
	"iter"

	"github.com/containerd/errdefs"
)

// Blobs keeps the content of images, each under an id. [Files] keeps them in a directory; an object store would be
// another implementation, held to the same rules by package blobtest.
//
// A blob is whole or not there: nothing ever sees a part of one. The [Service] never writes an id twice, and decides
// alone which blobs are still of use; an implementation keeps what it is given and judges nothing. All methods are
// safe for concurrent use. An id is 1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit; any other is
// InvalidArgument. A full store is ResourceExhausted. A context that ends is its error, unwrapped, as soon as the reader
// or the store in use returns.
type Blobs interface {
	// Put stores what r yields, until its end, and returns what it was. The blob is durable and visible to all
	// other methods when Put returns nil. A blob that was there under id is replaced, at once for all who open it later.
	//
	// Content of more than limit bytes is [ErrTooLarge], noticed while it arrives. After any error, and after a
	// kill at any instant, what was there under id before is there still, and no space stays in use for longer than until
	// the store is next opened. An error of r is wrapped.
	Put(ctx context.Context, id string, r io.Reader, limit int64) (Stored, error)

	// Open returns the blob for reading; an unknown id is NotFound. What is open stays readable after Delete
	// and after a Put of the same id. The caller closes it.
	Open(ctx context.Context, id string) (Blob, error)

	// Delete forgets the blob and frees its space once nobody has it open. An unknown id is success.
	Delete(ctx context.Context, id string) error

	// List yields the id of every blob, in no order. A blob that is put or deleted meanwhile may be yielded or
	// not. It ends after yielding an error.
	List(ctx context.Context) iter.Seq2[string, error]
}

// Blob is the open content of one image. Its methods are safe for concurrent use, except Read, which moves on.
type Blob interface {
	io.Reader
	io.ReaderAt
	io.Closer
	Size() int64 // in bytes
}

// Stored is what Put stored.
type Stored struct {
	Size   int64  // in bytes
	SHA256 string // of the content, in lower case hexadecimal
}

// ErrTooLarge is content over its limit.
var ErrTooLarge = fmt.Errorf("too large: %w", errdefs.ErrInvalidArgument)

// CheckBlobID reports what is wrong with an id; every implementation of [Blobs] calls it first.
func CheckBlobID(id string) error { return checkName("id of a blob", id) }

// checkName holds a name to what is safe as the name of a file.
func checkName(what, name string) error {
	if len(name) == 0 || len(name) > 128 {
		return fmt.Errorf("%s has %d characters, must have 1 to 128: %w", what, len(name), errdefs.ErrInvalidArgument)
	}
	for i, c := range []byte(name) {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("%s has %q at position %d, may have only letters, digits, '.', '_' and '-': %w", what, c, i,
				errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
