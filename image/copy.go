package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
)

// copyHashed copies what r yields to w and flushes it, and returns what it was. More than limit bytes is ErrTooLarge;
// no more than limit bytes are written.
func copyHashed(ctx context.Context, w *os.File, r io.Reader, limit int64) (Stored, error) {
	sum := sha256.New()
	source := &contextReader{ctx: ctx, r: r}
	n, err := io.CopyBuffer(io.MultiWriter(w, sum), io.LimitReader(source, limit), make([]byte, 256<<10))
	if err != nil {
		return Stored{}, contextOr(ctx, diskError(err))
	}
	if n == limit {
		if extra, err := io.ReadFull(source, make([]byte, 1)); extra > 0 {
			return Stored{}, fmt.Errorf("content has more than the allowed %d bytes: %w", limit, ErrTooLarge)
		} else if !errors.Is(err, io.EOF) {
			return Stored{}, contextOr(ctx, err)
		}
	}
	if err := w.Sync(); err != nil {
		return Stored{}, diskError(err)
	}
	return Stored{Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// contextReader ends with its context, between two reads.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("reading the content: %w", err)
	}
	return n, err
}

// contextOr is the context's error if it has ended, else err.
func contextOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// diskError gives a full disk its class. Other errors pass as they are.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("no space left on the disk that keeps images: %w", errdefs.ErrResourceExhausted)
	}
	return err
}

// syncDir makes what was made, renamed or removed in a directory durable.
func syncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
