package scheduler

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

func newService(t *testing.T, store *state.Store) *Service {
	t.Helper()
	s, err := NewService(ServiceConfig{Store: store, Policy: auth.DefaultPolicy(), Used: used})
	require.NoError(t, err)
	return s
}

func TestHostsForAdministrators(t *testing.T) {
	store := newStore(t)
	s := newService(t, store)
	ctx := auth.NewContext(t.Context(), auth.Admin(""))
	hosts, err := s.List(ctx)
	require.NoError(t, err)
	require.Empty(t, hosts)
	add(t, store, Host{ID: "1", Name: "b", Total: Resources{4, 1000, 100}}, Host{ID: "2", Name: "a"}, Host{ID: "3", Name: "c"})
	require.NoError(t, store.Update(ctx, func(tx *state.Tx) error {
		if err := instances.Put(tx, instance{"i", "1", Resources{1, 2, 3}}); err != nil {
			return err
		}
		if err := Beats.Delete(tx, "2"); err != nil {
			return err
		}
		return Beats.Put(tx, Beat{HostID: "3", At: time.Now().Add(-DownAfter)})
	}))
	hosts, err = s.List(ctx)
	require.NoError(t, err)
	require.Len(t, hosts, 3)
	require.Equal(t, []string{"a", "b", "c"}, []string{hosts[0].Name, hosts[1].Name, hosts[2].Name})
	require.Equal(t, []bool{false, true, false}, []bool{hosts[0].Up(), hosts[1].Up(), hosts[2].Up()})
	require.True(t, hosts[0].Seen.IsZero())
	require.Equal(t, Resources{1, 2, 3}, hosts[1].Used)
	require.Equal(t, Resources{3, 998, 97}, hosts[1].Free())
	require.WithinDuration(t, time.Now().Add(-DownAfter), hosts[2].Seen, 10*time.Second)
	for _, name := range []string{"1", "b"} {
		h, err := s.Get(ctx, name)
		require.NoError(t, err)
		require.Equal(t, hosts[1].Host, h.Host)
	}
	_, err = s.Get(ctx, "nowhere")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.ErrorContains(t, err, "nowhere")
}

func TestDisabledHostsGetNothing(t *testing.T) {
	store := newStore(t)
	s := newService(t, store)
	ctx := auth.NewContext(t.Context(), auth.Admin(""))
	add(t, store, Host{ID: "1", Name: "b", Total: Resources{4, 1000, 100}})
	places := newScheduler(t, Config{})
	for _, reason := range []string{"a fan is loud", "", "it is on fire"} {
		h, err := s.Disable(ctx, "b", reason)
		require.NoError(t, err)
		require.True(t, h.Disabled)
		require.Equal(t, reason, h.Reason)
		require.True(t, h.Up())
		_, err = place(ctx, store, places, Request{}, 1)
		require.EqualError(t, err, "no valid host: of 1 hosts, 1 failed enabled")
	}
	for range 2 {
		h, err := s.Enable(ctx, "1")
		require.NoError(t, err)
		require.False(t, h.Disabled)
		require.Empty(t, h.Reason)
		got, err := s.Get(ctx, "1")
		require.NoError(t, err)
		require.Equal(t, h.Host, got.Host)
	}
	_, err := place(ctx, store, places, Request{}, 1)
	require.NoError(t, err)
	for _, reason := range []string{strings.Repeat("x", MaxReason+1), "two\nlines", "\xff"} {
		_, err = s.Disable(ctx, "b", reason)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, "Reason must have at most 255 bytes")
	}
	_, err = s.Disable(ctx, "nowhere", "")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = s.Enable(ctx, "nowhere")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	for _, cfg := range []ServiceConfig{{Store: store}, {Used: used}} {
		_, err := NewService(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

func TestHostsAreForAdministratorsOnly(t *testing.T) {
	store := newStore(t)
	add(t, store, Host{ID: "1", Name: "b"})
	calls := map[string]func(s *Service, ctx context.Context) error{
		"compute:host:list":    func(s *Service, ctx context.Context) error { _, err := s.List(ctx); return err },
		"compute:host:get":     func(s *Service, ctx context.Context) error { _, err := s.Get(ctx, "b"); return err },
		"compute:host:disable": func(s *Service, ctx context.Context) error { _, err := s.Disable(ctx, "b", ""); return err },
		"compute:host:enable":  func(s *Service, ctx context.Context) error { _, err := s.Enable(ctx, "b"); return err },
	}
	every := auth.Caller{UserID: "ann", ProjectID: "p", Roles: append(auth.GlobalRoles(), auth.ProjectManager)}
	for action, call := range calls {
		s := newService(t, store)
		require.NoError(t, call(s, auth.NewContext(t.Context(), auth.Admin(""))), action)
		require.ErrorIs(t, call(s, auth.NewContext(t.Context(), every)), errdefs.ErrPermissionDenied, action)
		require.ErrorIs(t, call(s, t.Context()), errdefs.ErrUnauthenticated, action)
		without := auth.DefaultPolicy()
		delete(without.Rules, action)
		s.cfg.Policy = without
		require.ErrorIs(t, call(s, auth.NewContext(t.Context(), auth.Admin(""))), errdefs.ErrPermissionDenied, action)
	}
	for action := range auth.DefaultPolicy().Rules {
		if strings.HasPrefix(action, "compute:host:") {
			require.Contains(t, calls, action)
		}
	}
}
