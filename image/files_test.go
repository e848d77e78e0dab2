package image

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func newFiles(t *testing.T, dir string) *Files {
	t.Helper()
	f, err := NewFiles(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	all := []string{}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestFilesCleansUpAfterTheDeadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	first := newFiles(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, incomingDir, "LEFTOVER"), []byte("half"), 0o600))

	// An upload is under way, in this process, while a second store opens the directory.
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := first.Put(context.Background(), "a", r, 1000)
		ended <- err
	}()
	_, err := w.Write([]byte("first half, "))
	require.NoError(t, err)
	second := newFiles(t, dir)
	require.NotContains(t, names(t, filepath.Join(dir, incomingDir)), "LEFTOVER")
	require.Len(t, names(t, filepath.Join(dir, incomingDir)), 1, "the upload that is under way")
	_, err = w.Write([]byte("second half"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, <-ended)

	blob, err := second.Open(t.Context(), "a")
	require.NoError(t, err)
	defer blob.Close()
	content, err := io.ReadAll(blob)
	require.NoError(t, err)
	require.Equal(t, "first half, second half", string(content))
	require.Empty(t, names(t, filepath.Join(dir, incomingDir)))
}

func TestFilesStayInTheirDirectory(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, []byte("secret"), 0o600))
	dir := filepath.Join(t.TempDir(), "images")
	f := newFiles(t, dir)
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, blobsDir, "link")))
	_, err := f.Open(t.Context(), "link")
	require.Error(t, err)

	st, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), st.Mode().Perm())
	_, err = f.Put(t.Context(), "../secret", strings.NewReader("x"), 10)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = NewFiles("")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = NewFiles(filepath.Join(dir, "no", "parent"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A file that a clean took away between its making and its lock is made again.
func TestIncomingAgainstCleaning(t *testing.T) {
	f := newFiles(t, filepath.Join(t.TempDir(), "images"))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, _, _ = f.incoming.clean()
			}
		}
	}()
	for range 300 {
		_, err := f.Put(t.Context(), "a", strings.NewReader("content"), 10)
		require.NoError(t, err)
	}
	close(stop)
	<-stopped
}
