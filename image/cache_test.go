package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// fakeOverlays makes overlays that are headers only, with what the cache reads of them.
type fakeOverlays struct {
	err   error // of the next calls, after the file is half made
	calls atomic.Int32
}

func (f *fakeOverlays) CreateOverlay(_ context.Context, path string, size int64, backing string, _ inspect.Format) error {
	f.calls.Add(1)
	b := make([]byte, 4096)
	copy(b, "QFI\xfb\x00\x00\x00\x03")
	binary.BigEndian.PutUint64(b[8:], 512)
	binary.BigEndian.PutUint32(b[16:], uint32(len(backing)))
	binary.BigEndian.PutUint32(b[20:], 16)
	binary.BigEndian.PutUint64(b[24:], uint64(size))
	binary.BigEndian.PutUint32(b[100:], 104)
	copy(b[512:], backing)
	if f.err != nil {
		return errors.Join(os.WriteFile(path, b[:600], 0o600), f.err)
	}
	return os.WriteFile(path, b, 0o600)
}

// memSource serves contents by image id and counts how often.
type memSource struct {
	mu       sync.Mutex
	contents map[string][]byte
	opened   map[string]int
	gate     chan struct{} // when set, content arrives once it is closed
}

func (s *memSource) OpenImage(ctx context.Context, img Image) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok := s.contents[img.ID]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	s.opened[img.ID]++
	return io.NopCloser(&gatedReader{ctx, s.gate, bytes.NewReader(content)}), nil
}

func (s *memSource) count(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened[id]
}

type gatedReader struct {
	ctx  context.Context
	gate chan struct{}
	*bytes.Reader
}

func (r *gatedReader) Read(p []byte) (int, error) {
	if r.gate != nil {
		select {
		case <-r.gate:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	return r.Reader.Read(p)
}

// WriteTo would pass the gate by.
func (r *gatedReader) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{r}) }

func (s *memSource) add(id string, format Format, content []byte) Image {
	sum := sha256.Sum256(content)
	s.contents[id] = content
	return Image{ID: id, Format: format, Status: Active, Size: int64(len(content)), VirtualBytes: int64(len(content)),
		SHA256: hex.EncodeToString(sum[:])}
}

func newSource() *memSource {
	return &memSource{contents: map[string][]byte{}, opened: map[string]int{}}
}

func newCache(t *testing.T, dir string, s Source) (*Cache, *fakeOverlays) {
	t.Helper()
	c, err := NewCache(CacheConfig{Dir: dir, Source: s})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	f := &fakeOverlays{}
	c.overlays = f
	return c, f
}

func disk(size int) []byte { return bytes.Repeat([]byte("dew"), size/3+1)[:size] }

func TestDiskOfAnInstance(t *testing.T) {
	s := newSource()
	img := s.add("img", Raw, disk(1<<20))
	dir := filepath.Join(t.TempDir(), "cache")
	c, overlays := newCache(t, dir, s)
	ctx := t.Context()

	d, err := c.Disk(ctx, "i-1", img, 2)
	require.NoError(t, err)
	require.Equal(t, Disk{Path: filepath.Join(dir, "instances/i-1/disk.qcow2"), Format: QCOW2, VirtualBytes: 2 << 30,
		Base: filepath.Join(dir, "instances/i-1", img.SHA256+".raw"), BaseFormat: Raw}, d)
	f, err := os.Open(d.Path)
	require.NoError(t, err)
	defer f.Close()
	o, err := inspect.ReadOverlay(f)
	require.NoError(t, err)
	require.Equal(t, int64(2<<30), o.VirtualBytes)
	require.Equal(t, filepath.Join(dir, "instances/i-1", img.SHA256+".raw"), o.Backing)
	content, err := os.ReadFile(o.Backing)
	require.NoError(t, err)
	require.Equal(t, disk(1<<20), content)

	again, err := c.Disk(ctx, "i-1", img, 2)
	require.NoError(t, err)
	require.Equal(t, d, again)
	require.EqualValues(t, 1, overlays.calls.Load(), "what the guest wrote is kept")

	whole, err := c.Disk(ctx, "i-2", img, 0)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, whole.VirtualBytes, "size 0 is the image's own")
	again, err = c.Disk(ctx, "i-2", img, 0)
	require.NoError(t, err)
	require.Equal(t, whole, again)
	require.Equal(t, 1, s.count("img"))

	ids, err := c.List(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"i-1", "i-2"}, ids)
	require.NoError(t, c.Release(ctx, "i-1"))
	require.NoError(t, c.Release(ctx, "i-1"))
	ids, err = c.List(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"i-2"}, ids)
	require.NoFileExists(t, d.Path)
	require.Empty(t, names(t, filepath.Join(dir, incomingDir)))
}

