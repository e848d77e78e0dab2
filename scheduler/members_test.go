package scheduler

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// life is a store with one host, and the Members of a process that places instances.
type life struct {
	store   *state.Store
	members *Members
	sched   *Filtering
	logged  *bytes.Buffer
	now     func() time.Time // what the host believes
}

// inLife runs f with Members that listen, in a bubble with its own clock.
func inLife(t *testing.T, ahead time.Duration, f func(t *testing.T, l *life)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &life{store: newStore(t), logged: &bytes.Buffer{}, now: func() time.Time { return time.Now().Add(ahead) }}
		require.NoError(t, l.store.Update(t.Context(), func(tx *state.Tx) error {
			return Hosts.Put(tx, Host{ID: "h", Name: "h", Total: Resources{8, 8192, 100}})
		}))
		l.beat(t)
		l.members = NewMembers(slog.New(slog.NewTextHandler(l.logged, nil)))
		l.sched = newScheduler(t, Config{Used: used, Members: l.members})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.members.Run(ctx, l.store) }()
		synctest.Wait()
		f(t, l)
		cancel()
		require.NoError(t, <-ended)
	})
}

func (l *life) beat(t *testing.T) {
	require.NoError(t, l.store.Update(t.Context(), func(tx *state.Tx) error { return Beats.Put(tx, Beat{HostID: "h", At: l.now()}) }))
}

// beats has the host live for so long.
func (l *life) beats(t *testing.T, n int) {
	for range n {
		time.Sleep(10 * time.Second)
		l.beat(t)
		synctest.Wait()
	}
}

func (l *life) place() error {
	_, err := place(context.Background(), l.store, l.sched, Request{Resources: Resources{1, 1, 1}}, 1)
	return err
}

func TestAHostIsAliveByTheClockOfWhoPlaces(t *testing.T) {
	for _, ahead := range []time.Duration{0, 30 * time.Second, -30 * time.Second} {
		inLife(t, ahead, func(t *testing.T, l *life) {
			l.beats(t, 20)
			require.NoError(t, l.place())
			time.Sleep(DownAfter - 1)
			require.NoError(t, l.place())
			time.Sleep(time.Nanosecond)
			require.ErrorContains(t, l.place(), "1 failed up")
			l.beats(t, 1)
			require.NoError(t, l.place())
			require.Empty(t, l.logged.String())
		})
	}
}

// A host whose clock is wrong neither looks dead nor alive for it: it gets nothing, and it is said why.
func TestAWrongClockIsFoundOut(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		inLife(t, ahead, func(t *testing.T, l *life) {
			l.beats(t, 1)
			require.ErrorContains(t, l.place(), "1 failed clock")
			s, err := NewService(ServiceConfig{Store: l.store, Used: used, Members: l.members, Policy: auth.DefaultPolicy()})
			require.NoError(t, err)
			h, err := s.Get(auth.NewContext(t.Context(), auth.Admin("")), "h")
			require.NoError(t, err)
			require.True(t, h.Up())
			require.Equal(t, ahead, h.Skew)
			l.beats(t, 100)
			require.Equal(t, 1, bytes.Count(l.logged.Bytes(), []byte("level=ERROR")), l.logged.String())
			time.Sleep(DownAfter)
			require.ErrorContains(t, l.place(), "1 failed up")
			l.now = time.Now // somebody set it right
			l.beats(t, 2)
			require.NoError(t, l.place())
			require.Contains(t, l.logged.String(), "agree again")
		})
	}
}

// Before the first sign of life arrives, the record is all there is; a time in the future is believed for DownAfter at most.
func TestAStartKnowsOnlyTheRecord(t *testing.T) {
	inLife(t, time.Hour, func(t *testing.T, l *life) {
		require.NoError(t, l.place())
		time.Sleep(DownAfter)
		require.ErrorContains(t, l.place(), "1 failed up")
	})
	inLife(t, -time.Hour, func(t *testing.T, l *life) { require.ErrorContains(t, l.place(), "1 failed up") })
}

// What was held up on its way, as behind a connection that was cut, arrives all at once, and is no reason to think ill of
// the host's clock.
func TestSignsOfLifeThatWereHeldUp(t *testing.T) {
	m := NewMembers(nil)
	now := time.Now()
	for late := 50 * time.Minute; late >= 0; late -= 10 * time.Second {
		m.hear(Beat{HostID: "h", At: now.Add(-late)}, now)
	}
	m.hear(Beat{HostID: "h", At: now.Add(-2 * time.Minute)}, now) // one that was slow
	require.Zero(t, m.heard["h"].skew)
	m.hear(Beat{HostID: "h", At: now.Add(-2 * time.Minute)}, now)
	require.Equal(t, -2*time.Minute, m.heard["h"].skew)
}

func TestAForgottenHostIsForgotten(t *testing.T) {
	inLife(t, 0, func(t *testing.T, l *life) {
		l.beats(t, 1)
		require.NoError(t, l.store.Update(t.Context(), func(tx *state.Tx) error { return Beats.Delete(tx, "h") }))
		synctest.Wait()
		require.Empty(t, l.members.heard)
		require.ErrorContains(t, l.place(), "1 failed up")
	})
}
