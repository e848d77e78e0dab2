package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/computetest"
)

// overFake returns a driver over a fake of the wire.
func overFake(t *testing.T, cfg Config) (*Hypervisor, *fakeDaemon) {
	cfg.Type = "qemu"
	h, err := New(cfg)
	require.NoError(t, err)
	f := newFakeDaemon()
	h.pool = newPool(h.cfg.Connections, f.dial)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h, f
}

func testMachine(dir string) compute.Machine {
	id := uuid.NewString()
	return compute.Machine{
		ID: id, Epoch: 5, Name: "m", VCPUs: 1, MemoryMiB: 64, Kernel: "/kernel", ConsoleLog: filepath.Join(dir, id),
	}
}

func TestContractOverFakeWire(t *testing.T) {
	computetest.TestHypervisor(t, func(t *testing.T) computetest.Env { env, _ := fakeWireEnv(t); return env })
}

// TestPluggerOverFakeWire finds no secret left in libvirtd, either.
func TestPluggerOverFakeWire(t *testing.T) {
	for name, disk := range map[string]compute.Disk{
		"file": {Path: "/disk", Format: "raw", Device: "vdx"},
		"iSCSI": {Format: "raw", Device: "vdx", ISCSI: &compute.ISCSI{Portal: "[::1]:3260", IQN: "iqn.2026-01.example:v", Initiator: "iqn.2026-01.example:h",
			User: "u", Secret: "s"}},
	} {
		t.Run(name, func(t *testing.T) {
			computetest.TestPlugger(t, func(t *testing.T) computetest.PlugEnv {
				env, f := fakeWireEnv(t)
				t.Cleanup(func() {
					f.mu.Lock()
					defer f.mu.Unlock()
					require.Empty(t, f.secrets)
					if name == "iSCSI" {
						require.GreaterOrEqual(t, f.calls["SecretSetValue"], f.calls["DomainAttachDeviceFlags"])
					} else {
						require.Zero(t, f.calls["SecretSetValue"])
					}
				})
				return computetest.PlugEnv{Env: env, Disk: func() (compute.Disk, error) {
					d := disk
					d.Serial = uuid.NewString()[:20]
					return d, nil
				}, Enlarge: func(compute.Disk, int64) error { return nil }, Size: func(id string, d compute.Disk) (int64, error) {
					f.mu.Lock()
					defer f.mu.Unlock()
					size, err := f.domains[golibvirt.UUID(uuid.MustParse(id))].size(d.Device)
					if err != nil {
						return 0, err
					}
					return int64(*size), nil
				}}
			})
		})
	}
}

func fakeWireEnv(t *testing.T) (computetest.Env, *fakeDaemon) {
	h, f := overFake(t, Config{})
	dir := t.TempDir()
	control := &fakeConn{d: f, lost: make(chan struct{})}
	domain := func(id string) golibvirt.Domain { return golibvirt.Domain{UUID: golibvirt.UUID(uuid.MustParse(id))} }
	env := computetest.Env{
		Driver: h, Dir: dir, Banner: "fake: boots",
		Machine:  func() (compute.Machine, error) { return testMachine(dir), nil },
		PowerOff: func(id string) error { return control.DomainShutdownFlags(domain(id), 0) },
		Crash: func(id string) error {
			return control.with("crash", domain(id), func(d *fakeDomain) error {
				control.off(d, golibvirt.DomainShutoffCrashed, golibvirt.DomainEventStoppedFailed)
				return nil
			})
		},
		Foreign: func() (string, func(), error) {
			id := uuid.NewString()
			d, err := control.DomainDefineXMLFlags(fmt.Sprintf("<domain><name>theirs</name><uuid>%s</uuid></domain>", id), 0)
			if err == nil {
				_, err = control.DomainCreateWithFlags(d, 0)
			}
			return id, func() {
				f.mu.Lock()
				delete(f.domains, d.UUID)
				f.mu.Unlock()
			}, err
		},
		Restart: func() error { f.restart(); return nil },
	}
	return env, f
}

