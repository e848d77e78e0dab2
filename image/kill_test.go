package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// victimDir is the environment variable that makes the test program a process to be killed.
const victimDir = "DEWPOINT_IMAGE_VICTIM"

// victim uses a store and a cache as fast as it can until it is killed. What it makes follows from the images alone, so
// that the parent knows what must be there.
func victim(dir string) int {
	blobs, err := NewFiles(filepath.Join(dir, "images"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := NewCache(CacheConfig{Dir: filepath.Join(dir, "cache"), Source: BlobSource{blobs}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx := context.Background()
	fmt.Println("ready")
	for n := 0; ; n++ {
		img, content := victimImage(n % 3)
		if _, err = blobs.Put(ctx, img.blobID(), bytes.NewReader(content), img.Size); err == nil {
			_, err = c.Disk(ctx, fmt.Sprint("i-", n%5), img, 1)
		}
		if err == nil {
			err = c.Release(ctx, fmt.Sprint("i-", (n+2)%5))
		}
		if err == nil {
			_, err = c.Sweep(ctx, 0)
		}
		if err != nil && !strings.Contains(err.Error(), "another image") { // what the process before left
			fmt.Println(err)
			return 1
		}
	}
}

func victimImage(n int) (Image, []byte) {
	content := disk((n + 1) * 1 << 20)
	sum := sha256.Sum256(content)
	return Image{ID: fmt.Sprint("img-", n), Format: Raw, Status: Active, Size: int64(len(content)),
		VirtualBytes: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}, content
}

func TestKilledAtAnyInstant(t *testing.T) {
	testneed.Tools(t, "qemu-img", "prlimit")
	dir := t.TempDir()
	disks := 0
	most := 80 * time.Millisecond
	for round := 0; round < 12 || disks == 0; round++ {
		if round >= 12 { // the machine is slow
			most *= 2
			require.Less(t, most, time.Minute, "no process lived long enough to prove anything")
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), victimDir+"="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		said := bufio.NewReader(out)
		line, err := said.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "ready\n", line)
		time.Sleep(rand.N(most))
		require.NoError(t, cmd.Process.Kill())
		complaint, err := io.ReadAll(said)
		require.NoError(t, err)
		require.Error(t, cmd.Wait())
		require.Empty(t, string(complaint), "round %d", round)
		disks += checkAfterKill(t, dir)
	}
}

// checkAfterKill opens what a killed process left, as the next one would, looks at all of it, and counts the disks.
func checkAfterKill(t *testing.T, dir string) (disks int) {
	t.Helper()
	blobs, err := NewFiles(filepath.Join(dir, "images"))
	require.NoError(t, err)
	defer blobs.Close()
	c, err := NewCache(CacheConfig{Dir: filepath.Join(dir, "cache"), Source: BlobSource{blobs}})
	require.NoError(t, err)
	defer c.Close()
	require.Empty(t, names(t, filepath.Join(dir, "images", incomingDir)))
	require.Empty(t, names(t, filepath.Join(dir, "cache", incomingDir)))

	whole := map[string]bool{}
	for n := range 3 {
		img, _ := victimImage(n)
		whole[img.SHA256] = true
	}
	for id, err := range blobs.List(t.Context()) {
		require.NoError(t, err)
		require.True(t, whole[hashOf(t, filepath.Join(dir, "images", blobsDir, id))], "blob %s is not whole", id)
	}
	for _, name := range names(t, filepath.Join(dir, "cache", basesDir)) {
		require.Equal(t, name, hashOf(t, filepath.Join(dir, "cache", basesDir, name))+".raw")
	}
	ids, err := c.List(t.Context())
	require.NoError(t, err)
	for _, id := range ids {
		f, err := os.Open(filepath.Join(dir, "cache", instancesDir, id, diskFile))
		if os.IsNotExist(err) {
			continue // its disk was being made
		}
		require.NoError(t, err)
		o, err := inspect.ReadOverlay(f)
		f.Close()
		require.NoError(t, err)
		require.True(t, whole[hashOf(t, o.Backing)], "the base of %s is not whole", id)
		out, err := exec.Command("qemu-img", "check", "-q", "-f", "qcow2", f.Name()).CombinedOutput()
		require.NoError(t, err, "%s", out)
		disks++
	}
	t.Logf("%d instances, %d with a disk", len(ids), disks)
	return disks
}

func hashOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	require.NoError(t, err)
	return hex.EncodeToString(sum.Sum(nil))
}

// What the guest would read of its disk is the image, followed by zeros up to the flavor's size.
func TestDiskReadsAsTheImage(t *testing.T) {
	testneed.Tools(t, "qemu-img", "prlimit")
	dir := t.TempDir()
	s := newSource()
	raw := s.add("raw", Raw, disk(3<<20))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "raw"), disk(3<<20), 0o600))
	run(t, dir, "convert", "-f", "raw", "-O", "qcow2", "-c", "raw", "qcow2")
	packed, err := os.ReadFile(filepath.Join(dir, "qcow2"))
	require.NoError(t, err)
	qcow2 := s.add("qcow2", QCOW2, packed)
	qcow2.VirtualBytes = 3 << 20

	c, err := NewCache(CacheConfig{Dir: filepath.Join(dir, "cache"), Source: s})
	require.NoError(t, err)
	defer c.Close()
	for _, img := range []Image{raw, qcow2} {
		d, err := c.Disk(t.Context(), "of-"+img.ID, img, 1)
		require.NoError(t, err)
		run(t, dir, "convert", "-f", "qcow2", "-O", "raw", d.Path, "flat")
		f, err := os.Open(filepath.Join(dir, "flat"))
		require.NoError(t, err)
		st, err := f.Stat()
		require.NoError(t, err)
		require.EqualValues(t, 1<<30, st.Size())
		got := make([]byte, 4<<20)
		_, err = f.ReadAt(got, 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.True(t, bytes.Equal(append(disk(3<<20), make([]byte, 1<<20)...), got))
	}
}

func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("qemu-img", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func BenchmarkDisk(b *testing.B) {
	testneed.Tools(b, "qemu-img", "prlimit")
	s := newSource()
	img := s.add("img", Raw, disk(1<<20))
	c, err := NewCache(CacheConfig{Dir: filepath.Join(b.TempDir(), "cache"), Source: s})
	require.NoError(b, err)
	defer c.Close()
	b.Run("new", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			_, err := c.Disk(b.Context(), fmt.Sprint("i-", n), img, 20)
			require.NoError(b, err)
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			_, err := c.Disk(b.Context(), "i-0", img, 20)
			require.NoError(b, err)
		}
	})
}
