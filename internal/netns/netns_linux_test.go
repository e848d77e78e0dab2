package netns_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netns"
	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// here names the namespace of the calling thread.
func here(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	return name
}

func TestDoIsInTheNamespaceAndNobodyElseIs(t *testing.T) {
	ns := netnstest.New(t)
	want, err := os.Readlink(ns.Path())
	require.NoError(t, err)
	before := here(t)
	require.NotEqual(t, want, before)
	for range 100 {
		var inside string
		require.NoError(t, netns.Do(ns.Path(), func() (err error) {
			require.NotEqual(t, os.Getpid(), unix.Gettid(), "the first thread never ends")
			inside, err = os.Readlink("/proc/thread-self/ns/net")
			return err
		}))
		require.Equal(t, want, inside)
		require.Equal(t, before, here(t))
	}
}

func TestDoWithoutAPathIsAPlainCall(t *testing.T) {
	before, ran := here(t), ""
	require.NoError(t, netns.Do("", func() error { ran = here(t); return nil }))
	require.Equal(t, before, ran)
}

func TestDoTellsWhatWentWrong(t *testing.T) {
	never := func() error { t.Error("ran"); return nil }
	require.ErrorIs(t, netns.Do(filepath.Join(t.TempDir(), "none"), never), os.ErrNotExist)
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, nil, 0o600))
	require.ErrorIs(t, netns.Do(plain, never), unix.EINVAL)
	mine := errors.New("mine")
	require.Equal(t, mine, netns.Do("", func() error { return mine }))
	require.Equal(t, mine, netns.OnThread(func() error { return mine }))
}
