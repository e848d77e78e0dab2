package network_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

var ssh = network.Rule{Direction: network.Ingress, Protocol: network.TCP, From: 22, To: 22}

func TestAPortIsInTheDefaultGroup(t *testing.T) {
	s := newStage(t)
	p := s.port()
	g, err := s.service.SecurityGroup(as("p"), network.DefaultGroup)
	require.NoError(t, err)
	require.Equal(t, []string{g.ID}, p.SecurityGroups)
	require.Equal(t, g.ID, s.port().SecurityGroups[0], "a project has one")
	var rules []string
	for _, r := range g.Rules {
		rules = append(rules, r.String())
	}
	require.Equal(t, []string{"egress any any any", "ingress any any group:" + g.ID}, rules)
	require.ErrorIs(t, s.service.DeleteSecurityGroup(as("p"), network.DefaultGroup), errdefs.ErrFailedPrecondition)
	_, err = s.service.CreateSecurityGroup(as("q"), network.DefaultGroup, "")
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists, "also before it is made")
}

func TestGroupsOfAProject(t *testing.T) {
	s := newStage(t)
	web, err := s.service.CreateSecurityGroup(as("p"), "web", "the shop")
	require.NoError(t, err)
	theirs, err := s.service.CreateSecurityGroup(as("q"), "web", "")
	require.NoError(t, err)
	_, err = s.service.CreateSecurityGroup(as("p"), "web", "")
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	require.ErrorContains(t, err, "web")
	for _, name := range []string{"", "a\nb", strings.Repeat("x", 256)} {
		_, err = s.service.CreateSecurityGroup(as("p"), name, "")
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
	all, err := s.service.SecurityGroups(as("p"))
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "default", all[0].Name)
	require.Equal(t, web, all[1])

	web, err = s.service.AddRules(as("p"), "web", ssh, network.Rule{Direction: network.Ingress, Protocol: network.AnyProtocol, RemoteGroup: "default"})
	require.NoError(t, err)
	require.Equal(t, "ingress any any group:"+all[0].ID, web.Rules[2].String(), "the name became the id")
	_, err = s.service.AddRules(as("p"), web.ID, network.Rule{Direction: network.Ingress, Protocol: network.UDP, From: -1, To: -1}, ssh)
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	require.ErrorContains(t, err, "ingress tcp 22-22 any")
	bad := ssh
	bad.To = 1
	_, err = s.service.AddRules(as("p"), web.ID, bad)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "rule 1: network: rule: To is 1")
	stranger := ssh
	stranger.From, stranger.RemoteGroup = 21, theirs.ID
	_, err = s.service.AddRules(as("p"), web.ID, stranger)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.ErrorContains(t, err, "RemoteGroup")
	got, err := s.service.SecurityGroup(as("p"), web.ID)
	require.NoError(t, err)
	require.Equal(t, web.Rules, got.Rules, "all or none")

	_, err = s.service.RemoveRules(as("p"), web.ID, web.Rules[0].ID, "no-such")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	got, err = s.service.RemoveRules(as("p"), web.ID, web.Rules[0].ID)
	require.NoError(t, err)
	require.Equal(t, web.Rules[1:], got.Rules)
}

func TestWhoMayDoWhatToGroups(t *testing.T) {
	s := newStage(t)
	web, err := s.service.CreateSecurityGroup(as("p"), "web", "")
	require.NoError(t, err)
	p := s.port()
	in := func(project string, roles ...string) auth.Caller {
		return auth.Caller{UserID: "u", ProjectID: project, Roles: roles}
	}
	for _, row := range []struct {
		name   string
		caller auth.Caller
		want   error
	}{
		{"a member", in("p"), errdefs.ErrPermissionDenied},
		{"a netadmin of another project", in("q", auth.NetAdmin), errdefs.ErrNotFound},
		{"a netadmin", in("p", auth.NetAdmin), nil},
	} {
		ctx := auth.NewContext(t.Context(), row.caller)
		r := ssh
		_, err := s.service.AddRules(ctx, web.ID, r)
		require.ErrorIs(t, err, row.want, row.name)
		_, err = s.service.SetSecurityGroups(ctx, p.ID, web.ID)
		require.ErrorIs(t, err, row.want, row.name)
		if row.want == nil {
			got, err := s.service.SecurityGroup(ctx, "web")
			require.NoError(t, err)
			_, err = s.service.RemoveRules(ctx, web.ID, got.Rules[1].ID)
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, s.service.DeleteSecurityGroup(ctx, web.ID), row.want, row.name)
	}
	_, err = s.service.AddRules(as("q"), web.ID, ssh)
	require.NoError(t, err, "an administrator may, by id")
}

