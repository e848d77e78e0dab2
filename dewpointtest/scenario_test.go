package dewpointtest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/dewpointtest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// The scenarios are the known failures of clouds. Each has a mechanism that prevents it, and fails without it.

// records returns all instances as they are on record.
func records(s *dewpointtest.Sim) (all []compute.Instance) {
	_ = s.View(func(v *state.View) error {
		for i := range compute.Instances.All(v) {
			all = append(all, i)
		}
		return nil
	})
	return all
}

// mustRun makes n instances and returns them; they need not be active yet.
func mustRun(ctx context.Context, s *dewpointtest.Sim, n int, change func(*compute.RunRequest)) []compute.Instance {
	req := s.Request("web")
	req.MaxCount = n
	if change != nil {
		change(&req)
	}
	made, err := s.Services(0).Compute.Run(ctx, req)
	if err != nil {
		s.Violated("instances can't be made: %v", err)
	}
	return made
}

// mustBe says that all instances on record must be n, and in a state.
func mustBe(s *dewpointtest.Sim, n int, status string) {
	all := records(s)
	if len(all) != n {
		s.Violated("there are %d instances, must be %d", len(all), n)
	}
	for _, i := range all {
		if i.Status() != status {
			s.Violated("instance %s is %s, must be %s", i.ID, i.Status(), status)
		}
	}
}

// must says that something is done within a minute.
func must(ctx context.Context, s *dewpointtest.Sim, what string, do func(ctx context.Context) error) {
	ctx, end := context.WithTimeout(ctx, time.Minute)
	defer end()
	if err := do(ctx); err != nil {
		s.Violated("%s: %v", what, err)
	}
}

// A cast that is lost leaves an instance in BUILD for ever. Here all of them are.
func TestEveryCastIsLost(t *testing.T) {
	prove(t, dewpointtest.Config{Faults: dewpointtest.Faults{Lose: 1}, Script: func(ctx context.Context, s *dewpointtest.Sim) {
		mustRun(ctx, s, 5, nil)
		time.Sleep(30 * time.Second)
		mustBe(s, 5, "ACTIVE")
	}}, func(_ dewpointtest.Process, cfg *dewpoint.Config) { cfg.Tick = 1000 * time.Hour })
}

// The answer is lost though the work was done, and the caller asks again, elsewhere, where nothing is known of it yet.
func TestAnAnswerIsLost(t *testing.T) {
	var lost atomic.Bool
	prove(t, dewpointtest.Config{Controllers: 2,
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			switch p {
			case dewpointtest.Controller(0):
				cfg.Log = unanswered{cfg.Log, &lost}
			case dewpointtest.Controller(1):
				cfg.Log = lateLog{cfg.Log}
			}
		},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			time.Sleep(10 * time.Second)
			req := s.Request("web")
			req.Token = "once"
			lost.Store(true)
			_, err := s.Services(0).Compute.Run(ctx, req)
			lost.Store(false)
			if !errdefs.IsUnknown(err) {
				s.Violated("the answer was lost, and the error is %v", err)
			}
			must(ctx, s, "the second request", func(ctx context.Context) error {
				made, err := s.Services(1).Compute.Run(ctx, req)
				if err == nil && len(made) != 1 {
					s.Violated("the second request made %d", len(made))
				}
				return err
			})
			s.Settle(ctx)
			mustBe(s, 1, "ACTIVE")
		}}, withoutGuards)
}

// A node dies at each place of a launch, and of a termination, and nobody knows whether the work is still queued or died
// half-way.
func TestQueuedOrDiedHalfWay(t *testing.T) {
	prove(t, dewpointtest.Config{Hosts: 1, Script: func(ctx context.Context, s *dewpointtest.Sim) {
		for n := 1; n <= 24; n++ {
			s.KillAt(dewpointtest.Node(0), n)
			made := mustRun(ctx, s, 1, nil)
			if len(made) == 0 {
				return
			}
			time.Sleep(40 * time.Second)
			mustBe(s, 1, "ACTIVE")
			s.KillAt(dewpointtest.Node(0), n)
			must(ctx, s, "terminate", func(ctx context.Context) error { return s.Services(0).Compute.Terminate(ctx, made[0].ID) })
			must(ctx, s, "is not gone", func(ctx context.Context) error { return s.Services(0).Compute.WaitGone(ctx, made[0].ID) })
			if len(s.CheckNow()) > 0 || len(records(s)) > 0 {
				return
			}
		}
	}}, func(_ dewpointtest.Process, cfg *dewpoint.Config) { cfg.Log = forgets{cfg.Log, "r/operation/"} })
}

