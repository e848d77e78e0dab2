package state_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// narrow is a log that refuses what is over its limits.
type narrow struct {
	state.Log
	limits  state.Limits
	batches atomic.Int64
	turn    chan struct{} // one in it lets a commit go on
}

func (n *narrow) Limits() state.Limits { return n.limits }

func (n *narrow) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	<-n.turn
	bytes := (len(b.Ops) + len(b.Guards)) * n.limits.Each
	for _, op := range b.Ops {
		bytes += len(op.Key) + len(op.Value)
	}
	for _, g := range b.Guards {
		bytes += len(g.Key)
	}
	if len(b.Ops) > n.limits.Ops || len(b.Guards) > n.limits.Guards || bytes > n.limits.Bytes {
		return 0, fmt.Errorf("%d operations, %d guards, %d bytes: %w", len(b.Ops), len(b.Guards), bytes, errdefs.ErrInvalidArgument)
	}
	n.batches.Add(1)
	return n.Log.Commit(ctx, b)
}

// Updates that wait together are committed in groups within the log's limits; one that is too large by itself fails alone.
func TestGroupsKeepToTheLogsLimits(t *testing.T) {
	log := &narrow{Log: memstate.New(memstate.Config{}), limits: state.Limits{Ops: 30, Guards: 25, Bytes: 20_000, Each: 10}, turn: make(chan struct{}, 1000)}
	s := open(t, log)
	const updates = 60
	errs := make([]error, updates)
	var waiting sync.WaitGroup
	for i := range updates {
		waiting.Go(func() {
			errs[i] = s.Update(t.Context(), func(tx *state.Tx) error {
				for j := range 1 + i%12 { // of one owner: its sum is written by all of them
					if err := boxes.Put(tx, box{ID: fmt.Sprint(i, "/", j), Owner: "x", Weight: 1, Label: label(i, j)}); err != nil {
						return err
					}
				}
				if i == 33 {
					return boxes.Put(tx, box{ID: "large", Owner: strings.Repeat("y", 30_000)})
				}
				return nil
			})
		})
	}
	for range 1000 {
		log.turn <- struct{}{}
	}
	waiting.Wait()
	want := 0
	for i, err := range errs {
		if i == 33 {
			require.True(t, errdefs.IsInvalidArgument(err), err)
			continue
		}
		require.NoError(t, err)
		want += 1 + i%12
	}
	require.NoError(t, s.View(func(v *state.View) error {
		require.Equal(t, weight{want, want}, weights.Get(v, "x"))
		require.False(t, boxes.Has(v, "large"))
		return nil
	}))
	require.Less(t, log.batches.Load(), int64(updates))
}

func label(i, j int) string {
	if j > 0 {
		return ""
	}
	return fmt.Sprint("label-", i)
}
