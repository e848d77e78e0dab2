package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

func TestSweepTakesOnlyWhatNobodyUses(t *testing.T) {
	s := newSource()
	used, idle, kernel := s.add("used", Raw, disk(512)), s.add("idle", Raw, disk(1024)), s.add("k", Kernel, disk(100))
	dir := filepath.Join(t.TempDir(), "cache")
	c, _ := newCache(t, dir, s)
	ctx := t.Context()
	_, err := c.Disk(ctx, "i-1", used, 1)
	require.NoError(t, err)
	_, err = c.Disk(ctx, "i-2", idle, 1)
	require.NoError(t, err)
	_, err = c.BootFile(ctx, "i-1", kernel)
	require.NoError(t, err)
	require.NoError(t, c.Release(ctx, "i-2"))

	swept, err := c.Sweep(ctx, time.Hour)
	require.NoError(t, err)
	require.Zero(t, swept, "used a moment ago")

	// What a killed process knew does not matter.
	require.NoError(t, c.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, incomingDir, "HALF"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, incomingDir, "GONE"), 0o700))
	c, _ = newCache(t, dir, s)
	require.Empty(t, names(t, filepath.Join(dir, incomingDir)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, incomingDir, "HALF"), nil, 0o600))
	swept, err = c.Sweep(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, Swept{Bases: 1, Bytes: 1024, Leftovers: 1}, swept)
	require.ElementsMatch(t, []string{baseName(used), baseName(kernel)}, names(t, filepath.Join(dir, basesDir)))

	_, err = c.Disk(ctx, "i-2", idle, 1)
	require.NoError(t, err)
	require.Equal(t, 2, s.count("idle"), "fetched again")
}

// Instances come and go while sweeps without mercy run: no disk ever loses its base.
func TestSweepAgainstDisks(t *testing.T) {
	s := newSource()
	img := s.add("img", Raw, disk(4096))
	c, _ := newCache(t, filepath.Join(t.TempDir(), "cache"), s)
	stop := make(chan struct{})
	var sweeper, workers sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.Sweep(t.Context(), 0); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for w := range 4 {
		workers.Go(func() {
			for n := range 25 {
				if err := useAndRelease(t, c, fmt.Sprintf("i-%d-%d", w, n), img); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	sweeper.Wait()
}

func useAndRelease(t *testing.T, c *Cache, id string, img Image) error {
	d, err := c.Disk(t.Context(), id, img, 1)
	if err != nil {
		return err
	}
	f, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	o, err := inspect.ReadOverlay(f)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(o.Backing)
	if err != nil {
		return err
	}
	if !bytes.Equal(content, disk(4096)) {
		return fmt.Errorf("base of %s has other content", id)
	}
	return c.Release(t.Context(), id)
}