// A host gets another name, and its instances are still its own.
func TestAHostIsRenamed(t *testing.T) {
	var renamed atomic.Bool
	prove(t, dewpointtest.Config{Hosts: 1,
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node && renamed.Load() {
				cfg.Host.Name = "another-name"
			}
		},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			renamed.Store(false)
			made := mustRun(ctx, s, 2, nil)
			time.Sleep(10 * time.Second)
			mustBe(s, 2, "ACTIVE")
			renamed.Store(true)
			s.Kill(dewpointtest.Node(0))
			time.Sleep(10 * time.Second)
			mustBe(s, 2, "ACTIVE")
			must(ctx, s, "terminate", func(ctx context.Context) error { return s.Services(0).Compute.Terminate(ctx, made[0].ID) })
			must(ctx, s, "is not gone", func(ctx context.Context) error { return s.Services(0).Compute.WaitGone(ctx, made[0].ID) })
		}},
		func(p dewpointtest.Process, cfg *dewpoint.Config) { // who is known by the name
			if p.Node && renamed.Load() {
				cfg.Host.ID = "ffffffff-0000-4000-8000-000000000000"
			}
		})
}

// A host whose id is lost finds machines that it knows nothing of. It must not guess.
func TestAHostLosesItsID(t *testing.T) {
	var lost atomic.Bool
	var sim atomic.Pointer[dewpointtest.Sim]
	prove(t, dewpointtest.Config{Hosts: 1,
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node && lost.Load() {
				cfg.Host.ID, cfg.Host.Name = "ffffffff-0000-4000-8000-000000000000", "new"
			}
		},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			sim.Store(s)
			mustRun(ctx, s, 2, nil)
			time.Sleep(10 * time.Second)
			mustBe(s, 2, "ACTIVE")
			lost.Store(true)
			s.Kill(dewpointtest.Node(0))
			time.Sleep(10 * time.Minute)
			running := 0
			for _, d := range s.Hosts[0].Machines.Domains() {
				if d.Power == compute.PowerRunning {
					running++
				}
			}
			if running != 2 {
				s.Violated("%d machines run on a host that lost its id, must be 2", running)
			}
			lost.Store(false) // its id is found again
			s.Kill(dewpointtest.Node(0))
			s.Settle(ctx)
			mustBe(s, 2, "ACTIVE")
		}},
		func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node && lost.Load() {
				cfg.Hypervisor = purges{cfg.Hypervisor, sim.Load, cfg.Host.ID}
			}
		})
}

// A host's directory was copied, and its agent is started twice.
func TestTwoAgentsOfOneHost(t *testing.T) {
	var mu sync.Mutex
	var first dewpoint.Config
	prove(t, dewpointtest.Config{Hosts: 1,
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node {
				mu.Lock()
				defer mu.Unlock()
				first = *cfg
			}
		},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			mustRun(ctx, s, 1, nil)
			mu.Lock()
			copied := first
			mu.Unlock()
			second, err := dewpoint.New(copied)
			if err != nil {
				s.Violated("%v", err)
				return
			}
			ctx, end := context.WithTimeout(ctx, 30*time.Second)
			defer end()
			if err := second.Run(ctx); !errdefs.IsAlreadyExists(err) {
				s.Violated("a second agent of a host may run: %v", err)
			}
		}},
		func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node {
				cfg.MessageBus = deaf{cfg.MessageBus, ".who"}
				mu.Lock()
				defer mu.Unlock()
				first = *cfg
			}
		})
}

// Launches fail, and what they had claimed comes back: room, addresses, quota.
func TestNothingLeaks(t *testing.T) {
	prove(t, dewpointtest.Config{Hosts: 1,
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node {
				cfg.Hypervisor = refuses{cfg.Hypervisor}
			}
		},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			mustRun(ctx, s, 5, nil)
			s.Settle(ctx)
			mustBe(s, 5, "ERROR")
			_ = s.View(func(v *state.View) error {
				if use := compute.HostUse.Get(v, s.Hosts[0].ID); use != (scheduler.Resources{}) {
					s.Violated("instances that failed take %+v", use)
				}
				return nil
			})
		}, Clean: true},
		func(_ dewpointtest.Process, cfg *dewpoint.Config) { cfg.Log = keeps{cfg.Log, "r/fixed"} })
}

// Two controllers give out the rest of a quota at the same time.
func TestTheRestOfAQuota(t *testing.T) {
	prove(t, dewpointtest.Config{Controllers: 2, Process: slowly, Script: func(ctx context.Context, s *dewpointtest.Sim) {
		atOnce(ctx, s, func(ctx context.Context, c *compute.Service) error {
			req := s.Request("web")
			req.MaxCount = 6 // of 10
			_, err := c.Run(ctx, req)
			return err
		}, errdefs.IsResourceExhausted)
	}}, withoutGuards)
}