func TestAnotherDiskThanTheInstanceHas(t *testing.T) {
	s := newSource()
	one, two := s.add("one", Raw, disk(512)), s.add("two", Raw, disk(1024))
	c, _ := newCache(t, filepath.Join(t.TempDir(), "cache"), s)
	ctx := t.Context()
	d, err := c.Disk(ctx, "i", one, 1)
	require.NoError(t, err)

	_, err = c.Disk(ctx, "i", two, 1)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "another image")
	_, err = c.Disk(ctx, "i", one, 2)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "1073741824 bytes, not the 2147483648")
	require.Zero(t, s.count("two"), "nothing was fetched for a call that fails")

	require.NoError(t, os.WriteFile(d.Path, []byte("not qcow2"), 0o600))
	_, err = c.Disk(ctx, "i", one, 1)
	require.ErrorIs(t, err, errdefs.ErrDataLoss, "a damaged disk is reported, never replaced")
	require.NoError(t, c.Release(ctx, "i"))
	_, err = c.Disk(ctx, "i", two, 2)
	require.NoError(t, err)
}

func TestBootFiles(t *testing.T) {
	s := newSource()
	kernel, ramdisk := s.add("k", Kernel, disk(1000)), s.add("r", Ramdisk, disk(1000))
	c, _ := newCache(t, filepath.Join(t.TempDir(), "cache"), s)
	for range 2 {
		for _, img := range []Image{kernel, ramdisk} {
			p, err := c.BootFile(t.Context(), "i", img)
			require.NoError(t, err)
			content, err := os.ReadFile(p)
			require.NoError(t, err)
			require.Equal(t, disk(1000), content)
		}
	}
	require.Equal(t, 1, s.count("k"))

	_, err := c.Files(t.Context(), "i")
	require.ErrorIs(t, err, errdefs.ErrNotFound, "no disk yet")
	d, err := c.Disk(t.Context(), "i", s.add("d", Raw, disk(512)), 1)
	require.NoError(t, err)
	files, err := c.Files(t.Context(), "i")
	require.NoError(t, err)
	own := filepath.Join(c.dir, instancesDir, "i")
	require.Equal(t, InstanceFiles{d, filepath.Join(own, kernel.SHA256+".aki"), filepath.Join(own, ramdisk.SHA256+".ari")}, files)
	require.NoError(t, os.Remove(d.Base))
	_, err = c.Files(t.Context(), "i")
	require.ErrorIs(t, err, errdefs.ErrDataLoss)
	require.NoError(t, c.Release(t.Context(), "i"))
	_, err = c.Disk(t.Context(), "i", kernel, 1)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = c.BootFile(t.Context(), "i", s.add("d", Raw, disk(512)))
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestRefusedImagesLeaveNothing(t *testing.T) {
	s := newSource()
	qcow2InRaw := append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 4096)...)
	with := func(img Image, change func(*Image)) Image { change(&img); return img }
	good := s.add("good", Raw, disk(4096))
	rows := []struct {
		name  string
		img   Image
		id    string
		size  int
		class error
	}{
		{"queued", with(good, func(i *Image) { i.Status = Queued }), "i", 1, errdefs.ErrFailedPrecondition},
		{"no checksum", with(good, func(i *Image) { i.SHA256 = "" }), "i", 1, errdefs.ErrInvalidArgument},
		{"path as checksum", with(good, func(i *Image) { i.SHA256 = "../../etc" }), "i", 1, errdefs.ErrInvalidArgument},
		{"no format", with(good, func(i *Image) { i.Format = "" }), "i", 1, errdefs.ErrInvalidArgument},
		{"wrong checksum", with(good, func(i *Image) { i.SHA256 = hex.EncodeToString(make([]byte, 32)) }), "i", 1, errdefs.ErrDataLoss},
		{"too short", with(good, func(i *Image) { i.Size++ }), "i", 1, errdefs.ErrDataLoss},
		{"too long", with(good, func(i *Image) { i.Size-- }), "i", 1, errdefs.ErrDataLoss},
		{"no content", Image{ID: "x", Format: Raw, Status: Active, SHA256: good.SHA256, Size: 4096}, "i", 1, errdefs.ErrNotFound},
		{"qcow2 inside", s.add("bad", Raw, qcow2InRaw), "i", 1, errdefs.ErrInvalidArgument},
		{"not qcow2", s.add("bad2", QCOW2, disk(4096)), "i", 1, errdefs.ErrInvalidArgument},
		{"empty", s.add("empty", Raw, nil), "i", 1, errdefs.ErrInvalidArgument},
		{"disk too small", with(good, func(i *Image) { i.VirtualBytes = 2 << 30 }), "i", 1, errdefs.ErrInvalidArgument},
		{"negative size", good, "i", -1, errdefs.ErrInvalidArgument},
		{"size that overflows", good, "i", 1 << 40, errdefs.ErrInvalidArgument},
		{"no instance", good, "", 1, errdefs.ErrInvalidArgument},
		{"instance outside", good, "../i", 1, errdefs.ErrInvalidArgument},
	}
	dir := filepath.Join(t.TempDir(), "cache")
	c, _ := newCache(t, dir, s)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			_, err := c.Disk(t.Context(), row.id, row.img, row.size)
			require.ErrorIs(t, err, row.class)
			for _, d := range []string{basesDir, instancesDir, incomingDir} {
				require.Empty(t, names(t, filepath.Join(dir, d)), d)
			}
		})
	}
}

