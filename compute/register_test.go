package compute_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// A copied directory makes a second process believe that it is the same host.
func TestAHostRunsOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		err := n.work(c.ctx, operation.Hooks{})
		require.True(t, errdefs.IsAlreadyExists(err), err)
		require.ErrorContains(t, err, n.id)
		require.ErrorContains(t, err, "host-"+n.id[:8])
		c.active(t) // the first one works on
	})
}

// A second process that can't ask the first, because they have no bus in common, takes the host over; the first ends.
func TestAHostThatIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		n := c.nodes[0]
		first := make(chan error, 1)
		go func() { first <- n.work(context.Background(), operation.Hooks{}) }()
		synctest.Wait()
		own := c.bus
		c.bus = memqueue.New(memqueue.Config{})
		ctx, cancel := context.WithCancel(context.Background())
		second := make(chan error, 1)
		go func() { second <- n.work(ctx, operation.Hooks{}) }()
		begun := time.Now()
		err := <-first
		require.True(t, errdefs.IsAborted(err), err)
		require.ErrorContains(t, err, "another agent has taken the host")
		require.LessOrEqual(t, time.Since(begun), 11*time.Second)
		c.active(t)
		cancel()
		require.NoError(t, <-second)
		require.NoError(t, own.Close())
		require.NoError(t, c.close())
	})
}

// A predecessor that hangs does not keep its successor waiting.
func TestAHostWhosePredecessorHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		stop, err := c.bus.Serve(compute.Topic(c.nodes[0].id)+".who", func(ctx context.Context, _ queue.Message) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		require.NoError(t, err)
		done := c.start(t)
		c.active(t)
		done()
		stop()
		require.NoError(t, c.close())
	})
}

// lateBus is a bus whose broker comes up later.
type lateBus struct {
	queue.Bus
	up time.Time
}

func (b lateBus) Serve(topic string, h queue.Handler) (func(), error) {
	if time.Now().Before(b.up) {
		return nil, fmt.Errorf("the broker is down: %w", errdefs.ErrUnavailable)
	}
	return b.Bus.Serve(topic, h)
}

// A host works while there is no broker, and answers when there is one.
func TestAHostWithoutABroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		broker := c.bus
		up := time.Now().Add(time.Hour)
		c.bus = lateBus{broker, up}
		stop := c.start(t)
		i := c.active(t)
		require.True(t, time.Now().Before(up))
		_, err := c.service.Console(c.ctx, i.ID, 0)
		require.True(t, errdefs.IsUnavailable(err), err)
		time.Sleep(time.Until(up) + time.Minute)
		_, err = c.service.Console(c.ctx, i.ID, 0)
		require.NoError(t, err)
		stop()
		require.NoError(t, c.close())
	})
}
