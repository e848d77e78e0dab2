package blobtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/image"
)

func open(t *testing.T) image.Blobs {
	t.Helper()
	f, err := image.NewFiles(t.TempDir() + "/images")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func TestFiles(t *testing.T) { Test(t, open) }

// Stores that break one rule each: the suite must notice, or it proves nothing.
func TestSuiteNoticesABrokenStore(t *testing.T) {
	broken := map[string]func(image.Blobs) image.Blobs{
		rows()[0].rule:  func(b image.Blobs) image.Blobs { return wrongSum{b} },
		rows()[1].rule:  func(b image.Blobs) image.Blobs { return noEmpty{b} },
		rows()[2].rule:  func(b image.Blobs) image.Blobs { return noLimit{b} },
		rows()[3].rule:  func(b image.Blobs) image.Blobs { return keepsHalf{b} },
		rows()[4].rule:  func(b image.Blobs) image.Blobs { return hidesErrors{b} },
		rows()[5].rule:  func(b image.Blobs) image.Blobs { return neverReplaces{b} },
		rows()[6].rule:  func(b image.Blobs) image.Blobs { return neverDeletes{b} },
		rows()[7].rule:  func(b image.Blobs) image.Blobs { return deleteNotFound{b} },
		rows()[8].rule:  func(b image.Blobs) image.Blobs { return hidesErrors{b} },
		rows()[9].rule:  func(b image.Blobs) image.Blobs { return listsNothing{b} },
		rows()[10].rule: func(b image.Blobs) image.Blobs { return hidesErrors{b} },
		rows()[11].rule: func(b image.Blobs) image.Blobs { return wrapsErrors{b} },
		rows()[12].rule: func(b image.Blobs) image.Blobs { return wrapsErrors{b} },
		rows()[13].rule: func(b image.Blobs) image.Blobs { return mixes{b} },
		rows()[14].rule: func(b image.Blobs) image.Blobs { return wrongReads{b} },
	}
	for _, row := range rows() {
		t.Run(row.rule, func(t *testing.T) {
			require.NotNil(t, broken[row.rule])
			require.Error(t, row.check(t.Context(), broken[row.rule](open(t))), "the suite did not notice")
		})
	}
}

type wrongSum struct{ image.Blobs }

func (b wrongSum) Put(ctx context.Context, id string, r io.Reader, limit int64) (image.Stored, error) {
	s, err := b.Blobs.Put(ctx, id, r, limit)
	s.SHA256 = "0" + s.SHA256[1:]
	return s, err
}

type noEmpty struct{ image.Blobs }

func (b noEmpty) Put(ctx context.Context, id string, r io.Reader, limit int64) (image.Stored, error) {
	content, err := io.ReadAll(r)
	if len(content) == 0 {
		return image.Stored{}, err
	}
	return b.Blobs.Put(ctx, id, bytes.NewReader(content), limit)
}

type noLimit struct{ image.Blobs }

func (b noLimit) Put(ctx context.Context, id string, r io.Reader, _ int64) (image.Stored, error) {
	return b.Blobs.Put(ctx, id, r, 1<<40)
}

type keepsHalf struct{ image.Blobs }

func (b keepsHalf) Put(ctx context.Context, id string, r io.Reader, limit int64) (image.Stored, error) {
	content, err := io.ReadAll(r)
	content = content[:min(int64(len(content)), limit)]
	s, putErr := b.Blobs.Put(ctx, id, bytes.NewReader(content), limit)
	if err == nil {
		err = putErr
	}
	return s, err
}

type hidesErrors struct{ image.Blobs }

func (b hidesErrors) Put(ctx context.Context, id string, r io.Reader, limit int64) (image.Stored, error) {
	s, err := b.Blobs.Put(ctx, id, r, limit)
	if err != nil {
		err = io.ErrUnexpectedEOF
	}
	return s, err
}

func (b hidesErrors) Open(ctx context.Context, id string) (image.Blob, error) {
	blob, err := b.Blobs.Open(ctx, id)
	if err != nil {
		err = io.ErrUnexpectedEOF
	}
	return blob, err
}

type neverReplaces struct{ image.Blobs }

func (b neverReplaces) Put(ctx context.Context, id string, r io.Reader, limit int64) (image.Stored, error) {
	if blob, err := b.Open(ctx, id); err == nil {
		return image.Stored{}, blob.Close()
	}
	return b.Blobs.Put(ctx, id, r, limit)
}

type neverDeletes struct{ image.Blobs }

func (b neverDeletes) Delete(context.Context, string) error { return nil }

type deleteNotFound struct{ image.Blobs }

func (b deleteNotFound) Delete(ctx context.Context, id string) error {
	blob, err := b.Open(ctx, id)
	if err != nil {
		return errdefs.ErrNotFound
	}
	blob.Close()
	return b.Blobs.Delete(ctx, id)
}

type listsNothing struct{ image.Blobs }

func (b listsNothing) List(context.Context) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}

type wrapsErrors struct{ image.Blobs }

func (b wrapsErrors) Put(ctx context.Context, id string, r io.Reader, limit int64) (image.Stored, error) {
	s, err := b.Blobs.Put(ctx, id, r, limit)
	if err != nil {
		err = fmt.Errorf("put: %w", err)
	}
	return s, err
}

type mixes struct{ image.Blobs }

func (b mixes) Put(ctx context.Context, id string, r io.Reader, limit int64) (image.Stored, error) {
	return b.Blobs.Put(ctx, "same", r, limit)
}

type wrongReads struct{ image.Blobs }

func (b wrongReads) Open(ctx context.Context, id string) (image.Blob, error) {
	blob, err := b.Blobs.Open(ctx, id)
	return shifted{blob}, err
}

type shifted struct{ image.Blob }

func (s shifted) ReadAt(p []byte, off int64) (int, error) { return s.Blob.ReadAt(p, off+1) }
