package auth

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
)

func TestLifeOfAUser(t *testing.T) {
	r := newRig(t)
	ctx := admin(t)
	ann, err := r.CreateUser(ctx, UserSpec{Name: "ann", Roles: []string{SysAdmin, Developer, SysAdmin}})
	require.NoError(t, err)
	require.Equal(t, []string{Developer, SysAdmin}, ann.Roles)
	require.NotZero(t, ann.Created)
	_, err = r.CreateUser(ctx, UserSpec{Name: "ann"})
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	require.ErrorContains(t, err, `"ann"`)
	bob := r.user("bob")

	got, err := r.GetUser(r.as(ann, ""), ann.ID)
	require.NoError(t, err)
	require.Equal(t, ann, got)
	for _, id := range []string{bob.ID, "nobody"} {
		_, err = r.GetUser(r.as(ann, ""), id)
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied, "who exists is not told")
	}
	_, err = r.GetUser(ctx, "nobody")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	users, err := r.ListUsers(ctx)
	require.NoError(t, err)
	require.ElementsMatch(t, []User{ann, bob}, users)

	ann, err = r.SetUserRoles(ctx, ann.ID, []string{CloudAdmin})
	require.NoError(t, err)
	require.Equal(t, []string{CloudAdmin}, ann.Roles)
	_, err = r.SetUserRoles(ctx, "nobody", nil)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = r.SetUserRoles(ctx, bob.ID, []string{ProjectManager})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "Roles")
	require.NoError(t, r.DeleteUser(r.as(ann, ""), bob.ID), "a cloudadmin may")
	require.ErrorIs(t, r.DeleteUser(ctx, bob.ID), errdefs.ErrNotFound)
	r.user("bob")
}

func TestDeletingAUserTakesWhatIsItsOwn(t *testing.T) {
	r := newRig(t)
	ctx := admin(t)
	ann, bob := r.user("ann"), r.user("bob")
	p, q := r.project("weather", ann.ID), r.project("climate", "")
	r.member(p, ann, SysAdmin)
	r.member(q, ann)
	r.member(q, bob)
	for n := range 3 {
		for _, u := range []User{ann, bob} {
			_, _, err := r.CreateKeyPair(ctx, KeyPairSpec{UserID: u.ID, Name: fmt.Sprint("k", n)})
			require.NoError(t, err)
		}
	}
	err := r.DeleteUser(ctx, ann.ID)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "weather")
	require.Len(t, all(r.store, KeyPairs), 6)
	_, err = r.UpdateProject(ctx, p.ID, ProjectChange{ManagerID: &bob.ID})
	require.NoError(t, err)
	require.NoError(t, r.DeleteUser(ctx, ann.ID))
	require.Len(t, all(r.store, KeyPairs), 3)
	require.Equal(t, []Member{{ProjectID: q.ID, UserID: bob.ID}}, all(r.store, Members))
	require.ErrorIs(t, r.DeleteUser(ctx, bob.ID), errdefs.ErrFailedPrecondition)
	require.NoError(t, r.DeleteProject(ctx, p.ID))
	require.NoError(t, r.DeleteUser(ctx, bob.ID), "the manager of a deleted project is free to go")
	require.Empty(t, all(r.store, KeyPairs))
	require.Empty(t, all(r.store, Members))
}

