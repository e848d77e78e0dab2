package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// Raw has use called with the path of a raw file that has the content of img, which must be an active raw or qcow2 image: a qcow2 image is
// converted. The file is there for as long as use takes, must not be written, and nothing of it stays, after a kill either. Its errors are
// those of [Cache.Disk], and use's.
func (c *Cache) Raw(ctx context.Context, img Image, use func(path string) error) (err error) {
	if err := checkUsable(img); err != nil {
		return err
	}
	if !img.Format.Disk() {
		return fmt.Errorf("image %s is a %s image, a disk needs raw or qcow2: %w", img.ID, img.Format, errdefs.ErrInvalidArgument)
	}
	base, name, err := c.hold(ctx, img)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.drop(base, name)) }()
	info, err := c.inspectFile(base, img)
	if err != nil {
		return err
	}
	if img.Format == Raw {
		return use(c.abs(name))
	}
	tmp, raw, err := c.incoming.create()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.drop(tmp, raw)) }()
	if err := c.tools.Convert(ctx, c.abs(name), img.Format, c.abs(raw), inspect.Raw, info.VirtualBytes); err != nil {
		return diskError(err)
	}
	return use(c.abs(raw))
}

// hold gives the content of an image another name, under which it stays whatever a sweep does, until drop or the end of the process.
func (c *Cache) hold(ctx context.Context, img Image) (f *os.File, name string, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		if err := c.fetch(ctx, img); err != nil {
			return nil, "", err
		}
		name = path.Join(incomingDir, rand.Text())
		err := c.root.Link(path.Join(basesDir, baseName(img)), name)
		if errors.Is(err, fs.ErrNotExist) { // a sweep came between
			continue
		}
		if err != nil {
			return nil, "", diskError(err)
		}
		f, err := c.root.Open(name)
		if errors.Is(err, fs.ErrNotExist) { // one that took it for a leftover
			continue
		}
		if err != nil {
			return nil, "", errors.Join(err, c.root.Remove(name))
		}
		// Shared: the same content may have several such names.
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
			return nil, "", errors.Join(err, c.drop(f, name))
		}
		if c.incoming.is(name, f) {
			return f, name, nil
		}
		f.Close()
	}
}

// drop removes a file that was held.
func (c *Cache) drop(f *os.File, name string) error {
	err := c.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, f.Close())
}
