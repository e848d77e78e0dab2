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
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
)

// Every action in every state either begins or is refused as the table says; a termination always begins.
func TestStateMachine(t *testing.T) {
	reach := map[string]func(t *testing.T, c *cloud, n *node) string{
		"building": func(t *testing.T, c *cloud, n *node) string {
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Hang: true})
			return c.run(t, one())[0].ID
		},
		"active": func(t *testing.T, c *cloud, _ *node) string { return c.active(t).ID },
		"paused": func(t *testing.T, c *cloud, n *node) string {
			id := c.active(t).ID
			require.NoError(t, fakecompute.New(fakecompute.Config{Host: n.host}).Pause(c.ctx, id))
			return id
		},
		"stopped": func(t *testing.T, c *cloud, n *node) string {
			id := c.active(t).ID
			require.NoError(t, n.host.PowerOff(id))
			return id
		},
		"error": func(t *testing.T, c *cloud, n *node) string {
			f := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Err: errdefs.ErrFailedPrecondition})
			defer f.Remove()
			id := c.run(t, one())[0].ID
			synctest.Wait()
			return id
		},
		"busy": func(t *testing.T, c *cloud, n *node) string {
			id := c.active(t).ID
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodReboot, Hang: true})
			require.NoError(t, c.service.Reboot(c.ctx, id, false))
			return id
		},
		"deleting": func(t *testing.T, c *cloud, n *node) string {
			id := c.active(t).ID
			n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodDestroy, Hang: true})
			require.NoError(t, c.service.Terminate(c.ctx, id))
			return id
		},
	}
	status := map[string]string{"building": "BUILD", "active": "ACTIVE", "paused": "PAUSED", "stopped": "SHUTOFF", "error": "ERROR",
		"busy": "REBOOT", "deleting": "DELETING"}
	actions := map[string]func(s *compute.Service, ctx context.Context, id string) error{
		"soft reboot": func(s *compute.Service, ctx context.Context, id string) error { return s.Reboot(ctx, id, false) },
		"hard reboot": func(s *compute.Service, ctx context.Context, id string) error { return s.Reboot(ctx, id, true) },
		"start":       (*compute.Service).Start,
		"stop":        (*compute.Service).Stop,
		"terminate":   (*compute.Service).Terminate,
	}
	allowed := map[string]map[string]compute.State{ // to what state each leads
		"active":  {"soft reboot": compute.StateActive, "hard reboot": compute.StateActive, "stop": compute.StateStopped},
		"paused":  {"hard reboot": compute.StateActive, "stop": compute.StateStopped},
		"stopped": {"start": compute.StateActive},
	}
	for from, make := range reach {
		for action, do := range actions {
			t.Run(from+"/"+action, func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *cloud, n *node) {
					id := make(t, c, n)
					synctest.Wait()
					time.Sleep(time.Minute)
					require.Equal(t, status[from], c.get(t, id).Status())
					n.host.Inject(fakecompute.Fault{Delay: time.Second})
					err := do(c.service, c.ctx, id)
					if action == "terminate" {
						require.NoError(t, err)
						require.NoError(t, do(c.service, c.ctx, id), "twice is once")
						require.Equal(t, "DELETING", c.get(t, id).Status())
						if from == "deleting" {
							return
						}
						require.NoError(t, c.service.WaitGone(c.ctx, id))
						require.NoError(t, c.audit())
						return
					}
					to, ok := allowed[from][action]
					if !ok {
						require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
						require.ErrorContains(t, err, id)
						return
					}
					require.NoError(t, err)
					require.ErrorIs(t, do(c.service, c.ctx, id), errdefs.ErrFailedPrecondition, "while it is under way")
					i := c.waitRest(t, id)
					require.Equal(t, to, i.State)
					require.Empty(t, i.Fault)
					require.NoError(t, c.audit())
				})
			})
		}
	}
}

func TestWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
		defer cancel()
		_, err := c.service.WaitActive(ctx, "nope")
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		require.NoError(t, c.service.WaitGone(ctx, "nope"))

		i := c.active(t)
		require.False(t, i.Launched.IsZero())
		require.Equal(t, "web", i.Hostname)
		require.Equal(t, context.DeadlineExceeded, c.service.WaitGone(ctx, i.ID), "unwrapped")
		require.NoError(t, c.service.Stop(c.ctx, i.ID))
		c.waitRest(t, i.ID)
		_, err = c.service.WaitActive(c.ctx, i.ID)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, "is stopped")

		// A start that fails is told to who waits for it.
		n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Err: fmt.Errorf("no room: %w", errdefs.ErrResourceExhausted)})
		require.NoError(t, c.service.Start(c.ctx, i.ID))
		_, err = c.service.WaitActive(c.ctx, i.ID)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, "start: domain: no room")
		require.NoError(t, c.audit())

		id := c.run(t, one())[0].ID
		_, err = c.service.WaitActive(c.ctx, id)
		require.ErrorContains(t, err, "is error: launch: domain: no room")
		gone := make(chan error)
		go func() { gone <- c.service.WaitGone(c.ctx, id) }()
		require.NoError(t, c.service.Terminate(c.ctx, id))
		require.NoError(t, <-gone)
	})
}
