package dewpointtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image"
)

// Blobs are [image.Blobs] in memory: nothing in a simulation waits for a real disk. All methods are safe for concurrent use.
type Blobs struct {
	mu   sync.Mutex
	have map[string][]byte
}

var _ image.Blobs = (*Blobs)(nil)

// NewBlobs returns an empty store.
func NewBlobs() *Blobs { return &Blobs{have: map[string][]byte{}} }

// Put implements [image.Blobs].
func (b *Blobs) Put(ctx context.Context, id string, r io.Reader, limit int64) (image.Stored, error) {
	if err := image.CheckBlobID(id); err != nil {
		return image.Stored{}, err
	}
	var content bytes.Buffer
	for {
		if err := ctx.Err(); err != nil {
			return image.Stored{}, err
		}
		_, err := io.CopyN(&content, r, min(1<<20, limit+1-int64(content.Len())))
		if int64(content.Len()) > limit {
			return image.Stored{}, fmt.Errorf("blob %s has more than %d bytes: %w", id, limit, image.ErrTooLarge)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return image.Stored{}, fmt.Errorf("blob %s, after %d bytes: %w", id, content.Len(), err)
		}
	}
	if err := ctx.Err(); err != nil {
		return image.Stored{}, err
	}
	sum := sha256.Sum256(content.Bytes())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.have[id] = content.Bytes()
	return image.Stored{Size: int64(content.Len()), SHA256: hex.EncodeToString(sum[:])}, nil
}

// Open implements [image.Blobs].
func (b *Blobs) Open(ctx context.Context, id string) (image.Blob, error) {
	if err := image.CheckBlobID(id); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	content, ok := b.have[id]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", id, errdefs.ErrNotFound)
	}
	return blob{bytes.NewReader(content)}, nil
}

// Delete implements [image.Blobs].
func (b *Blobs) Delete(ctx context.Context, id string) error {
	if err := image.CheckBlobID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.have, id)
	return nil
}

// List implements [image.Blobs].
func (b *Blobs) List(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		b.mu.Lock()
		ids := slices.Sorted(maps.Keys(b.have))
		b.mu.Unlock()
		for _, id := range ids {
			if err := ctx.Err(); err != nil {
				yield("", err)
				return
			}
			if !yield(id, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield("", err)
		}
	}
}

type blob struct{ *bytes.Reader }

// Close implements io.Closer.
func (blob) Close() error { return nil }
