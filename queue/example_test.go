package queue_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
)

// A node answers to its own topic; whoever wants something of it calls that.
func Example() {
	type Reboot struct{ ID string }
	type Rebooted struct{ Times int }

	bus := memqueue.New(memqueue.Config{})
	defer bus.Close()
	times := map[string]int{"i-1": 4}
	stop, err := bus.Serve("compute.host7", queue.Handle(func(ctx context.Context, req Reboot) (Rebooted, error) {
		if _, here := times[req.ID]; !here {
			return Rebooted{}, fmt.Errorf("instance %s: %w", req.ID, errdefs.ErrNotFound)
		}
		times[req.ID]++
		return Rebooted{Times: times[req.ID]}, nil
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	answer, err := queue.Call[Reboot, Rebooted](ctx, bus, "compute.host7", Reboot{ID: "i-1"})
	fmt.Println(answer.Times, err)
	_, err = queue.Call[Reboot, Rebooted](ctx, bus, "compute.host7", Reboot{ID: "i-2"})
	fmt.Println(err, errdefs.IsNotFound(err))

	stop()
	_, err = queue.Call[Reboot, Rebooted](ctx, bus, "compute.host7", Reboot{ID: "i-1"})
	fmt.Println(errors.Is(err, queue.ErrNoListener))
	// Output:
	// 5 <nil>
	// instance i-2: not found true
	// true
}

// A doorbell is a cast: that it was heard is not promised, and nothing is in it that the store does not have.
func ExampleCast() {
	bus := memqueue.New(memqueue.Config{})
	defer bus.Close()
	rung := make(chan string)
	_, err := bus.Serve("scheduler", queue.Handle(func(ctx context.Context, operation string) (struct{}, error) {
		rung <- operation + " for " + queue.FromContext(ctx).Trace
		return struct{}{}, nil
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := queue.NewContext(context.Background(), queue.Origin{Trace: "req-1"})
	if err := queue.Cast(ctx, bus, "scheduler", "operation 17"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(<-rung)
	// Output: operation 17 for req-1
}