// Two controllers give out the last place at the same time.
func TestTheLastPlace(t *testing.T) {
	prove(t, dewpointtest.Config{Controllers: 2, Hosts: 1, Process: slowly, Total: scheduler.Resources{VCPUs: 1, MemoryMiB: 512, DiskGiB: 1},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			atOnce(ctx, s, func(ctx context.Context, c *compute.Service) error {
				_, err := c.Run(ctx, s.Request("web"))
				return err
			}, errdefs.IsResourceExhausted)
		}}, withoutGuards)
}

// Two people do different things to one instance at the same time.
func TestOneThingAtATime(t *testing.T) {
	prove(t, dewpointtest.Config{Controllers: 2, Hosts: 1, Process: slowly, Script: func(ctx context.Context, s *dewpointtest.Sim) {
		made := mustRun(ctx, s, 1, nil)
		time.Sleep(20 * time.Second)
		mustBe(s, 1, "ACTIVE")
		var calls atomic.Int64
		atOnce(ctx, s, func(ctx context.Context, c *compute.Service) error {
			if calls.Add(1) == 1 {
				return c.Stop(ctx, made[0].ID)
			}
			return c.Reboot(ctx, made[0].ID, true)
		}, errdefs.IsFailedPrecondition)
	}}, withoutGuards)
}

// atOnce does something on two controllers at once, of which one must be refused.
func atOnce(ctx context.Context, s *dewpointtest.Sim, do func(context.Context, *compute.Service) error, refused func(error) bool) {
	var both sync.WaitGroup
	var done, not atomic.Int64
	for n := range 2 {
		both.Go(func() {
			switch err := do(ctx, s.Services(n).Compute); {
			case err == nil:
				done.Add(1)
			case refused(err):
				not.Add(1)
			default:
				s.Violated("controller %d: %v", n, err)
			}
		})
	}
	both.Wait()
	if done.Load() != 1 || not.Load() != 1 {
		s.Violated("%d requests were granted and %d refused, must be one each", done.Load(), not.Load())
	}
}

// Instances are deleted at every instant of their launch, their stop and their start, and their node dies meanwhile.
func TestDeletedInEveryState(t *testing.T) {
	prove(t, dewpointtest.Config{Hosts: 1, Clean: true, Faults: dewpointtest.Faults{SlowDriver: 0.5, SlowDisk: 0.5},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			for n := 1; n <= 12; n++ {
				c := s.Services(0).Compute
				made := mustRun(ctx, s, 1, nil)
				if len(made) == 0 {
					return
				}
				patient, end := context.WithTimeout(ctx, 10*time.Minute) // all calls of a launch may be slow
				if n%3 > 0 {
					if _, err := c.WaitActive(patient, made[0].ID); err != nil {
						s.Violated("an instance is not active: %v", err)
					}
					_ = c.Stop(ctx, made[0].ID)
				}
				if n%3 > 1 {
					time.Sleep(30 * time.Second)
					_ = c.Start(ctx, made[0].ID)
				}
				time.Sleep(time.Duration(n) * 300 * time.Millisecond)
				s.KillAt(dewpointtest.Node(0), n)
				must(ctx, s, "terminate", func(ctx context.Context) error { return c.Terminate(ctx, made[0].ID) })
				if err := c.WaitGone(patient, made[0].ID); err != nil {
					s.Violated("an instance is not gone: %v", err)
				}
				end()
			}
		}},
		func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node {
				cfg.Hypervisor = lies{cfg.Hypervisor}
			}
		})
}

// A node, then the controller, is cut off from the log and the bus for a minute, in the middle of work.
func TestAPartition(t *testing.T) {
	var skip atomic.Bool
	for _, who := range []dewpointtest.Process{dewpointtest.Node(0), dewpointtest.Controller(1)} {
		t.Run(fmt.Sprint(who), func(t *testing.T) {
			prove(t, dewpointtest.Config{Hosts: 1, Controllers: 2, Clean: true, Script: func(ctx context.Context, s *dewpointtest.Sim) {
				mustRun(ctx, s, 2, nil)
				s.Partition(who)
				skip.Store(true)
				mustRun(ctx, s, 2, nil)
				time.Sleep(time.Minute)
				s.Heal(who)
				time.Sleep(time.Second)
				skip.Store(false)
				time.Sleep(30 * time.Second)
				mustBe(s, 4, "ACTIVE")
				all, err := s.Services(1).Compute.List(ctx, compute.ListOptions{})
				if err != nil || len(all) != 4 {
					s.Violated("the other controller knows %d instances, must be 4 (%v)", len(all), err)
				}
			}},
				func(p dewpointtest.Process, cfg *dewpoint.Config) {
					if p == who {
						cfg.Log = gaps{cfg.Log, &skip}
					}
				})
		})
	}
}