func TestLifeOfAProject(t *testing.T) {
	r := newRig(t)
	ctx := admin(t)
	ann, bob := r.user("ann"), r.user("bob")
	p, err := r.CreateProject(ctx, ProjectSpec{Name: "weather", Description: "tomorrow's", ManagerID: ann.ID})
	require.NoError(t, err)
	_, err = r.CreateProject(ctx, ProjectSpec{Name: "weather"})
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	_, err = r.CreateProject(ctx, ProjectSpec{Name: "climate", ManagerID: "nobody"})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.ErrorContains(t, err, "ManagerID")

	got, err := r.GetProject(r.as(ann, p.ID), "")
	require.NoError(t, err)
	require.Equal(t, p, got)
	name := "forecast"
	p, err = r.UpdateProject(ctx, p.ID, ProjectChange{Name: &name})
	require.NoError(t, err)
	require.Equal(t, "forecast", p.Name)
	require.Equal(t, "tomorrow's", p.Description)
	nobody := "nobody"
	_, err = r.UpdateProject(ctx, p.ID, ProjectChange{ManagerID: &nobody})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = r.UpdateProject(ctx, "unknown", ProjectChange{})
	require.ErrorIs(t, err, errdefs.ErrNotFound)

	r.member(p, bob, NetAdmin)
	_, err = r.SetQuota(ctx, p.ID, map[Resource]int{Cores: 1})
	require.NoError(t, err)
	require.NoError(t, r.DeleteProject(ctx, p.ID))
	require.ErrorIs(t, r.DeleteProject(ctx, p.ID), errdefs.ErrNotFound)
	for _, u := range []User{ann, bob} {
		_, err = r.CallerFor(ctx, u.ID, p.ID)
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
		projects, err := r.ListProjects(r.as(u, ""))
		require.NoError(t, err)
		require.Empty(t, projects)
	}
	_, err = r.GetProject(ctx, p.ID)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = r.UpdateProject(ctx, p.ID, ProjectChange{})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = r.SetMember(ctx, p.ID, bob.ID, nil)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = r.SetQuota(ctx, p.ID, map[Resource]int{Cores: 1})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.Empty(t, all(r.store, Members))
	require.Empty(t, all(r.store, Quotas))
	require.Len(t, all(r.store, Projects), 1, "the record stays")
	again := r.project("forecast", "")
	require.NotEqual(t, p.ID, again.ID, "the name is free")
	err = r.store.Update(t.Context(), func(tx *state.Tx) error { return CheckQuota(tx, p.ID, Amounts{}, Amounts{}) })
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}

func TestAProjectInUseIsNotDeleted(t *testing.T) {
	r := newRig(t)
	used := Amounts{Instances: 2, Cores: 4}
	var err error
	r.Service, err = NewService(ServiceConfig{Store: r.store, Policy: DefaultPolicy(), Used: func(state.Reader, string) Amounts { return used }})
	require.NoError(t, err)
	p := r.project("weather", "")
	err = r.DeleteProject(admin(t), p.ID)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "2 instances")
	limits, got, err := r.GetQuota(admin(t), p.ID)
	require.NoError(t, err)
	require.Equal(t, DefaultLimits(), limits)
	require.Equal(t, used, got)
	_, got, err = r.GetQuota(admin(t), EveryProject)
	require.NoError(t, err)
	require.Zero(t, got)
	used = Amounts{}
	require.NoError(t, r.DeleteProject(admin(t), p.ID))
}

func TestMembers(t *testing.T) {
	r := newRig(t)
	boss, ann, bob := r.user("boss"), r.user("ann"), r.user("bob")
	p := r.project("weather", boss.ID)
	ctx := r.as(boss, p.ID)
	m, err := r.SetMember(ctx, "", ann.ID, []string{SysAdmin, NetAdmin, SysAdmin})
	require.NoError(t, err)
	require.Equal(t, Member{p.ID, ann.ID, []string{NetAdmin, SysAdmin}}, m)
	m, err = r.SetMember(ctx, p.ID, ann.ID, nil)
	require.NoError(t, err)
	require.Empty(t, m.Roles)
	for _, role := range []string{CloudAdmin, ITSec, ProjectManager, "root"} {
		_, err = r.SetMember(ctx, p.ID, ann.ID, []string{role})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, role)
		require.ErrorContains(t, err, role)
	}
	_, err = r.SetMember(ctx, p.ID, "nobody", nil)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = r.SetMember(admin(t), "unknown", bob.ID, nil)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	members, err := r.ListMembers(r.as(ann, p.ID), "")
	require.NoError(t, err)
	require.Equal(t, []Member{m}, members)
	require.NoError(t, r.RemoveMember(ctx, "", ann.ID))
	require.ErrorIs(t, r.RemoveMember(ctx, p.ID, ann.ID), errdefs.ErrNotFound)
	_, err = r.CallerFor(ctx, ann.ID, p.ID)
	require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
}

