package dewpoint_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Who keeps a picture of an instance by its events sees every state of it, also across a pause and a new process.
func TestEventsHaveNoGap(t *testing.T) {
	r := newRig(t)
	_, s, ctx, stop := run(t, r.cfg)
	req := furnish(t, ctx, s)
	var from state.Revision
	var seen []compute.Instance
	follow := func(s *dewpoint.Services, until func(compute.Instance, bool) bool) {
		t.Helper()
		done := false
		for e, err := range s.Events(ctx, dewpoint.EventOptions{After: from}) {
			require.NoError(t, err)
			require.False(t, e.Resync)
			if e.Last {
				from = e.Revision
			}
			if c := e.Instance; c != nil {
				if len(seen) > 0 {
					require.Equal(t, seen[len(seen)-1], *c.Old, "a change is missing")
				} else {
					require.Nil(t, c.Old)
				}
				if c.New != nil {
					seen = append(seen, *c.New)
				}
				done = done || until(seen[len(seen)-1], c.New == nil)
			}
			if done && e.Last {
				return
			}
		}
		t.Fatal("it ended by itself")
	}
	for e, err := range s.Events(ctx, dewpoint.EventOptions{}) {
		require.NoError(t, err)
		require.True(t, e.Resync && e.Last)
		from = e.Revision
		break
	}
	made, err := s.Compute.Run(ctx, req)
	require.NoError(t, err)
	follow(s, func(i compute.Instance, _ bool) bool { return i.State == compute.StateActive })
	require.NoError(t, s.Compute.Stop(ctx, made[0].ID))
	stopped, err := s.Compute.Wait(ctx, made[0].ID, func(i compute.Instance) bool { return i.State == compute.StateStopped })
	require.NoError(t, err)
	require.NoError(t, s.Compute.Terminate(ctx, made[0].ID))
	require.NoError(t, s.Compute.WaitGone(ctx, made[0].ID))
	follow(s, func(_ compute.Instance, gone bool) bool { return gone })
	var states []compute.State
	for _, i := range seen {
		if len(states) == 0 || states[len(states)-1] != i.State {
			states = append(states, i.State)
		}
	}
	require.Equal(t, []compute.State{compute.StateBuilding, compute.StateActive, stopped.State}, states)

	// A process that begins anew remembers no old revision here, and says so.
	require.NoError(t, stop())
	_, s, ctx, _ = run(t, r.cfg)
	for e, err := range s.Events(ctx, dewpoint.EventOptions{After: 1}) {
		require.NoError(t, err)
		require.True(t, e.Resync)
		break
	}
}

func TestEventsAreOfOnesOwnProject(t *testing.T) {
	r := newRig(t)
	_, s, ctx, _ := run(t, r.cfg)
	ctxOf := func(project string) context.Context {
		return auth.NewContext(t.Context(), auth.Caller{UserID: "u", ProjectID: project, Roles: []string{auth.ProjectManager}})
	}
	watch := func(ctx context.Context, o dewpoint.EventOptions) func() []string {
		o.After = s.Store.Revision()
		return func() (names []string) {
			for e, err := range s.Events(ctx, o) {
				require.NoError(t, err)
				switch {
				case e.Image != nil:
					names = append(names, "image of "+e.Image.New.ProjectID)
				case e.Network != nil:
					names = append(names, "network "+e.Network.New.Name)
					if e.Network.New.Name == "end" {
						return names
					}
				}
			}
			return names
		}
	}
	a, b, all := watch(ctxOf("a"), dewpoint.EventOptions{}), watch(ctxOf("b"), dewpoint.EventOptions{}), watch(ctx, dewpoint.EventOptions{AllProjects: true})
	for _, project := range []string{"a", "b"} {
		_, err := s.Images.Register(ctxOf(project), image.Spec{Name: "x", Format: image.Raw})
		require.NoError(t, err)
		_, err = s.Networks.Create(ctx, network.Network{Name: "of " + project, Mode: network.FlatDHCP, ProjectID: project, Bridge: "br" + project,
			CIDR: map[string]netip.Prefix{"a": netip.MustParsePrefix("10.0.0.0/24"), "b": netip.MustParsePrefix("10.2.0.0/24")}[project]})
		require.NoError(t, err)
	}
	_, err := s.Networks.Create(ctx, network.Network{Name: "end", Mode: network.FlatDHCP, Bridge: "end", CIDR: netip.MustParsePrefix("10.1.0.0/24")})
	require.NoError(t, err)
	require.Equal(t, []string{"image of a", "network of a", "network end"}, a())
	require.Equal(t, []string{"image of b", "network of b", "network end"}, b())
	require.Equal(t, []string{"image of a", "network of a", "image of b", "network of b", "network end"}, all())

	for _, err := range s.Events(ctxOf("a"), dewpoint.EventOptions{AllProjects: true}) {
		require.True(t, errdefs.IsPermissionDenied(err), err)
	}
	for _, err := range s.Events(context.Background(), dewpoint.EventOptions{}) {
		require.Error(t, err)
	}
}
