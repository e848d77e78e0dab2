package libvirt

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// at runs do before each call of a method.
func (f *fakeDaemon) at(method string, do func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = func(m string) error {
		if m != method {
			return nil
		}
		return do()
	}
}

// slow makes the calls of a method take a while.
func (f *fakeDaemon) slow(method string, d time.Duration) {
	f.at(method, func() error { time.Sleep(d); return nil })
}

func (l *late) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.calls)
}

func TestTheNextChangeWaitsForOneThatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := overFake(t, Config{})
		f.slow("DomainDefineXMLFlags", 10*time.Second)
		m, start := testMachine("/nowhere"), time.Now()
		within := func(d time.Duration, call func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return call(ctx)
		}
		create := func(ctx context.Context) error { return h.Create(ctx, m) }
		destroy := func(ctx context.Context) error { return h.Destroy(ctx, m.ID, m.Epoch) }
		require.Equal(t, context.DeadlineExceeded, within(time.Second, create))
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, context.DeadlineExceeded, within(time.Second, create), "it waits, too")
		require.Equal(t, context.DeadlineExceeded, within(time.Second, destroy))
		require.Equal(t, 3*time.Second, time.Since(start))
		require.ErrorIs(t, h.Pause(t.Context(), testMachine("/nowhere").ID), errdefs.ErrNotFound, "others don't wait")
		require.Equal(t, 3*time.Second, time.Since(start))

		require.NoError(t, destroy(t.Context()))
		require.Equal(t, 10*time.Second, time.Since(start))
		require.Empty(t, f.domains)
		require.Equal(t, 1, f.calls["DomainDefineXMLFlags"])
		require.Zero(t, f.calls["DomainCreateWithFlags"], "a Create that nobody waits for any more goes no further")
		require.Zero(t, h.late.count())
	})
}

func TestAChangeThatNobodyWaitsForIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := overFake(t, Config{Connections: 2, Timeout: time.Minute})
		f.slow("DomainDefineXMLFlags", 10*time.Second)
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			require.Equal(t, context.DeadlineExceeded, h.Create(ctx, testMachine("/nowhere")))
			cancel()
		}
		require.Equal(t, 2, h.late.count())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Zero(t, h.late.count())

		// A call that never ends is given up after the driver's own time, and its connection with it.
		f.at("DomainDefineXMLFlags", func() error { return errHang })
		m, start := testMachine("/nowhere"), time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, context.DeadlineExceeded, h.Create(ctx, m))
		require.NoError(t, h.Destroy(t.Context(), m.ID, m.Epoch))
		require.Equal(t, time.Minute, time.Since(start))

		// A driver that is closed waits for nothing.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, context.DeadlineExceeded, h.Create(ctx, m))
		require.NoError(t, h.Close())
		require.ErrorIs(t, h.Destroy(t.Context(), m.ID, m.Epoch), errdefs.ErrUnavailable)
	})
}