func TestTooManyMembers(t *testing.T) {
	r := newRig(t)
	p, ann := r.project("weather", ""), r.user("ann")
	fill := func(add func(n int) Member) {
		require.NoError(t, r.store.Update(t.Context(), func(tx *state.Tx) error {
			for n := range MaxMembers {
				if err := Members.Put(tx, add(n)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	fill(func(n int) Member { return Member{ProjectID: p.ID, UserID: fmt.Sprint(n)} })
	_, err := r.SetMember(admin(t), p.ID, ann.ID, nil)
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	require.ErrorContains(t, err, "1000 members")
	require.NoError(t, r.DeleteProject(admin(t), p.ID), "in one transaction")

	q := r.project("climate", "")
	fill(func(n int) Member { return Member{ProjectID: fmt.Sprint(n), UserID: ann.ID} })
	_, err = r.SetMember(admin(t), q.ID, ann.ID, nil)
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	require.ErrorContains(t, err, "1000 projects")
	require.NoError(t, r.DeleteUser(admin(t), ann.ID))
	require.Empty(t, all(r.store, Members))
}

func TestCallerFor(t *testing.T) {
	r := newRig(t)
	root, sec, boss, ann := r.user("root", CloudAdmin), r.user("sec", ITSec), r.user("boss"), r.user("ann", SysAdmin)
	p, q := r.project("weather", boss.ID), r.project("climate", "")
	r.member(p, ann, NetAdmin)
	for _, row := range []struct {
		user    User
		project string
		roles   []string
		admin   bool
		denied  bool
	}{
		{user: root, project: p.ID, roles: []string{CloudAdmin}, admin: true},
		{user: root, roles: []string{CloudAdmin}, admin: true},
		{user: root, project: "unknown", denied: true},
		{user: sec, project: q.ID, roles: []string{ITSec}},
		{user: boss, project: p.ID, roles: []string{ProjectManager}},
		{user: boss, project: q.ID, denied: true},
		{user: ann, project: p.ID, roles: []string{NetAdmin, SysAdmin}},
		{user: ann, project: q.ID, denied: true},
		{user: ann, project: "unknown", denied: true},
		{user: ann},
	} {
		c, err := r.CallerFor(t.Context(), row.user.ID, row.project)
		if row.denied {
			require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
			require.Zero(t, c)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, Caller{UserID: row.user.ID, ProjectID: row.project, Roles: row.roles, Admin: row.admin, recorded: true}, c)
	}
	_, err := r.CallerFor(t.Context(), "nobody", p.ID)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.CallerFor(ended, ann.ID, p.ID)
	require.Equal(t, context.Canceled, err)

	for u, want := range map[*User][]Project{&root: {p, q}, &sec: {p, q}, &boss: {p}, &ann: {p}} {
		project := p.ID
		got, err := r.ListProjects(r.as(*u, project))
		require.NoError(t, err)
		require.ElementsMatch(t, want, got, u.Name)
	}
}

func TestBadInputNamesFieldAndLimit(t *testing.T) {
	r := newRig(t)
	ctx := admin(t)
	p := r.project("weather", "")
	long := strings.Repeat("x", MaxName+1)
	bad := "\xff"
	_, noUser := r.CreateUser(ctx, UserSpec{})
	_, longUser := r.CreateUser(ctx, UserSpec{Name: long})
	_, lines := r.CreateUser(ctx, UserSpec{Name: "a\nb"})
	_, badRole := r.CreateUser(ctx, UserSpec{Name: "x", Roles: []string{"king"}})
	_, noProject := r.CreateProject(ctx, ProjectSpec{})
	_, longText := r.CreateProject(ctx, ProjectSpec{Name: "x", Description: strings.Repeat("x", MaxDescription+1)})
	_, rename := r.UpdateProject(ctx, p.ID, ProjectChange{Name: &bad})
	_, noKey := r.ImportKeyPair(ctx, KeyPairSpec{Name: "k"})
	_, _, noName := r.CreateKeyPair(ctx, KeyPairSpec{})
	_, _, badType := r.CreateKeyPair(ctx, KeyPairSpec{Name: "k", Type: "ssh-dss"})
	_, _, both := r.CreateKeyPair(ctx, KeyPairSpec{Name: "k", PublicKey: "ssh-ed25519 AAAA"})
	_, typed := r.ImportKeyPair(ctx, KeyPairSpec{Name: "k", Type: RSA, PublicKey: "ssh-ed25519 AAAA"})
	_, resource := r.SetQuota(ctx, p.ID, map[Resource]int{"ponies": 1})
	_, limit := r.SetQuota(ctx, p.ID, map[Resource]int{Cores: -2})
	_, anyProject := r.SetQuota(ctx, "", nil)
	for _, row := range []struct {
		err   error
		words string
	}{
		{noUser, "Name must have 1 to 255 bytes"}, {longUser, "(256 bytes)"}, {lines, "Name must"}, {badRole, `Roles: "king"`},
		{noProject, "Name must"}, {longText, "Description must have at most 4096 bytes"}, {rename, "Name must"}, {noKey, "PublicKey"},
		{noName, "Name must"}, {badType, "Type"}, {both, "PublicKey"}, {typed, "Type"}, {resource, `"ponies"`},
		{limit, "cores is -2, must be at least 0"}, {anyProject, "ProjectID"},
	} {
		require.ErrorIs(t, row.err, errdefs.ErrInvalidArgument, row.words)
		require.ErrorContains(t, row.err, row.words)
		require.Less(t, len(row.err.Error()), 400)
	}
	require.Empty(t, all(r.store, Users))
	require.Empty(t, all(r.store, KeyPairs))
	require.Empty(t, all(r.store, Quotas))
	_, err := NewService(ServiceConfig{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

// Two services over one log: what one adds to a user or a project, the other can't miss when it deletes them.
func TestDeletionsMissNothing(t *testing.T) {
	log := newLog(t)
	one, two := rigOn(t, log), rigOn(t, log)
	for n := range 30 {
		u, p := one.user(fmt.Sprint("u", n)), one.project(fmt.Sprint("p", n), "")
		deleted := make(chan error, 2)
		go func() {
			ctx := admin(t)
			deleted <- one.DeleteUser(ctx, u.ID)
			deleted <- one.DeleteProject(ctx, p.ID)
		}()
		for k := range 3 {
			_, _, keyErr := two.CreateKeyPair(admin(t), KeyPairSpec{UserID: u.ID, Name: fmt.Sprint(k)})
			_, memberErr := two.SetMember(admin(t), p.ID, u.ID, nil)
			for _, err := range []error{keyErr, memberErr} {
				require.True(t, err == nil || errdefs.IsNotFound(err) || errdefs.IsAlreadyExists(err), "%v", err)
			}
		}
		require.NoError(t, <-deleted)
		require.NoError(t, <-deleted)
	}
	require.Empty(t, all(one.store, KeyPairs))
	require.Empty(t, all(one.store, Members))
}

func TestNoSecretIsLogged(t *testing.T) {
	r := newRig(t)
	var text strings.Builder
	var err error
	r.Service, err = NewService(ServiceConfig{Store: r.store, Policy: DefaultPolicy(), Logger: slog.New(slog.NewTextHandler(&text, nil))})
	require.NoError(t, err)
	_, private, err := r.CreateKeyPair(admin(t), KeyPairSpec{Name: "k"})
	require.NoError(t, err)
	require.Contains(t, text.String(), "key pair recorded")
	require.Contains(t, text.String(), "by=admin")
	for line := range strings.Lines(string(private)) {
		require.NotContains(t, text.String(), strings.TrimSpace(line))
	}
}
