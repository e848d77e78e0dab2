package fakecompute_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func machine(n int) compute.Machine {
	return compute.Machine{
		ID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", n), Epoch: 1, Name: fmt.Sprint("m", n), VCPUs: 1, MemoryMiB: 64,
		Kernel: "/boot/vmlinuz", ConsoleLog: "/var/log/console",
	}
}

func TestHostOutlivesItsDriver(t *testing.T) {
	host, ctx := fakecompute.NewHost(), t.Context()
	require.NoError(t, fakecompute.New(fakecompute.Config{Host: host}).Create(ctx, machine(1)))
	second := fakecompute.New(fakecompute.Config{Host: host})
	require.NoError(t, second.Create(ctx, machine(1)))
	all, err := second.List(ctx)
	require.NoError(t, err)
	require.Equal(t, []compute.Domain{{ID: machine(1).ID, Name: "m1", Epoch: 1, Ours: true, Power: compute.PowerRunning}}, all)
	m, ok := host.Machine(machine(1).ID)
	require.True(t, ok)
	require.Equal(t, machine(1), m)
}

func TestTwoHostsAreApart(t *testing.T) {
	a, b := fakecompute.New(fakecompute.Config{}), fakecompute.New(fakecompute.Config{})
	require.NoError(t, a.Create(t.Context(), machine(1)))
	require.Len(t, a.Host().Domains(), 1)
	require.Empty(t, b.Host().Domains())
}

func TestFaultBeforeAndAfter(t *testing.T) {
	boom := errors.New("boom")
	for _, after := range []bool{false, true} {
		h := fakecompute.New(fakecompute.Config{})
		f := h.Host().Inject(fakecompute.Fault{Method: fakecompute.MethodCreate, Call: 2, After: after, Err: boom})
		require.NoError(t, h.Create(t.Context(), machine(1)))
		require.NoError(t, h.Pause(t.Context(), machine(1).ID))
		require.ErrorIs(t, h.Create(t.Context(), machine(2)), boom)
		require.NoError(t, h.Create(t.Context(), machine(3)))
		_, made := h.Host().Machine(machine(2).ID)
		require.Equal(t, after, made, "the call had its effect")
		require.Equal(t, 1, f.Hits())
		require.Equal(t, 3, h.Host().Calls(fakecompute.MethodCreate))
		require.Equal(t, 4, h.Host().Calls(""))
	}
}

func TestFaultOfOneMachine(t *testing.T) {
	h := fakecompute.New(fakecompute.Config{})
	h.Host().Inject(fakecompute.Fault{ID: machine(2).ID, Err: errdefs.ErrResourceExhausted})
	require.NoError(t, h.Create(t.Context(), machine(1)))
	require.ErrorIs(t, h.Create(t.Context(), machine(2)), errdefs.ErrResourceExhausted)
}

func TestHangEndsByEachCause(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*fakecompute.Host, *fakecompute.Injected, context.CancelFunc)
		want error
	}{
		"removed":   {func(_ *fakecompute.Host, f *fakecompute.Injected, _ context.CancelFunc) { f.Remove(); f.Remove() }, nil},
		"cancelled": {func(_ *fakecompute.Host, _ *fakecompute.Injected, cancel context.CancelFunc) { cancel() }, context.Canceled},
		"lost":      {func(h *fakecompute.Host, _ *fakecompute.Injected, _ context.CancelFunc) { h.Disconnect() }, errdefs.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := fakecompute.New(fakecompute.Config{})
				f := h.Host().Inject(fakecompute.Fault{Hang: true})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := make(chan error, 1)
				go func() { result <- h.Create(ctx, machine(1)) }()
				<-f.Struck()
				synctest.Wait()
				require.Empty(t, result)
				c.end(h.Host(), f, cancel)
				require.ErrorIs(t, <-result, c.want)
			})
		})
	}
}

func TestDelayAndGraceTakeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, start := fakecompute.New(fakecompute.Config{}), time.Now()
		f := h.Host().Inject(fakecompute.Fault{Delay: time.Second})
		require.NoError(t, h.Create(t.Context(), machine(1)))
		require.Equal(t, time.Second, time.Since(start))
		f.Remove()
		require.NoError(t, h.Host().Deaf(machine(1).ID))
		require.NoError(t, h.Stop(t.Context(), machine(1).ID, time.Minute))
		require.Equal(t, 61*time.Second, time.Since(start))
		require.Equal(t, compute.PowerShutoff, h.Host().Domains()[0].Power)
	})
}

func TestGuestsAct(t *testing.T) {
	h, ctx := fakecompute.New(fakecompute.Config{}), t.Context()
	host, id := h.Host(), machine(1).ID
	require.ErrorIs(t, host.Crash(id), errdefs.ErrNotFound)
	require.NoError(t, h.Create(ctx, machine(1)))
	require.NoError(t, host.Print(id, "hello\n"))
	tail, err := h.Console(ctx, id, 6)
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(tail))
	require.NoError(t, host.Crash(id))
	require.Equal(t, compute.PowerCrashed, host.Domains()[0].Power)
	require.ErrorIs(t, host.PowerOff(id), errdefs.ErrFailedPrecondition)
	require.NoError(t, h.Start(ctx, id))
	require.NoError(t, host.PowerOff(id))
	require.Equal(t, compute.PowerShutoff, host.Domains()[0].Power)
	host.Remove(id)
	host.Remove(id)
	require.Empty(t, host.Domains())
}

func TestForeignDomains(t *testing.T) {
	h, id := fakecompute.New(fakecompute.Config{}), machine(1).ID
	h.Host().AddForeign(compute.Domain{ID: id, Name: "theirs", Ours: true, Epoch: 1})
	require.Equal(t, []compute.Domain{{ID: id, Name: "theirs", Power: compute.PowerRunning}}, h.Host().Domains())
	require.ErrorIs(t, h.Create(t.Context(), machine(1)), errdefs.ErrAlreadyExists)
	require.ErrorIs(t, h.Destroy(t.Context(), id, 0), errdefs.ErrFailedPrecondition)
	require.ErrorIs(t, h.Stop(t.Context(), id, 0), errdefs.ErrNotFound)
}

func TestEventsAcrossAConnectionLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := fakecompute.New(fakecompute.Config{})
		host, id := h.Host(), machine(1).ID
		ctx, cancel := context.WithCancel(t.Context())
		var got []compute.PowerEvent
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for e := range h.Events(ctx) {
				got = append(got, e)
			}
		}()
		synctest.Wait()
		require.NoError(t, h.Create(ctx, machine(1)))
		synctest.Wait()
		host.Disconnect()
		host.Disconnect()
		require.ErrorIs(t, h.Start(ctx, id), errdefs.ErrUnavailable)
		require.NoError(t, host.PowerOff(id))
		synctest.Wait()
		host.Connect()
		host.Connect()
		synctest.Wait()
		host.Reset()
		cancel()
		<-ended
		require.Equal(t, []compute.PowerEvent{
			{Resync: true}, {ID: id, Power: compute.PowerRunning}, {Resync: true},
		}, got[:3])
	})
}

func TestSlowConsumerIsToldToResync(t *testing.T) {
	h := fakecompute.New(fakecompute.Config{})
	require.NoError(t, h.Create(t.Context(), machine(1)))
	n := 0
	for e := range h.Events(t.Context()) {
		if n++; n == 1 {
			for range 3000 {
				require.NoError(t, h.Pause(t.Context(), machine(1).ID))
				require.NoError(t, h.Resume(t.Context(), machine(1).ID))
			}
			continue
		}
		require.True(t, e.Resync, "what was missed is replaced by a Resync, got %v", e)
		break
	}
}

func BenchmarkCreate(b *testing.B) {
	h := fakecompute.New(fakecompute.Config{})
	n := 0
	for b.Loop() {
		n++
		if err := h.Create(b.Context(), machine(n)); err != nil {
			b.Fatal(err)
		}
	}
}