// TestFailAtEveryCall breaks Create and Destroy at their n-th call of libvirt, before and after it had its effect, for n = 1,
// 2, … until they pass, and checks that repeating them settles it.
func TestFailAtEveryCall(t *testing.T) {
	dir := t.TempDir()
	for _, how := range []error{errCut, failure(golibvirt.ErrInternalError, "internal error: no luck")} {
		for _, after := range []bool{false, true} {
			for n := 1; ; n++ {
				h, f := overFake(t, Config{})
				m, ctx := testMachine(dir), t.Context()
				count := 0
				fault := func(string) error {
					if count++; count == n {
						return how
					}
					return nil
				}
				arm := func(on bool) {
					f.mu.Lock()
					defer f.mu.Unlock()
					count, f.fault, f.after = 0, nil, nil
					switch {
					case on && after:
						f.after = fault
					case on:
						f.fault = fault
					}
				}
				arm(true)
				created := h.Create(ctx, m)
				arm(false)
				require.NoError(t, h.Create(ctx, m), "call %d", n)
				all, err := h.List(ctx)
				require.NoError(t, err)
				require.Equal(t, []compute.Domain{{ID: m.ID, Name: "instance-" + m.ID, Epoch: m.Epoch, Ours: true, Power: compute.PowerRunning}}, all)
				arm(true)
				destroyed := h.Destroy(ctx, m.ID, m.Epoch)
				arm(false)
				require.NoError(t, h.Destroy(ctx, m.ID, m.Epoch), "call %d", n)
				require.Empty(t, f.domains)
				for _, err := range []error{created, destroyed} {
					if err != nil && how == errCut {
						require.ErrorIs(t, err, errdefs.ErrUnavailable)
					} else if err != nil {
						require.ErrorIs(t, err, errdefs.ErrInternal)
					}
				}
				if created == nil && destroyed == nil {
					require.Greater(t, n, 3)
					break
				}
			}
		}
	}
}

func TestContextEndsACallThatHangs(t *testing.T) {
	for _, method := range []string{"DomainLookupByUUID", "DomainDefineXMLFlags", "DomainCreateWithFlags"} {
		synctest.Test(t, func(t *testing.T) {
			h, f := overFake(t, Config{})
			f.fault = func(m string) error {
				if m == method {
					return errHang
				}
				return nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			require.Equal(t, context.DeadlineExceeded, h.Create(ctx, testMachine("/nowhere")), method)
			require.Equal(t, time.Minute, time.Since(start))
			// Without a deadline of the caller, there is the driver's.
			start = time.Now()
			require.ErrorIs(t, h.Create(t.Context(), testMachine("/nowhere")), errdefs.ErrUnavailable, method)
			require.Equal(t, 5*time.Minute, time.Since(start))
			require.NoError(t, h.Close())
		})
	}
}

func TestCloseEndsCallsAndEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := overFake(t, Config{})
		f.fault = func(m string) error {
			if m == "ConnectGetAllDomainStats" {
				return errHang
			}
			return nil
		}
		result := make(chan error, 1)
		go func() { _, err := h.List(t.Context()); result <- err }()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range h.Events(t.Context()) {
			}
		}()
		synctest.Wait()
		require.NoError(t, h.Close())
		require.ErrorIs(t, <-result, errdefs.ErrUnavailable)
		<-ended
		require.NoError(t, h.Close())
		require.ErrorIs(t, h.Pause(t.Context(), uuid.NewString()), errdefs.ErrUnavailable)
	})
}

// A connection that is closed between libvirtd's answer and the client library's note of the subscription: the library tells
// nobody that it has ended.
func TestEventsEndWhileTheyBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := overFake(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		f.after = func(m string) error {
			if m == "LifecycleEvents" {
				cancel()
				synctest.Wait() // until the connection is closed
			}
			return nil
		}
		for range h.Events(ctx) {
		}
		require.NoError(t, h.Close())
	})
}

func TestCallsShareConnections(t *testing.T) {
	h, f := overFake(t, Config{Connections: 3})
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() { _, _ = h.List(t.Context()) })
	}
	group.Wait()
	require.LessOrEqual(t, len(f.conns), 3)
	// A connection that was lost while nobody used it is not used again.
	f.restart()
	_, err := h.List(t.Context())
	require.NoError(t, err)
}

func TestEventsResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := overFake(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		var resyncs []time.Duration
		start, ended := time.Now(), make(chan struct{})
		go func() {
			defer close(ended)
			for e := range h.Events(ctx) {
				require.Equal(t, compute.PowerEvent{Resync: true}, e)
				resyncs = append(resyncs, time.Since(start))
			}
		}()
		time.Sleep(time.Minute)
		f.mu.Lock()
		f.down = true
		f.mu.Unlock()
		f.restart()
		time.Sleep(time.Minute)
		f.mu.Lock()
		f.down = false
		f.mu.Unlock()
		time.Sleep(time.Minute)
		cancel()
		<-ended
		require.Len(t, resyncs, 4)
		require.Equal(t, []time.Duration{0, settle}, resyncs[:2])
		require.Greater(t, resyncs[2], 2*time.Minute)
		require.LessOrEqual(t, resyncs[2], 2*time.Minute+longWait)
		require.Equal(t, resyncs[2]+settle, resyncs[3])
		require.NoError(t, h.Close())
	})
}

func TestQueueIsBounded(t *testing.T) {
	q := &queue{news: make(chan struct{}, 1)}
	for i := range maxPending + 5 {
		q.add(compute.PowerEvent{ID: fmt.Sprint(i)})
	}
	got := q.take()
	require.Len(t, got, 5)
	require.True(t, got[0].Resync)
	require.Equal(t, fmt.Sprint(maxPending+4), got[4].ID)
}

func TestTranslate(t *testing.T) {
	for code, class := range map[golibvirt.ErrorNumber]error{
		golibvirt.ErrNoDomain: errdefs.ErrNotFound, golibvirt.ErrDomExist: errdefs.ErrAlreadyExists, golibvirt.ErrOperationInvalid: errdefs.ErrFailedPrecondition,
		golibvirt.ErrXMLError: errdefs.ErrInvalidArgument, golibvirt.ErrConfigUnsupported: errdefs.ErrInvalidArgument,
		golibvirt.ErrAuthFailed: errdefs.ErrPermissionDenied, golibvirt.ErrNoMemory: errdefs.ErrResourceExhausted,
		golibvirt.ErrOperationTimeout: errdefs.ErrUnavailable, golibvirt.ErrOperationAborted: errdefs.ErrAborted,
		golibvirt.ErrNoSupport: errdefs.ErrNotImplemented, golibvirt.ErrInternalError: errdefs.ErrInternal, 9999: errdefs.ErrInternal,
	} {
		err := translate(fmt.Errorf("at work: %w", failure(code, "internal error:\n qemu:  no luck\n")))
		require.ErrorIs(t, err, class, "code %d", code)
		require.ErrorContains(t, err, fmt.Sprintf("libvirt: internal error: qemu: no luck (code %d)", code))
		require.Equal(t, err, translate(err), "what has a class is left alone")
	}
	require.NoError(t, translate(nil))
	require.ErrorIs(t, translate(golibvirt.ErrUnsupported), errdefs.ErrNotImplemented)
	require.ErrorIs(t, translate(errors.New("other")), errdefs.ErrInternal)
}

func TestLostConnectionIsUnavailable(t *testing.T) {
	for _, lost := range []error{errCut, syscall.EINVAL, os.ErrClosed} {
		h, f := overFake(t, Config{})
		f.fault = func(string) error { return lost }
		_, err := h.Describe(t.Context())
		require.ErrorIs(t, err, errdefs.ErrUnavailable)
		require.ErrorContains(t, err, "the connection was lost")
		f.mu.Lock()
		f.fault = nil
		f.mu.Unlock()
		info, err := h.Describe(t.Context())
		require.NoError(t, err)
		require.Equal(t, compute.HostInfo{Hypervisor: "QEMU/TCG", Version: "7.2.22", Arch: h.arch, VCPUs: 4, MemoryMiB: 8 << 10}, info)
	}
}
