package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// lateBus is a bus whose broker comes up later.
type lateBus struct {
	queue.Bus // nil: nothing else is asked of it
	up        time.Time
	err       error
}

func (b *lateBus) Serve(string, queue.Handler) (func(), error) {
	if time.Now().Before(b.up) {
		return nil, b.err
	}
	return func() {}, nil
}

func TestServeSoonWaitsForTheBroker(t *testing.T) {
	down := fmt.Errorf("the broker is down: %w", errdefs.ErrUnavailable)
	synctest.Test(t, func(t *testing.T) {
		stop, err := queue.ServeSoon(t.Context(), &lateBus{up: time.Now().Add(time.Hour), err: down}, "topic", nil, nil)
		require.NoError(t, err)
		require.NotNil(t, stop)
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := queue.ServeSoon(ctx, &lateBus{up: time.Now().Add(time.Hour), err: down}, "topic", nil, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	for _, final := range []error{queue.ErrClosed, errdefs.ErrInvalidArgument, errors.New("odd")} {
		_, err := queue.ServeSoon(t.Context(), &lateBus{up: time.Now().Add(time.Hour), err: final}, "topic", nil, nil)
		require.ErrorIs(t, err, final)
	}
}