// The record of an image may be wrong about its disk; the content is what counts.
func TestDiskTooSmallForTheContent(t *testing.T) {
	s := newSource()
	img := s.add("img", Raw, disk(4096))
	img.VirtualBytes = 0
	c, overlays := newCache(t, filepath.Join(t.TempDir(), "cache"), s)
	big := filepath.Join(c.dir, basesDir, baseName(img))
	require.NoError(t, os.WriteFile(big, nil, 0o600))
	require.NoError(t, os.Truncate(big, 3<<30))
	_, err := c.Disk(t.Context(), "i", img, 2)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "2 GiB is too small for image img, whose disk has 3221225472 bytes")
	require.Zero(t, overlays.calls.Load())
}

func TestManyInstancesOneDownload(t *testing.T) {
	s := newSource()
	img := s.add("img", Raw, disk(1<<20))
	s.gate = make(chan struct{})
	c, _ := newCache(t, filepath.Join(t.TempDir(), "cache"), s)

	// One of them gives up; that is nothing to the others.
	impatient, giveUp := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { _, err := c.Disk(impatient, "impatient", img, 1); left <- err }()
	require.Eventually(t, func() bool { return s.count("img") == 1 }, time.Minute, time.Millisecond)
	errs := make(chan error, 20)
	for i := range 20 {
		go func() { _, err := c.Disk(t.Context(), fmt.Sprint("i-", i), img, 1); errs <- err }()
	}
	require.Eventually(t, func() bool { return c.fetching.waiting(baseName(img)) == 21 }, time.Minute, time.Millisecond)
	giveUp()
	require.Equal(t, context.Canceled, <-left)
	close(s.gate)
	for range 20 {
		require.NoError(t, <-errs)
	}
	require.Equal(t, 1, s.count("img"))
}

func (fs *flights) waiting(key string) int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.all[key]; f != nil {
		return f.waiting
	}
	return 0
}

func TestDownloadEndsWithTheLastWhoWantsIt(t *testing.T) {
	s := newSource()
	img := s.add("img", Raw, disk(1<<20))
	s.gate = make(chan struct{})
	dir := filepath.Join(t.TempDir(), "cache")
	c, _ := newCache(t, dir, s)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	for i := range 2 {
		go func() { _, err := c.Disk(ctx, fmt.Sprint("i-", i), img, 1); errs <- err }()
	}
	require.Eventually(t, func() bool { return c.fetching.waiting(baseName(img)) == 2 }, time.Minute, time.Millisecond)
	cancel()
	require.Equal(t, context.Canceled, <-errs)
	require.Equal(t, context.Canceled, <-errs)
	close(s.gate)
	_, err := c.Disk(t.Context(), "i-0", img, 1)
	require.NoError(t, err, "the next caller begins anew")
	require.NoError(t, c.Close())
	require.Empty(t, names(t, filepath.Join(dir, incomingDir)))
	_, err = c.Disk(t.Context(), "i-3", s.add("other", Raw, disk(512)), 1)
	require.Error(t, err, "closed")
}

func TestFailuresCanBeRepeated(t *testing.T) {
	s := newSource()
	img := s.add("img", Raw, disk(4096))
	dir := filepath.Join(t.TempDir(), "cache")
	c, overlays := newCache(t, dir, s)
	overlays.err = errdefs.ErrResourceExhausted
	_, err := c.Disk(t.Context(), "i", img, 1)
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	require.Equal(t, []string{baseName(img)}, names(t, filepath.Join(dir, instancesDir, "i")), "no half disk")

	// A process that was killed can't tidy up.
	require.NoError(t, os.WriteFile(filepath.Join(dir, instancesDir, "i", newDisk+"X"), nil, 0o600))
	overlays.err = nil
	_, err = c.Disk(t.Context(), "i", img, 1)
	require.NoError(t, err)
	require.Equal(t, []string{baseName(img), diskFile}, names(t, filepath.Join(dir, instancesDir, "i")))
}

func TestOneCachePerDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c, _ := newCache(t, dir, newSource())
	_, err := NewCache(CacheConfig{Dir: dir, Source: newSource()})
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	again, err := NewCache(CacheConfig{Dir: dir, Source: newSource()})
	require.NoError(t, err)
	require.NoError(t, again.Close())

	_, err = NewCache(CacheConfig{Dir: dir})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = NewCache(CacheConfig{Source: newSource()})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}
