package computetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fakeEnv(h *fakecompute.Hypervisor) Env {
	host := h.Host()
	return Env{
		Driver: h, Dir: "/console", Patience: 5 * time.Second, Banner: "fakecompute: ",
		Machine: func() (compute.Machine, error) {
			id := uuid.NewString()
			return compute.Machine{
				ID: id, Epoch: 7, Name: "m", VCPUs: 1, MemoryMiB: 64, Kernel: "/kernel", ConsoleLog: "/console/" + id,
			}, nil
		},
		PowerOff: host.PowerOff, Crash: host.Crash, Deaf: host.Deaf,
		Foreign: func() (string, func(), error) {
			id := uuid.NewString()
			host.AddForeign(compute.Domain{ID: id, Name: "theirs"})
			return id, func() { host.Remove(id) }, nil
		},
		Restart: func() error { host.Restart(); return nil },
	}
}

func TestFake(t *testing.T) {
	TestHypervisor(t, func(t *testing.T) Env { return fakeEnv(fakecompute.New(fakecompute.Config{})) })
}

// TestBareEnv runs the suite with nothing that is optional.
func TestBareEnv(t *testing.T) {
	full := fakeEnv(fakecompute.New(fakecompute.Config{}))
	TestHypervisor(t, func(t *testing.T) Env { return Env{Driver: full.Driver, Machine: full.Machine, Dir: full.Dir} })
}

func TestRulesAreInTheContract(t *testing.T) {
	source, err := os.ReadFile("../hypervisor.go")
	require.NoError(t, err)
	contract := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), " ")), " ")
	names := map[string]bool{}
	for _, r := range rows() {
		require.Contains(t, contract, strings.Join(strings.Fields(r.rule), " "), r.name)
		require.False(t, names[r.name], "two rows are named %q", r.name)
		names[r.name] = true
	}
}

// broken is a driver with one thing wrong.
type broken struct {
	compute.Hypervisor
	create  func(context.Context, compute.Machine) error
	destroy func(context.Context, string, uint64) error
	start   func(context.Context, string) error
	stop    func(context.Context, string, time.Duration) error
	reboot  func(context.Context, string, bool) error
	pause   func(context.Context, string) error
	resume  func(context.Context, string) error
	list    func(context.Context) ([]compute.Domain, error)
	events  func(context.Context) iter.Seq[compute.PowerEvent]
	console func(context.Context, string, int) ([]byte, error)
	info    *compute.HostInfo
}

func (b *broken) Create(ctx context.Context, m compute.Machine) error { return b.create(ctx, m) }
func (b *broken) Destroy(ctx context.Context, id string, epoch uint64) error {
	return b.destroy(ctx, id, epoch)
}
func (b *broken) Start(ctx context.Context, id string) error { return b.start(ctx, id) }
func (b *broken) Stop(ctx context.Context, id string, grace time.Duration) error {
	return b.stop(ctx, id, grace)
}
func (b *broken) Reboot(ctx context.Context, id string, hard bool) error {
	return b.reboot(ctx, id, hard)
}
func (b *broken) Pause(ctx context.Context, id string) error         { return b.pause(ctx, id) }
func (b *broken) Resume(ctx context.Context, id string) error        { return b.resume(ctx, id) }
func (b *broken) List(ctx context.Context) ([]compute.Domain, error) { return b.list(ctx) }
func (b *broken) Events(ctx context.Context) iter.Seq[compute.PowerEvent] {
	return b.events(ctx)
}
func (b *broken) Console(ctx context.Context, id string, max int) ([]byte, error) {
	return b.console(ctx, id, max)
}
func (b *broken) Describe(ctx context.Context) (compute.HostInfo, error) {
	if b.info != nil {
		return *b.info, ctx.Err()
	}
	return b.Hypervisor.Describe(ctx)
}