func TestAGroupInUseStays(t *testing.T) {
	s := newStage(t)
	web, err := s.service.CreateSecurityGroup(as("p"), "web", "")
	require.NoError(t, err)
	db, err := s.service.CreateSecurityGroup(as("p"), "db", "")
	require.NoError(t, err)
	p := s.port()
	p, err = s.service.SetSecurityGroups(as("p"), p.ID, "web", web.ID, "default")
	require.NoError(t, err)
	require.Len(t, p.SecurityGroups, 2)
	err = s.service.DeleteSecurityGroup(as("p"), "web")
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, p.ID)
	require.ErrorContains(t, err, p.InstanceID)
	_, err = s.service.SetSecurityGroups(as("p"), p.ID)
	require.NoError(t, err)

	r := ssh
	r.RemoteGroup = web.ID
	db, err = s.service.AddRules(as("p"), "db", r)
	require.NoError(t, err)
	err = s.service.DeleteSecurityGroup(as("p"), "web")
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, `"db"`)
	_, err = s.service.RemoveRules(as("p"), "db", db.Rules[1].ID)
	require.NoError(t, err)

	r.RemoteGroup = web.ID // a group may name itself
	_, err = s.service.AddRules(as("p"), "web", r)
	require.NoError(t, err)
	require.NoError(t, s.service.DeleteSecurityGroup(as("p"), "web"))
	require.ErrorIs(t, s.service.DeleteSecurityGroup(as("p"), "web"), errdefs.ErrNotFound)
	_, err = s.service.SetSecurityGroups(as("p"), p.ID, web.ID)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = s.service.SetSecurityGroups(as("p"), "no-such-port", "default")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

// A group that is on its way takes no port and no rule, and who repeats the deletion ends it.
func TestAGroupThatIsBeingDeleted(t *testing.T) {
	s := newStage(t)
	web, err := s.service.CreateSecurityGroup(as("p"), "web", "")
	require.NoError(t, err)
	p := s.port()
	require.NoError(t, s.store.Update(t.Context(), func(tx *state.Tx) error {
		web.Deleting = true
		return network.SecurityGroups.Put(tx, web)
	}))
	_, err = s.service.SetSecurityGroups(as("p"), p.ID, web.ID)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	r := ssh
	r.RemoteGroup = web.ID
	_, err = s.service.AddRules(as("p"), "default", r)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.NoError(t, s.service.DeleteSecurityGroup(as("p"), web.ID))
	require.NoError(t, s.store.View(func(v *state.View) error {
		require.False(t, network.SecurityGroups.Has(v, web.ID))
		return nil
	}))
}

func TestQuotasOfGroups(t *testing.T) {
	s := newStage(t)
	for n := range auth.DefaultLimits().SecurityGroups - 1 { // the default group counts
		_, err := s.service.CreateSecurityGroup(as("p"), strings.Repeat("g", n+1), "")
		require.NoError(t, err)
	}
	_, err := s.service.CreateSecurityGroup(as("p"), "more", "")
	var over *auth.QuotaError
	require.ErrorAs(t, err, &over)
	require.Equal(t, auth.SecurityGroups, over.Over[0].Resource)
	_, err = s.service.CreateSecurityGroup(as("q"), "more", "")
	require.NoError(t, err, "each project has its own")
	var rules []network.Rule
	for n := range auth.DefaultLimits().SecurityGroupRules {
		r := ssh
		r.From, r.To = n+1, n+1
		rules = append(rules, r)
	}
	_, err = s.service.AddRules(as("q"), "more", rules...)
	require.ErrorAs(t, err, &over)
	_, err = s.service.AddRules(as("q"), "more", rules[1:]...)
	require.NoError(t, err)
}
