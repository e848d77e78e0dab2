package image

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// checkUsable refuses an image that has no content, or whose record can't be right.
func checkUsable(img Image) error {
	sum, err := hex.DecodeString(img.SHA256)
	switch {
	case img.Status != Active:
		return fmt.Errorf("image %s is %s, must be active to be used: %w", img.ID, img.Status, errdefs.ErrFailedPrecondition)
	case err != nil || len(sum) != 32:
		return fmt.Errorf("image %s: SHA256 must be 64 hexadecimal digits: %w", img.ID, errdefs.ErrInvalidArgument)
	case !img.Format.Valid():
		return fmt.Errorf("image %s: Format is %.20q, must be raw, qcow2, aki or ari: %w", img.ID, img.Format,
			errdefs.ErrInvalidArgument)
	}
	return nil
}

// baseName names the content of an image in the cache: the same content under another format is another file, because
// it was inspected as another thing.
func baseName(img Image) string { return img.SHA256 + "." + string(img.Format) }

// instancePath is the path, within the root, of a file of an instance.
func instancePath(instanceID, name string) string { return path.Join(instancesDir, instanceID, name) }

// abs is the path of a file of the cache for other programs.
func (c *Cache) abs(name string) string { return filepath.Join(c.dir, filepath.FromSlash(name)) }

// adopt makes the content of img a file of the instance and returns its path within the root and what it is.
// The caller holds the instance's lock.
func (c *Cache) adopt(ctx context.Context, instanceID string, img Image) (string, inspect.Info, error) {
	own, base := instancePath(instanceID, baseName(img)), path.Join(basesDir, baseName(img))
	for !c.exists(own) {
		if err := ctx.Err(); err != nil {
			return "", inspect.Info{}, err
		}
		if err := c.fetch(ctx, img); err != nil {
			return "", inspect.Info{}, err
		}
		if err := c.root.Mkdir(path.Dir(own), 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", inspect.Info{}, diskError(err)
		}
		err := c.root.Link(base, own)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return "", inspect.Info{}, diskError(err)
		} // where the base does not exist, a sweep came between fetch and Link
	}
	info, err := c.inspect(own, img)
	if err != nil {
		return "", inspect.Info{}, err
	}
	return own, info, nil
}

// inspect looks at content that is in the cache once more: it costs a few reads, and no rule that was added since
// the content came is passed by.
func (c *Cache) inspect(name string, img Image) (inspect.Info, error) {
	f, err := c.root.Open(name)
	if err != nil {
		return inspect.Info{}, err
	}
	defer f.Close()
	return c.inspectFile(f, img)
}

func (c *Cache) inspectFile(f *os.File, img Image) (inspect.Info, error) {
	st, err := f.Stat()
	if err != nil {
		return inspect.Info{}, err
	}
	info, err := inspect.Check(img.Format, f, st.Size(), c.cfg.Limits)
	if err != nil {
		return inspect.Info{}, fmt.Errorf("image %s: %w", img.ID, err)
	}
	return info, nil
}

func (c *Cache) exists(name string) bool {
	_, err := c.root.Lstat(name)
	return err == nil
}

// fetch makes sure that the content of img is among the bases; callers who want the same share one download.
func (c *Cache) fetch(ctx context.Context, img Image) error {
	if c.exists(path.Join(basesDir, baseName(img))) {
		return nil
	}
	return c.fetching.do(ctx, baseName(img), func(ctx context.Context) error {
		if c.exists(path.Join(basesDir, baseName(img))) {
			return nil
		}
		return c.download(ctx, img)
	})
}

// download gets the content, verifies and inspects it, and only then gives it its name.
func (c *Cache) download(ctx context.Context, img Image) error {
	content, err := c.cfg.Source.OpenImage(ctx, img)
	if err != nil {
		return contextOr(ctx, fmt.Errorf("image %s: opening its content: %w", img.ID, err))
	}
	defer content.Close()
	tmp, name, err := c.incoming.create()
	if err != nil {
		return err
	}
	defer tmp.Close()
	err = c.receive(ctx, tmp, content, img)
	if err == nil {
		err = c.root.Rename(name, path.Join(basesDir, baseName(img)))
	}
	if err != nil {
		_ = c.root.Remove(name) // what stays goes with the next clean
		return err
	}
	c.cfg.Logger.InfoContext(ctx, "image fetched", "image", img.ID, "bytes", img.Size, "sha256", img.SHA256)
	return syncDir(c.root, basesDir)
}

func (c *Cache) receive(ctx context.Context, tmp *os.File, content io.Reader, img Image) error {
	if err := tmp.Chmod(0o444); err != nil {
		return err
	}
	got, err := copyHashed(ctx, tmp, content, img.Size)
	if errors.Is(err, ErrTooLarge) {
		return fmt.Errorf("image %s: more content arrived than the %d bytes it has: %w", img.ID, img.Size, errdefs.ErrDataLoss)
	}
	if err != nil {
		return err
	}
	if got.Size != img.Size || got.SHA256 != img.SHA256 {
		return fmt.Errorf("image %s: %d bytes with SHA-256 %s arrived, it has %d with %s: %w", img.ID, got.Size, got.SHA256,
			img.Size, img.SHA256, errdefs.ErrDataLoss)
	}
	_, err = c.inspectFile(tmp, img)
	return err
}
