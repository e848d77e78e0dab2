package bolt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/state"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(writerPath); path != "" {
		writeUntilKilled(path)
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(Config{Path: path})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func put(t *testing.T, l *Log, key, value string) state.Revision {
	t.Helper()
	rev, err := l.Commit(t.Context(), state.Batch{Ops: []state.Op{{Key: key, Value: []byte(value)}}})
	require.NoError(t, err)
	return rev
}

// rows returns what a follower is given first.
func rows(t *testing.T, l *Log) (map[string]string, state.Revision) {
	t.Helper()
	for b, err := range l.Follow(t.Context(), 0) {
		require.NoError(t, err)
		require.True(t, b.Snapshot)
		m := map[string]string{}
		for _, op := range b.Ops {
			m[op.Key] = string(op.Value)
		}
		return m, b.Rev
	}
	t.Fatal("no snapshot")
	return nil, 0
}

func TestAFileOpensAgainWithWhatWasCommitted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	for round := range 5 {
		l := open(t, path)
		have, rev := rows(t, l)
		require.Len(t, have, round*100)
		require.Equal(t, state.Revision(round*100), rev)
		var wg sync.WaitGroup
		for w := range 10 {
			wg.Go(func() {
				for i := range 10 {
					_, err := l.Commit(context.Background(), state.Batch{Ops: []state.Op{{Key: fmt.Sprint(round, w, i), Value: make([]byte, i*1000)}}})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, l.Close())
		_, err := l.Commit(t.Context(), state.Batch{Ops: []state.Op{{Key: "a"}}})
		require.ErrorIs(t, err, state.ErrClosed)
	}
}

func TestAFileInUseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	l := open(t, path)
	put(t, l, "a", "1")
	_, err := Open(Config{Path: path})
	require.True(t, errdefs.IsUnavailable(err), err)
	require.ErrorContains(t, err, "in use")
	put(t, l, "a", "2")
	require.NoError(t, l.Close())
	have, _ := rows(t, open(t, path))
	require.Equal(t, map[string]string{"a": "2"}, have)
}
