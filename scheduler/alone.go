package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

type (
	whoRequest struct{}
	whoAnswer  struct{ Name string }
)

// askTimeout is how long a host's agent that is believed to be dead may take to say that it is not.
const askTimeout = 2 * time.Second

// Alone asks on a topic, which an agent of the host serves with [Here], whether there is one in another process: that is AlreadyExists, and says what
// it calls the host. One that does not answer within 2 s is taken for dead. When ctx ends it is ctx's error.
func Alone(ctx context.Context, bus queue.Bus, topic, hostID string) error {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	other, err := queue.Call[whoRequest, whoAnswer](ask, bus, topic, whoRequest{})
	if err != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the host with the id %s is at work in another process already, where it is called %s; was its directory copied? %w",
		hostID, other.Name, errdefs.ErrAlreadyExists)
}

// Here answers [Alone] for an agent that calls its host name.
func Here(name string) queue.Handler {
	return queue.Handle(func(context.Context, whoRequest) (whoAnswer, error) { return whoAnswer{name}, nil })
}
