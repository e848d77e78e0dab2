package compute_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

type counted struct {
	state.Log
	batches, ops, guards, bytes atomic.Int64
}

func (l *counted) Commit(ctx context.Context, b state.Batch) (state.Revision, error) {
	rev, err := l.Log.Commit(ctx, b)
	if err == nil {
		l.batches.Add(1)
		l.ops.Add(int64(len(b.Ops)))
		l.guards.Add(int64(len(b.Guards)))
		for _, op := range b.Ops {
			l.bytes.Add(int64(len(op.Key) + len(op.Value)))
		}
	}
	return rev, err
}

type countedBus struct {
	queue.Bus
	sent atomic.Int64
}

func (b *countedBus) Cast(ctx context.Context, m queue.Message) error {
	b.sent.Add(1)
	return b.Bus.Cast(ctx, m)
}

func BenchmarkPeerLaunch(b *testing.B) {
	const hosts, launches, callers = 1000, 10000, 256
	log := &counted{Log: memstate.New(memstate.Config{})}
	c := newCloudOver(b, log, hosts)
	for range b.N {
	}
	bus := &countedBus{Bus: c.bus}
	c.bus = bus
	c.update(b, func(tx *state.Tx) error {
		return auth.Quotas.Put(tx, auth.Quota{ProjectID: project, Limits: map[auth.Resource]int{auth.Instances: -1, auth.Cores: -1, auth.MemoryMiB: -1}})
	})
	stop := c.start(b)
	time.Sleep(2 * time.Second)
	before, ops, sent := log.batches.Load(), log.ops.Load(), bus.sent.Load()
	begun := time.Now()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= launches {
				made, err := c.service.Run(c.ctx, one())
				if err != nil {
					b.Error(err)
					return
				}
				if _, err := c.service.WaitActive(c.ctx, made[0].ID); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	b.Logf("%v launches/s, %v batches, %v ops per launch, %v messages", launches/took.Seconds(), float64(log.batches.Load()-before)/launches, float64(log.ops.Load()-ops)/launches, float64(bus.sent.Load()-sent)/launches)
	stop()
	require.NoError(b, c.close())
	require.NoError(b, log.Close())
}
