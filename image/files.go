package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"

	"github.com/containerd/errdefs"
)

// Files is a [Blobs] in a directory:
//
//	blobs/<id>       whole blobs
//	incoming/<any>   what is being put; what a killed process left there goes when the directory is next opened
//
// Several processes may use one directory at once, also on a network file system that has flock(2).
type Files struct {
	root     *os.Root
	incoming incoming
}

var _ Blobs = (*Files)(nil)

const (
	blobsDir    = "blobs"
	incomingDir = "incoming"
)

// NewFiles opens the store in dir, which is made if it does not exist (its parent must), and removes what uploads
// that were killed left behind. Only the owner of the process can look into it.
func NewFiles(dir string) (*Files, error) {
	root, err := openDir(dir, 0o700, blobsDir, incomingDir)
	if err != nil {
		return nil, err
	}
	f := &Files{root: root, incoming: incoming{root, incomingDir}}
	if err := f.incoming.cleanAfterDead(); err != nil {
		root.Close()
		return nil, fmt.Errorf("removing unfinished uploads: %w", err)
	}
	return f, nil
}

// openDir makes a directory and those in it where they are missing, and returns it as the root that nothing leaves.
func openDir(dir string, mode fs.FileMode, subs ...string) (*os.Root, error) {
	if dir == "" {
		return nil, fmt.Errorf("directory for images is empty, must be a path: %w", errdefs.ErrInvalidArgument)
	}
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the directory for images: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the directory for images: %w", err)
	}
	for _, sub := range subs {
		if err := root.Mkdir(sub, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			root.Close()
			return nil, fmt.Errorf("making a directory for images: %w", err)
		}
	}
	return root, nil
}

// Close releases the directory. Blobs that are open stay so. A second Close does nothing.
func (f *Files) Close() error { return f.root.Close() }

// Put implements [Blobs].
func (f *Files) Put(ctx context.Context, id string, r io.Reader, limit int64) (stored Stored, err error) {
	if err := CheckBlobID(id); err != nil {
		return Stored{}, err
	}
	if err := ctx.Err(); err != nil {
		return Stored{}, err
	}
	tmp, name, err := f.incoming.create()
	if err != nil {
		return Stored{}, err
	}
	defer tmp.Close()
	stored, err = copyHashed(ctx, tmp, r, limit)
	if err == nil {
		err = f.root.Rename(name, path.Join(blobsDir, id))
	}
	if err != nil {
		_ = f.root.Remove(name) // what stays goes with the next clean
		return Stored{}, err
	}
	return stored, diskError(syncDir(f.root, blobsDir))
}

// Open implements [Blobs].
func (f *Files) Open(ctx context.Context, id string) (Blob, error) {
	if err := CheckBlobID(id); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	file, err := f.root.Open(path.Join(blobsDir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no content is stored under %q: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return fileBlob{file, st.Size()}, nil
}

type fileBlob struct {
	*os.File
	size int64
}

func (b fileBlob) Size() int64 { return b.size }

// Delete implements [Blobs].
func (f *Files) Delete(ctx context.Context, id string) error {
	if err := CheckBlobID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.root.Remove(path.Join(blobsDir, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(f.root, blobsDir)
}

// List implements [Blobs].
func (f *Files) List(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		entries, err := fs.ReadDir(f.root.FS(), blobsDir)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield("", err)
			return
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				yield("", ctx.Err())
				return
			}
			if !yield(e.Name(), nil) {
				return
			}
		}
	}
}
