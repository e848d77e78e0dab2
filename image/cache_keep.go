package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// Keep makes what a raw file or device of this host holds, by its absolute path, the content of img, a qcow2 image that [Expect] registered, and
// returns when that is stored where images are. What reads as zeros costs nothing, neither on the way nor there; the node has room for the rest as long as
// Keep takes. What is there must not change meanwhile. After an error, and a kill, it is begun anew, with the next attempt. Where images can't be brought to, it
// is FailedPrecondition.
func (c *Cache) Keep(ctx context.Context, img Image, source string) (err error) {
	sink, ok := c.cfg.Source.(Sink)
	switch {
	case !ok:
		return fmt.Errorf("image %s: this host has nowhere to bring images to: %w", img.ID, errdefs.ErrFailedPrecondition)
	case img.Format != QCOW2:
		return fmt.Errorf("image %s is a %s image, must be qcow2: %w", img.ID, img.Format, errdefs.ErrInvalidArgument)
	}
	size, err := sizeOf(source)
	if err != nil {
		return err
	}
	tmp, name, err := c.incoming.create()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.drop(tmp, name)) }()
	// The tables of a qcow2 file take less than a thousandth of what it describes.
	if err := c.tools.Convert(ctx, source, inspect.Raw, c.abs(name), inspect.QCOW2, size+size/512+64<<20); err != nil {
		return diskError(err)
	}
	content, err := c.root.Open(name)
	if err != nil {
		return err
	}
	defer content.Close()
	sum := sha256.New()
	stored, err := sink.PutImage(ctx, img, io.TeeReader(content, sum))
	if err != nil {
		return contextOr(ctx, err)
	}
	if sent := hex.EncodeToString(sum.Sum(nil)); stored.SHA256 != sent {
		return fmt.Errorf("image %s: content with SHA-256 %s was sent, and %s was stored: %w", img.ID, sent, stored.SHA256, errdefs.ErrUnavailable)
	}
	c.cfg.Logger.InfoContext(ctx, "image made", "image", img.ID, "bytes", stored.Size, "sha256", stored.SHA256)
	return nil
}

// sizeOf returns how many bytes a file or device has.
func sizeOf(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, io.SeekEnd)
}
