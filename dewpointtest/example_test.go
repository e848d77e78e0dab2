package dewpointtest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/dewpointtest"
)

// keep is the automation under test: it sees to it that n instances of a name run, until ctx ends. It finds what it has made by
// its name, so that it may be killed, and may be told nothing.
func keep(ctx context.Context, services func() *compute.Service, req compute.RunRequest, n int) {
	for ctx.Err() == nil {
		c := services()
		running := 0
		all, err := c.List(ctx, compute.ListOptions{})
		for _, i := range all {
			switch {
			case i.Name != req.Name || i.Task == compute.TaskDeleting:
			case i.State == compute.StateError:
				err = c.Terminate(ctx, i.ID)
			case i.State == compute.StateStopped && i.Task == compute.TaskNone:
				err = c.Start(ctx, i.ID)
				running++
			default:
				running++
			}
		}
		if err == nil && running < n {
			req.Token = fmt.Sprintf("%s-%d", req.Name, time.Now().UnixNano())
			for range 5 { // what had no answer is asked again under the same token, and so is made once
				if _, err = services().Run(ctx, req); !errdefs.IsUnavailable(err) && !errdefs.IsUnknown(err) {
					break
				}
			}
		}
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
	}
}

// keepsTwo has the automation keep two instances through a storm, and looks whether there are two when it is over.
func keepsTwo(ctx context.Context, s *dewpointtest.Sim) {
	services := func() *compute.Service { return s.Services(0).Compute }
	working, stop := context.WithTimeout(ctx, 5*time.Minute)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		keep(working, services, s.Request("web"), 2)
	}()
	time.Sleep(time.Minute)
	s.Settle(ctx) // the storm is over, and the automation goes on
	<-ended
	all, err := services().List(ctx, compute.ListOptions{})
	if err != nil || len(all) != 2 {
		s.Violated("there are %d instances, must be 2 (%v)", len(all), err)
	}
	for _, i := range all {
		if i.Status() != "ACTIVE" {
			s.Violated("%s is %s", i.Name, i.Status())
		}
	}
}

// The test of a program that keeps two instances running, whatever happens to the cloud.
func Example() {
	var t *testing.T // of func TestTwoAreKept(t *testing.T)
	dewpointtest.Histories(t, 50, dewpointtest.Config{Faults: dewpointtest.Storm(), Script: keepsTwo})
}

func TestTwoAreKept(t *testing.T) {
	dewpointtest.Histories(t, 20, dewpointtest.Config{Faults: dewpointtest.Storm(), Script: keepsTwo})
}
