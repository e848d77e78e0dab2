package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A process can be killed between any two system calls of Disk. This builds each of the states that leaves, and
// holds that Disk finishes from there and Release undoes it from there.
func TestEveryStateBetweenTwoSystemCalls(t *testing.T) {
	s := newSource()
	img := s.add("img", Raw, disk(4096))
	template := filepath.Join(t.TempDir(), "cache")
	c, _ := newCache(t, template, s)
	_, err := c.Disk(t.Context(), "i", img, 1)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	content := disk(4096)
	whole, err := os.ReadFile(filepath.Join(template, instancesDir, "i", diskFile))
	require.NoError(t, err)

	write := func(b []byte, elem ...string) func(string) error {
		return func(dir string) error {
			return os.WriteFile(filepath.Join(append([]string{dir}, elem...)...), b, 0o600)
		}
	}
	base, own := filepath.Join(basesDir, baseName(img)), filepath.Join(instancesDir, "i", baseName(img))
	steps := []struct {
		name string
		do   func(dir string) error
	}{
		{"temporary file made", write(nil, incomingDir, "TMP")},
		{"half of the content arrived", write(content[:2000], incomingDir, "TMP")},
		{"all of the content arrived", write(content, incomingDir, "TMP")},
		{"base renamed", func(dir string) error {
			return os.Rename(filepath.Join(dir, incomingDir, "TMP"), filepath.Join(dir, base))
		}},
		{"directory of the instance made", func(dir string) error { return os.Mkdir(filepath.Join(dir, instancesDir, "i"), 0o711) }},
		{"base linked", func(dir string) error { return os.Link(filepath.Join(dir, base), filepath.Join(dir, own)) }},
		{"base swept, the link remains", func(dir string) error { return os.Remove(filepath.Join(dir, base)) }},
		{"overlay half made", write(whole[:100], instancesDir, "i", newDisk+"X")},
		{"overlay made", write(whole, instancesDir, "i", newDisk+"X")},
		{"overlay renamed", func(dir string) error {
			return os.Rename(filepath.Join(dir, instancesDir, "i", newDisk+"X"), filepath.Join(dir, instancesDir, "i", diskFile))
		}},
		{"release: directory renamed", func(dir string) error {
			return os.Rename(filepath.Join(dir, instancesDir, "i"), filepath.Join(dir, incomingDir, "GONE"))
		}},
		{"release: some files removed", func(dir string) error { return os.Remove(filepath.Join(dir, incomingDir, "GONE", diskFile)) }},
	}
	for n := range len(steps) + 1 {
		name := "nothing done"
		if n > 0 {
			name = steps[n-1].name
		}
		t.Run(name, func(t *testing.T) {
			// The overlay holds the absolute path of its base, so every state is built in the same place.
			build := func() *Cache {
				require.NoError(t, os.RemoveAll(template))
				c, _ := newCache(t, template, s)
				for _, step := range steps[:n] {
					require.NoError(t, step.do(template))
				}
				require.NoError(t, c.Close())
				c, _ = newCache(t, template, s)
				require.Empty(t, names(t, filepath.Join(template, incomingDir)))
				return c
			}
			c := build()
			for range 2 {
				d, err := c.Disk(t.Context(), "i", img, 1)
				require.NoError(t, err)
				got, err := os.ReadFile(d.Path)
				require.NoError(t, err)
				require.Equal(t, whole, got)
			}
			require.ElementsMatch(t, []string{diskFile, baseName(img)}, names(t, filepath.Join(template, instancesDir, "i")))
			require.NoError(t, c.Close())

			c = build()
			for range 2 {
				require.NoError(t, c.Release(t.Context(), "i"))
				require.Empty(t, names(t, filepath.Join(template, instancesDir)))
			}
			_, err := c.Sweep(t.Context(), 0)
			require.NoError(t, err)
			require.Empty(t, names(t, filepath.Join(template, basesDir)))
			require.Empty(t, names(t, filepath.Join(template, incomingDir)))
			require.NoError(t, c.Close())
		})
	}
}
