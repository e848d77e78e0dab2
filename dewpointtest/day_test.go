package dewpointtest_test

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/dewpointtest"
	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
)

// A day of a cloud: its users, five in each project, do so many things, spread over 24 hours, while messages are lost and guests fall. The whole of it is
// BenchmarkPeerDay's.
func TestADay(t *testing.T) {
	day(t, 10, 5, 30)
}

// BenchmarkPeerDay measures how long a simulated day of 1,000 hosts with 100,000 operations takes. The peer is the day itself.
func BenchmarkPeerDay(b *testing.B) {
	testneed.Slow(b)
	const hosts, users, each, goal = 1000, 500, 200, 60.0
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a short life with much memory, which nothing else needs
	for range b.N {
		begun, used := time.Now(), benchline.CPU()
		if !testing.RunTests(func(string, string) (bool, error) { return true, nil },
			[]testing.InternalTest{{Name: "Day", F: func(t *testing.T) {
				// In a bubble nearly always one thing happens at a time, and handing it to another processor costs more than that saves.
				// It is said here because RunTests sets it as well.
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
				day(t, hosts, users, each)
			}}}) {
			b.Fatal("the day did not go well")
		}
		span, cpu := time.Since(begun).Seconds(), benchline.CPU()-used
		benchline.Report(b, benchline.Line{Name: "a simulated day", Ours: span, Peer: 24 * 3600, PeerName: "the day", Ratio: 24 * 3600 / span,
			Unit: "s", Goal: "<= 60 s", Met: span <= goal, CPU: float64(cpu.Microseconds()) / (users * each), Runs: 1,
			Setup: fmt.Sprintf("%d hosts with a sign of life each 5 min, %d operations, GOMAXPROCS=1, GOGC=400", hosts, users*each)})
	}
}

// day has users do each so many operations in a day: run an instance, reboot it, stop it, start it, terminate it.
func day(t *testing.T, hosts, users, each int) {
	t.Helper()
	var done atomic.Int64
	dewpointtest.Run(t, dewpointtest.Config{Hosts: hosts, Shared: true, Faults: dewpointtest.Faults{Lose: 0.01, Delay: 0.01, GuestFalls: 20, Over: 24 * time.Hour},
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			cfg.Heartbeat, cfg.Tick, cfg.Repair, cfg.Sync = 5*time.Minute, 10*time.Minute, time.Hour, time.Hour
		},
		Total: scheduler.Resources{VCPUs: 16, MemoryMiB: 65536, DiskGiB: 1000},
		Clean: true,
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			c := s.Services(0)
			unlimited := map[auth.Resource]int{auth.Instances: auth.Unlimited, auth.Cores: auth.Unlimited, auth.MemoryMiB: auth.Unlimited}
			if _, err := c.Auth.SetQuota(ctx, auth.EveryProject, unlimited); err != nil {
				s.Violated("%v", err)
			}
			pause := 24 * time.Hour / time.Duration(each+1)
			var all sync.WaitGroup
			for n := range users {
				time.Sleep(pause / time.Duration(users))
				mine := auth.NewContext(ctx, auth.Admin(fmt.Sprint("project-", n/5)))
				all.Go(func() { done.Add(user(mine, s, c.Compute, fmt.Sprint("user-", n), each, pause)) })
			}
			all.Wait()
			for _, found := range s.CheckNow() {
				s.Violated("%s", found)
			}
		}})
	if int(done.Load()) != users*each {
		t.Errorf("%d operations were done, must be %d", done.Load(), users*each)
	}
}

// user does so many operations, each as soon as the pause after the last is over, and returns how many were done.
func user(ctx context.Context, s *dewpointtest.Sim, c *compute.Service, name string, operations int, pause time.Duration) (done int64) {
	id := ""
	for n := range operations {
		time.Sleep(pause)
		limit, end := context.WithTimeout(ctx, pause+time.Hour)
		var err error
		switch step := n % 5; {
		case step == 0 || id == "":
			var made []compute.Instance
			if made, err = c.Run(limit, s.Request(name)); err == nil {
				id = made[0].ID
				_, err = c.WaitActive(limit, id)
			}
		case step == 4:
			if err = c.Terminate(limit, id); err == nil {
				err = c.WaitGone(limit, id)
			}
			id = ""
		case step == 2:
			err = action(limit, c, id, compute.StateStopped, c.Stop)
		case step == 3:
			err = action(limit, c, id, compute.StateActive, c.Start)
		default:
			err = action(limit, c, id, compute.StateActive, func(ctx context.Context, id string) error { return c.Reboot(ctx, id, true) })
		}
		end()
		if err != nil {
			s.Violated("%s, operation %d: %v", name, n, err)
			return done
		}
		done++
	}
	return done
}

// action does something to an instance and waits for the state that it leads to. A guest that fell by itself is in no state for
// some actions: that is an answer too.
func action(ctx context.Context, c *compute.Service, id string, leads compute.State, do func(context.Context, string) error) error {
	if err := do(ctx, id); err != nil {
		if errdefs.IsFailedPrecondition(err) {
			return nil
		}
		return err
	}
	_, err := c.Wait(ctx, id, func(i compute.Instance) bool {
		return i.Task == compute.TaskNone && (i.State == leads || i.Fault != "")
	})
	return err
}