func TestSuiteFindsBrokenDrivers(t *testing.T) {
	for _, c := range []struct {
		fault string
		rows  []string // which must fail
		spoil func(b *broken, h compute.Hypervisor, host *fakecompute.Host)
	}{
		{"create forgets to start", []string{"create runs"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.create = func(ctx context.Context, m compute.Machine) error {
				return errors.Join(h.Create(ctx, m), h.Stop(ctx, m.ID, 0))
			}
		}},
		{"create is not idempotent", []string{"create again while it runs"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.create = func(ctx context.Context, m compute.Machine) error {
				if _, there := host.Machine(m.ID); there {
					return errdefs.ErrAlreadyExists
				}
				return h.Create(ctx, m)
			}
		}},
		{"create leaves a paused one paused", []string{"create again while it is paused"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.create = func(ctx context.Context, m compute.Machine) error {
				if _, there := host.Machine(m.ID); there {
					return nil
				}
				return h.Create(ctx, m)
			}
		}},
		{"create starts with the old parts", []string{"create again when it is off"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.create = func(ctx context.Context, m compute.Machine) error {
				if old, there := host.Machine(m.ID); there {
					host.Print(m.ID, strings.Repeat(" ", 64<<10)) // what came before is another file's
					if old.Epoch == m.Epoch {
						m.ConsoleLog = ""
					}
				}
				return h.Create(ctx, m)
			}
		}},
		{"create replaces another epoch", []string{"create with another epoch"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.create = func(ctx context.Context, m compute.Machine) error {
				if old, there := host.Machine(m.ID); there && old.Epoch != m.Epoch {
					host.Remove(m.ID)
				}
				return h.Create(ctx, m)
			}
		}},
		{"create takes any machine", []string{"create refuses a bad machine"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.create = func(ctx context.Context, m compute.Machine) error {
				m.VCPUs = max(m.VCPUs, 1)
				return h.Create(ctx, m)
			}
		}},
		{"create takes over foreign domains", []string{"create where a foreign domain is"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.create = func(ctx context.Context, m compute.Machine) error {
				if _, ours := host.Machine(m.ID); !ours {
					host.Remove(m.ID)
				}
				return h.Create(ctx, m)
			}
		}},
		{"destroy does nothing", []string{"destroy forgets, from every state", "create many at once", "create after destroy"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.destroy = func(ctx context.Context, id string, epoch uint64) error { return ctx.Err() }
		}},
		{"destroy is not idempotent", []string{"destroy again"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.destroy = func(ctx context.Context, id string, epoch uint64) error {
				if _, there := host.Machine(id); !there {
					return errdefs.ErrNotFound
				}
				return h.Destroy(ctx, id, epoch)
			}
		}},
		{"destroy does not look at the epoch", []string{"destroy another's epoch", "create after destroy"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.destroy = func(ctx context.Context, id string, epoch uint64) error {
				m, _ := host.Machine(id)
				return h.Destroy(ctx, id, m.Epoch)
			}
		}},
		{"destroy takes foreign domains", []string{"destroy a foreign domain"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.destroy = func(ctx context.Context, id string, epoch uint64) error {
				if _, ours := host.Machine(id); !ours {
					host.Remove(id)
				}
				return h.Destroy(ctx, id, epoch)
			}
		}},
		{"start resumes a paused one", []string{"start"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.start = func(ctx context.Context, id string) error {
				if err := h.Start(ctx, id); err != nil && ctx.Err() == nil {
					return h.Resume(ctx, id)
				}
				return ctx.Err()
			}
		}},
		{"stop asks and does not insist", []string{"stop after grace"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.stop = func(ctx context.Context, id string, grace time.Duration) error {
				if grace == 100*time.Millisecond {
					return nil
				}
				return h.Stop(ctx, id, grace)
			}
		}},
		{"stop does not ask", []string{"stop lets the guest end"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.stop = func(ctx context.Context, id string, grace time.Duration) error {
				if m, _ := host.Machine(id); m.ID == id && ctx.Err() == nil {
					time.Sleep(grace)
				}
				return h.Stop(ctx, id, 0)
			}
		}},
		{"stop forgets the domain", []string{"stop at once", "stop again"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.stop = func(ctx context.Context, id string, grace time.Duration) error {
				m, _ := host.Machine(id)
				return h.Destroy(ctx, id, m.Epoch)
			}
		}},
		{"reboot takes what is paused", []string{"reboot what does not run"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.reboot = func(ctx context.Context, id string, hard bool) error {
				if err := h.Reboot(ctx, id, hard); err != nil && !errdefs.IsFailedPrecondition(err) {
					return err
				}
				return nil
			}
		}},
		{"reboot does nothing", []string{"reboot soft", "reboot hard"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.reboot = func(ctx context.Context, id string, hard bool) error { return ctx.Err() }
		}},
		{"pause does nothing", []string{"pause"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.pause = func(ctx context.Context, id string) error { return ctx.Err() }
		}},
		{"resume starts what is off", []string{"resume"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.resume = func(ctx context.Context, id string) error {
				if err := h.Resume(ctx, id); err != nil {
					return h.Start(ctx, id)
				}
				return nil
			}
		}},
		{"list hides what is off", []string{"stop at once"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.list = func(ctx context.Context) (on []compute.Domain, err error) {
				all, err := h.List(ctx)
				for _, d := range all {
					if d.Power != compute.PowerShutoff {
						on = append(on, d)
					}
				}
				return on, err
			}
		}},
		{"list takes all for ours", []string{"list names foreign domains"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.list = func(ctx context.Context) ([]compute.Domain, error) {
				all, err := h.List(ctx)
				for i := range all {
					all[i].Ours = true
				}
				return all, err
			}
		}},
		{"list cuts the epoch to 32 bits", []string{"list keeps machines apart"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.list = func(ctx context.Context) ([]compute.Domain, error) {
				all, err := h.List(ctx)
				for i := range all {
					all[i].Epoch = uint64(uint32(all[i].Epoch))
				}
				return all, err
			}
		}},
		{"an unknown id is success", []string{"an unknown id", "a foreign id"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.start = func(ctx context.Context, id string) error {
				if err := h.Start(ctx, id); !errdefs.IsNotFound(err) {
					return err
				}
				return nil
			}
		}},
		{"a crash is a normal end", []string{"a crash"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.list = func(ctx context.Context) ([]compute.Domain, error) {
				all, err := h.List(ctx)
				for i := range all {
					if all[i].Power == compute.PowerCrashed {
						all[i].Power = compute.PowerShutoff
					}
				}
				return all, err
			}
		}},
		{"describe tells nothing", []string{"describe"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.info = &compute.HostInfo{Hypervisor: "fake"}
		}},
		{"the context's error is wrapped", []string{"a context that ended"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.list = func(ctx context.Context) ([]compute.Domain, error) {
				all, err := h.List(ctx)
				if err != nil {
					err = fmt.Errorf("list: %w", err)
				}
				return all, err
			}
		}},
		{"the context is not looked at", []string{"a context that ended", "a context that ends during a stop"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.stop = func(ctx context.Context, id string, grace time.Duration) error {
				return h.Stop(context.WithoutCancel(ctx), id, min(grace, time.Second))
			}
		}},
		{"a create that was cut short is not settled", []string{"a context that ends during a create"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.create = func(ctx context.Context, m compute.Machine) error {
				if err := h.Create(ctx, m); err != nil {
					m.Epoch++
					return errors.Join(h.Create(context.WithoutCancel(ctx), m), err)
				}
				return nil
			}
		}},
		{"events without the first", []string{"the first event", "events of calls"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.events = func(ctx context.Context) iter.Seq[compute.PowerEvent] {
				return func(yield func(compute.PowerEvent) bool) {
					for e := range h.Events(ctx) {
						if !e.Resync && !yield(e) {
							return
						}
					}
				}
			}
		}},
		{"events without the last", []string{"events of calls"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.events = func(ctx context.Context) iter.Seq[compute.PowerEvent] {
				return func(yield func(compute.PowerEvent) bool) {
					for e := range h.Events(ctx) {
						if e.Power != compute.PowerShutoff && !yield(e) {
							return
						}
					}
				}
			}
		}},
		{"events end with the connection", []string{"a hypervisor that restarts"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.events = func(ctx context.Context) iter.Seq[compute.PowerEvent] {
				return func(yield func(compute.PowerEvent) bool) {
					first := true
					for e := range h.Events(ctx) {
						if e.Resync && !first || !yield(e) {
							return
						}
						first = false
					}
				}
			}
		}},
		{"a consumer holds up calls", []string{"a slow consumer"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			var mu sync.Mutex
			b.events = func(ctx context.Context) iter.Seq[compute.PowerEvent] {
				return func(yield func(compute.PowerEvent) bool) {
					mu.Lock()
					defer mu.Unlock()
					yield(compute.PowerEvent{Resync: true})
				}
			}
			b.pause = func(ctx context.Context, id string) error {
				for !mu.TryLock() {
					if ctx.Err() != nil {
						return ctx.Err()
					}
				}
				mu.Unlock()
				return h.Pause(ctx, id)
			}
		}},
		{"a destroyed one comes back", []string{"a destroy of what is just being created"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.destroy = func(ctx context.Context, id string, epoch uint64) error {
				m, _ := host.Machine(id)
				return errors.Join(h.Destroy(ctx, id, epoch), h.Create(ctx, m))
			}
		}},
		{"console from the beginning", []string{"console"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.console = func(ctx context.Context, id string, n int) ([]byte, error) {
				all, err := h.Console(ctx, id, max(n, n<<16))
				return all[:min(len(all), max(n, 0))], err
			}
		}},
		{"console of this run alone", []string{"console across restarts", "reboot hard"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.console = func(ctx context.Context, id string, n int) ([]byte, error) {
				all, err := h.Console(ctx, id, n)
				return all[max(0, strings.LastIndex(string(all), "fakecompute: ")):], err
			}
		}},
		{"console must have been written", []string{"console before anything was written"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.console = func(ctx context.Context, id string, n int) ([]byte, error) {
				all, err := h.Console(ctx, id, n)
				if err == nil && len(all) == 0 {
					err = os.ErrNotExist
				}
				return all, err
			}
		}},
		{"console takes any max", []string{"console of nothing"}, func(b *broken, h compute.Hypervisor, host *fakecompute.Host) {
			b.console = func(ctx context.Context, id string, n int) ([]byte, error) { return h.Console(ctx, id, max(n, 1)) }
		}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			for _, name := range c.rows {
				h := fakecompute.New(fakecompute.Config{})
				b := &broken{
					Hypervisor: h, create: h.Create, destroy: h.Destroy, start: h.Start, stop: h.Stop, reboot: h.Reboot, pause: h.Pause,
					resume: h.Resume, list: h.List, events: h.Events, console: h.Console,
				}
				c.spoil(b, h, h.Host())
				env := fakeEnv(h)
				env.Driver, env.Patience = b, 300*time.Millisecond
				found := false
				for _, r := range rows() {
					if r.name == name {
						found = true
						require.Error(t, r.check(t.Context(), &bench{Env: env}), "row %q did not notice", name)
					}
				}
				require.True(t, found, "no row %q", name)
			}
		})
	}
}

func TestSuiteCleansUp(t *testing.T) {
	h := fakecompute.New(fakecompute.Config{})
	for _, r := range rows() {
		require.NoError(t, r.run(t.Context(), fakeEnv(h)), r.name)
		require.Empty(t, h.Host().Domains(), r.name)
	}
}