// A host is dead. Nothing goes there any more, and what is there waits for it.
func TestAHostIsDead(t *testing.T) {
	prove(t, dewpointtest.Config{Script: func(ctx context.Context, s *dewpointtest.Sim) {
		s.PowerOff(0)
		time.Sleep(2 * time.Minute)
		mustRun(ctx, s, 4, nil)
		time.Sleep(30 * time.Second)
		mustBe(s, 4, "ACTIVE")
		for _, i := range records(s) {
			if i.HostID != s.Hosts[1].ID {
				s.Violated("instance %s was placed on a host that is dead", i.ID)
			}
		}
		s.PowerOn(0)
	}}, func(p dewpointtest.Process, cfg *dewpoint.Config) {
		var alive []scheduler.Filter
		for _, f := range scheduler.DefaultFilters(scheduler.Ratios{}) {
			if f.Name != "up" {
				alive = append(alive, f)
			}
		}
		cfg.Scheduler, _ = scheduler.New(scheduler.Config{Used: dewpoint.HostUse, Filters: alive})
	})
}

// An image is deleted and its machine runs on: the host's copy is the machine's base, and is not to be tidied away.
func TestTheImageOfARunningMachineIsDeleted(t *testing.T) {
	testneed.Tools(t, "qemu-img", "prlimit")
	dir := t.TempDir()
	var sim atomic.Pointer[dewpointtest.Sim]
	prove(t, dewpointtest.Config{Hosts: 1, Clean: true,
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			cfg.Heartbeat, cfg.Tick, cfg.Repair, cfg.Sync = 5*time.Minute, 10*time.Minute, time.Hour, time.Hour
			if p.Node {
				cfg.Disks, cfg.Dir = nil, filepath.Join(dir, "node")
			}
		},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			sim.Store(s)
			c := s.Services(0)
			made := mustRun(ctx, s, 1, nil)
			must(ctx, s, "is not active", func(ctx context.Context) error { _, err := c.Compute.WaitActive(ctx, made[0].ID); return err })
			must(ctx, s, "the image stays", func(ctx context.Context) error { return c.Images.Delete(ctx, s.Image) })
			time.Sleep(26 * time.Hour) // longer than an unused copy is kept
			m, ok := s.Hosts[0].Machines.Machine(made[0].ID)
			if !ok || len(m.Disks) == 0 || len(m.Disks[0].Backing) == 0 {
				s.Violated("the machine has no disk with a base: %+v", m.Disks)
				return
			}
			if _, err := os.Stat(m.Disks[0].Backing[0].Path); err != nil {
				s.Violated("the base of a machine that runs is gone: %v", err)
			}
			must(ctx, s, "can't be stopped", func(ctx context.Context) error { return c.Compute.Stop(ctx, made[0].ID) })
			s.Settle(ctx)
			must(ctx, s, "can't be started", func(ctx context.Context) error { return c.Compute.Start(ctx, made[0].ID) })
			s.Settle(ctx)
			mustBe(s, 1, "ACTIVE")
		}},
		func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node {
				cfg.Hypervisor = &tidies{Hypervisor: cfg.Hypervisor, sim: sim.Load}
			}
		})
}

// When the cloud has settled, a controller that is always late knows it too.
func TestAControllerIsLate(t *testing.T) {
	require.Empty(t, dewpointtest.Simulate(t, dewpointtest.Config{Hosts: 1,
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if !p.Node {
				cfg.Log = lateLog{cfg.Log}
			}
		},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			made := mustRun(ctx, s, 1, nil)
			c := s.Services(0).Compute
			for range 5 {
				s.Settle(ctx)
				must(ctx, s, "can't be stopped", func(ctx context.Context) error { return c.Stop(ctx, made[0].ID) })
				s.Settle(ctx)
				must(ctx, s, "can't be started", func(ctx context.Context) error { return c.Start(ctx, made[0].ID) })
			}
			s.Settle(ctx)
			mustBe(s, 1, "ACTIVE")
		}}))
}

// A message overtakes the record that it tells of: the node hears the bell, looks, and there is nothing yet.
func TestTheBellIsFasterThanTheRecord(t *testing.T) {
	cfg := dewpointtest.Config{Hosts: 1,
		Process: func(p dewpointtest.Process, cfg *dewpoint.Config) {
			if p.Node {
				cfg.Log, cfg.Tick = lateLog{cfg.Log}, 1000*time.Hour
			}
		},
		Script: func(ctx context.Context, s *dewpointtest.Sim) {
			time.Sleep(time.Minute)
			mustRun(ctx, s, 1, nil)
			time.Sleep(time.Minute)
			mustBe(s, 1, "ACTIVE")
		}, Patience: 5 * time.Minute}
	require.Empty(t, dewpointtest.Simulate(t, cfg))
}
