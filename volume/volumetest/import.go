package volumetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// odd is a size that is a multiple of nothing.
const odd = 3<<20 + 1234

// rawContent is what is imported: a text, zeros, and a text again up to an odd end.
func rawContent() []byte {
	all := make([]byte, odd)
	copy(all, pattern("raw", 0))
	for at := 2 << 20; at < odd; at += block {
		copy(all[at:], pattern("raw", int64(at)))
	}
	return all
}

// importing is a check with a file to be imported, in a directory of its own, and an id that nothing has.
func importing(check func(ctx context.Context, e *rig, id, path string) error) func(ctx context.Context, e *rig) error {
	return func(ctx context.Context, e *rig) (err error) {
		dir, err := os.MkdirTemp("", "volumetest-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		path := filepath.Join(dir, "raw")
		if err := os.WriteFile(path, rawContent(), 0o600); err != nil {
			return err
		}
		return check(ctx, e, e.id(), path)
	}
}

// imported checks that a volume of 1 GiB holds what rawContent says, and zeros from there to its end.
func (e *rig) imported(ctx context.Context, id string) error {
	f, size, err := e.open(ctx, id)
	if err != nil {
		return err
	}
	defer f.Close()
	if size != gib {
		return fmt.Errorf("volume %s has %d bytes, want 1 GiB", id, size)
	}
	want := append(rawContent(), make([]byte, 1<<20)...)
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("volume %s does not hold what was imported, and zeros behind it", id)
	}
	for _, at := range places(size) {
		if at < int64(len(want)) {
			continue
		}
		if _, err := f.ReadAt(got[:block], at); err != nil {
			return err
		}
		if !bytes.Equal(got[:block], pattern("", at)) {
			return fmt.Errorf("volume %s does not read as zeros at %d, behind what was imported", id, at)
		}
	}
	return nil
}

func importRows() []row {
	return []row{
		{
			name: "import",
			rule: "Import makes a volume like Create whose contents begin as those of a raw file or device of this host",
			check: importing(func(ctx context.Context, e *rig, id, path string) error {
				return steps(
					func() error { return e.Driver.Import(ctx, id, path, 1) },
					func() error { return e.listed(ctx, id, volume.Info{ID: id, SizeGiB: 1}) },
					func() error { return e.imported(ctx, id) },
				)
			}),
		},
		{
			name: "import again",
			rule: "One that exists with this id and size is success; with another size it is AlreadyExists.",
			check: importing(func(ctx context.Context, e *rig, id, path string) error {
				return steps(
					func() error { return e.Driver.Import(ctx, id, path, 1) },
					func() error { return e.write(ctx, id, "since") },
					func() error { return e.Driver.Import(ctx, id, path, 1) },
					func() error { return e.holds(ctx, id, "since", 1, 1) },
					func() error {
						return is("Import with another size", e.Driver.Import(ctx, id, path, 2), errdefs.ErrAlreadyExists)
					},
					func() error { return e.holds(ctx, id, "since", 1, 1) },
				)
			}),
		},
		{
			name: "import of what can't be",
			rule: "A path with nothing there is NotFound, one of something else InvalidArgument, as is a size smaller than the file's.",
			check: importing(func(ctx context.Context, e *rig, id, path string) error {
				return steps(
					func() error {
						return is("Import of nothing", e.Driver.Import(ctx, id, path+"-no", 1), errdefs.ErrNotFound)
					},
					func() error {
						return is("Import of a directory", e.Driver.Import(ctx, id, filepath.Dir(path), 1), errdefs.ErrInvalidArgument)
					},
					func() error {
						return is("Import of 0 GiB", e.Driver.Import(ctx, id, path, 0), errdefs.ErrInvalidArgument)
					},
					func() error { return os.Truncate(path, gib+1) },
					func() error {
						return is("Import of a larger file", e.Driver.Import(ctx, id, path, 1), errdefs.ErrInvalidArgument)
					},
					func() error { return e.listed(ctx, id, volume.Info{}) },
					func() error { return os.Truncate(path, odd) },
					func() error { return e.Driver.Import(ctx, id, path, 1) },
					func() error { return e.imported(ctx, id) },
					func() error { return absent(path + "-no") },
				)
			}),
		},
	}
}

// absent checks that nobody made a file.
func absent(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s was made", path)
	}
	return nil
}
