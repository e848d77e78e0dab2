package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image"
)

// row is one sentence of the contract and the check of it. A check returns what is wrong.
type row struct {
	rule  string
	check func(ctx context.Context, b image.Blobs) error
}

func rows() []row {
	return []row{
		{"what is put is read back, with its size and SHA-256", readBack},
		{"an empty blob is a blob", emptyBlob},
		{"content of exactly the limit is stored, one byte more is ErrTooLarge and leaves nothing", limit},
		{"a failed put keeps what was there", failedPut},
		{"an error of the reader is wrapped", readerError},
		{"a put replaces, and what is open stays readable", replace},
		{"a deleted blob is gone, and what is open stays readable", deleted},
		{"deleting an unknown id is success", deleteUnknown},
		{"opening an unknown id is NotFound", openUnknown},
		{"list yields the id of every blob and of nothing else", list},
		{"a bad id is InvalidArgument", badIDs},
		{"a context that has ended is its error, unwrapped", endedContext},
		{"a context that ends during a put is its error, unwrapped, and leaves nothing", endingContext},
		{"puts at once do not mix", parallelPuts},
		{"ReadAt is safe for concurrent use", parallelReads},
	}
}

func put(ctx context.Context, b image.Blobs, id, content string) error {
	_, err := b.Put(ctx, id, strings.NewReader(content), int64(len(content)))
	return err
}

// expect tells what is wrong with the blob under id.
func expect(ctx context.Context, b image.Blobs, id, content string) error {
	blob, err := b.Open(ctx, id)
	if err != nil {
		return err
	}
	defer blob.Close()
	return expectBlob(blob, content)
}

func expectBlob(blob image.Blob, content string) error {
	got, err := io.ReadAll(blob)
	if err != nil {
		return err
	}
	if string(got) != content {
		return fmt.Errorf("content is %.40q, want %.40q", got, content)
	}
	if blob.Size() != int64(len(content)) {
		return fmt.Errorf("size is %d, want %d", blob.Size(), len(content))
	}
	return nil
}

func expectClass(what string, err, class error) error {
	if !errors.Is(err, class) {
		return fmt.Errorf("%s returned %v, want %v", what, err, class)
	}
	return nil
}

func expectIDs(ctx context.Context, b image.Blobs, want ...string) error {
	var got []string
	for id, err := range b.List(ctx) {
		if err != nil {
			return err
		}
		got = append(got, id)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("list yields %q, want %q", got, want)
	}
	return nil
}

func readBack(ctx context.Context, b image.Blobs) error {
	content := strings.Repeat("dew point ", 100_000)
	stored, err := b.Put(ctx, "a", strings.NewReader(content), 1<<30)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(content))
	if want := (image.Stored{Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}); stored != want {
		return fmt.Errorf("put returned %v, want %v", stored, want)
	}
	return expect(ctx, b, "a", content)
}

func emptyBlob(ctx context.Context, b image.Blobs) error {
	return errors.Join(put(ctx, b, "a", ""), expect(ctx, b, "a", ""), expectIDs(ctx, b, "a"))
}

func limit(ctx context.Context, b image.Blobs) error {
	if _, err := b.Put(ctx, "a", strings.NewReader("12345"), 5); err != nil {
		return err
	}
	_, err := b.Put(ctx, "b", strings.NewReader("123456"), 5)
	return errors.Join(expectClass("put", err, image.ErrTooLarge), expect(ctx, b, "a", "12345"), expectIDs(ctx, b, "a"))
}

