package queue

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
)

// ServeSoon makes h a server of topic as soon as the bus can: a broker that can't be reached, as when all of a cloud has just
// been started, is waited for, with a warning to logger and a growing pause each time. It ends with ctx, and with any other error
// of [Bus].Serve at once. A nil logger is silent.
func ServeSoon(ctx context.Context, b Bus, topic string, h Handler, logger *slog.Logger) (stop func(), err error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		stop, err := b.Serve(topic, h)
		if err == nil || errors.Is(err, ErrClosed) || !errdefs.IsUnavailable(err) {
			return stop, err
		}
		logger.WarnContext(ctx, "queue: waiting for the bus", "topic", topic, "error", err, "again in", wait)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}
