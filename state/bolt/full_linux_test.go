package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// A disk that is full refuses batches, and takes them again when there is room.
func TestAFullDisk(t *testing.T) {
	testneed.Root(t)
	dir := t.TempDir()
	require.NoError(t, unix.Mount("dewpoint-test", dir, "tmpfs", 0, "size=2m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 1<<20), 0o600))
	l := open(t, filepath.Join(dir, "db"))
	want := map[string]string{}
	commit := func(i int) error {
		key, value := fmt.Sprint(i), strings.Repeat("v", 10000)
		_, err := l.Commit(t.Context(), state.Batch{Ops: []state.Op{{Key: key, Value: []byte(value)}}})
		if err == nil {
			want[key] = value
		}
		return err
	}
	i, err := 0, error(nil)
	for ; err == nil && i < 1000; i++ {
		err = commit(i)
	}
	require.True(t, errdefs.IsResourceExhausted(err), err)
	require.NotErrorIs(t, err, state.ErrUnknown)
	err = commit(i) // may fit: what the log itself writes for a batch differs from one to the next
	require.True(t, err == nil || errdefs.IsResourceExhausted(err), err)
	have, rev := rows(t, l)
	require.Equal(t, want, have)
	require.Len(t, want, int(rev))
	require.NoError(t, os.Remove(ballast))
	for n := range 20 {
		require.NoError(t, commit(2000+n))
	}
	require.NoError(t, l.Close())
	l = open(t, filepath.Join(dir, "db"))
	have, _ = rows(t, l)
	require.Equal(t, want, have)
	require.NoError(t, l.Close())
}