func failedPut(ctx context.Context, b image.Blobs) error {
	if err := put(ctx, b, "a", "old"); err != nil {
		return err
	}
	if _, err := b.Put(ctx, "a", strings.NewReader("far too long"), 3); err == nil {
		return errors.New("put took content over its limit")
	}
	broken := io.MultiReader(strings.NewReader("half"), errReader{errors.New("connection lost")})
	if _, err := b.Put(ctx, "a", broken, 1000); err == nil {
		return errors.New("put took half of a content")
	}
	return errors.Join(expect(ctx, b, "a", "old"), expectIDs(ctx, b, "a"))
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func readerError(ctx context.Context, b image.Blobs) error {
	lost := errors.New("connection lost")
	_, err := b.Put(ctx, "a", errReader{lost}, 1000)
	return errors.Join(expectClass("put", err, lost), expectIDs(ctx, b))
}

func replace(ctx context.Context, b image.Blobs) error {
	if err := put(ctx, b, "a", "old"); err != nil {
		return err
	}
	blob, err := b.Open(ctx, "a")
	if err != nil {
		return err
	}
	defer blob.Close()
	return errors.Join(put(ctx, b, "a", "brand new"), expect(ctx, b, "a", "brand new"), expectBlob(blob, "old"))
}

func deleted(ctx context.Context, b image.Blobs) error {
	if err := errors.Join(put(ctx, b, "a", "one"), put(ctx, b, "b", "two")); err != nil {
		return err
	}
	blob, err := b.Open(ctx, "a")
	if err != nil {
		return err
	}
	defer blob.Close()
	if err := b.Delete(ctx, "a"); err != nil {
		return err
	}
	_, err = b.Open(ctx, "a")
	return errors.Join(expectClass("open", err, errdefs.ErrNotFound), expectBlob(blob, "one"), expect(ctx, b, "b", "two"),
		expectIDs(ctx, b, "b"))
}

func deleteUnknown(ctx context.Context, b image.Blobs) error { return b.Delete(ctx, "unknown") }

func openUnknown(ctx context.Context, b image.Blobs) error {
	_, err := b.Open(ctx, "unknown")
	return expectClass("open", err, errdefs.ErrNotFound)
}

func list(ctx context.Context, b image.Blobs) error {
	if err := expectIDs(ctx, b); err != nil {
		return err
	}
	ids := []string{"0", "A", "a", "a-b_c.d", strings.Repeat("x", 128)}
	for _, id := range ids {
		if err := put(ctx, b, id, id); err != nil {
			return err
		}
	}
	for range b.List(ctx) {
		break // a consumer may stop
	}
	return expectIDs(ctx, b, ids...)
}

func badIDs(ctx context.Context, b image.Blobs) error {
	for _, id := range []string{"", ".", "..", "../a", "a/b", "/etc/passwd", "-a", ".a", "_a", "a\x00", "a\n", "ä",
		strings.Repeat("x", 129)} {
		_, openErr := b.Open(ctx, id)
		if err := errors.Join(
			expectClass(fmt.Sprintf("put of %q", id), put(ctx, b, id, "x"), errdefs.ErrInvalidArgument),
			expectClass(fmt.Sprintf("open of %q", id), openErr, errdefs.ErrInvalidArgument),
			expectClass(fmt.Sprintf("delete of %q", id), b.Delete(ctx, id), errdefs.ErrInvalidArgument),
		); err != nil {
			return err
		}
	}
	return expectIDs(ctx, b)
}

func endedContext(ctx context.Context, b image.Blobs) error {
	if err := put(ctx, b, "a", "one"); err != nil {
		return err
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	putErr := put(ended, b, "b", "two")
	_, openErr := b.Open(ended, "a")
	deleteErr := b.Delete(ended, "a")
	var listErr error
	for _, err := range b.List(ended) {
		listErr = err
	}
	for what, err := range map[string]error{"put": putErr, "open": openErr, "delete": deleteErr, "list": listErr} {
		if err != context.Canceled { //nolint:errorlint // unwrapped is the rule
			return fmt.Errorf("%s returned %v, want context.Canceled itself", what, err)
		}
	}
	return errors.Join(expect(ctx, b, "a", "one"), expectIDs(ctx, b, "a"))
}

func endingContext(ctx context.Context, b image.Blobs) error {
	ending, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := b.Put(ending, "a", &cancellingReader{cancel: cancel}, 1<<20)
	if err != context.Canceled { //nolint:errorlint // unwrapped is the rule
		return fmt.Errorf("put returned %v, want context.Canceled itself", err)
	}
	return expectIDs(ctx, b)
}

// cancellingReader yields without end and cancels a context on the way.
type cancellingReader struct {
	cancel context.CancelFunc
	reads  int
}

func (r *cancellingReader) Read(p []byte) (int, error) {
	if r.reads++; r.reads == 3 {
		r.cancel()
	}
	return min(len(p), 1000), nil
}

func parallelPuts(ctx context.Context, b image.Blobs) error {
	const n = 8
	errs := make([]error, 2*n)
	var wg sync.WaitGroup
	for i := range n {
		content := strings.Repeat(string(rune('a'+i)), 100_000)
		wg.Go(func() {
			errs[2*i] = errors.Join(put(ctx, b, fmt.Sprint(i), content), expect(ctx, b, fmt.Sprint(i), content))
		})
		wg.Go(func() { errs[2*i+1] = put(ctx, b, "same", content) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	blob, err := b.Open(ctx, "same")
	if err != nil {
		return err
	}
	defer blob.Close()
	got, err := io.ReadAll(blob)
	if err != nil {
		return err
	}
	if len(got) != 100_000 || bytes.Count(got, got[:1]) != len(got) {
		return errors.New("the content of two puts is mixed")
	}
	return nil
}

func parallelReads(ctx context.Context, b image.Blobs) error {
	content := strings.Repeat("0123456789", 10_000)
	if err := put(ctx, b, "a", content); err != nil {
		return err
	}
	blob, err := b.Open(ctx, "a")
	if err != nil {
		return err
	}
	defer blob.Close()
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			buf := make([]byte, 100)
			for off := i * 100; off < len(content)-100; off += 800 {
				if _, err := blob.ReadAt(buf, int64(off)); err != nil || string(buf) != content[off:off+100] {
					errs[i] = fmt.Errorf("wrong content at %d: %w", off, err)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
