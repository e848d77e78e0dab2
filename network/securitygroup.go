package network

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// DefaultGroup is the name of the group that every project has, and that ports are in for which no other was asked: its
// machines reach everybody, and are reached by each other. It is made when it is first needed, can be changed like any
// other, and can't be deleted.
const DefaultGroup = "default"

// Limits of groups that quotas don't set.
const (
	MaxGroupsPerPort = 16
	maxGroupText     = 255
)

// SecurityGroup is a set of ports of one project, and what may reach them and what they may reach. A port can be in several:
// what a rule of any of them lets through passes.
type SecurityGroup struct {
	ID          string
	ProjectID   string
	Name        string // unique in the project: 1 to 255 printable characters
	Description string // up to 255 printable characters
	Rules       []SecurityRule
	Created     time.Time

	// Deleting says that somebody is removing the group: no port is put into it any more, and no rule names it. Repeating
	// DeleteSecurityGroup ends it.
	Deleting bool
}

// SecurityRule is a rule of a group.
type SecurityRule struct {
	ID string
	Rule
}

// Clone returns a copy that shares nothing.
func (g SecurityGroup) Clone() SecurityGroup {
	g.Rules = append([]SecurityRule(nil), g.Rules...)
	return g
}

// SecurityGroups are the groups on record.
var SecurityGroups = state.NewTable("security-group", func(g SecurityGroup) string { return g.ID },
	state.Unique("name", func(g SecurityGroup) []string { return []string{groupName(g.ProjectID, g.Name)} }),
	state.Index("project", func(g SecurityGroup) []string { return []string{g.ProjectID} }),
	state.Index("remote", func(g SecurityGroup) (ids []string) {
		for _, r := range g.Rules {
			if r.RemoteGroup != "" && !slices.Contains(ids, r.RemoteGroup) {
				ids = append(ids, r.RemoteGroup)
			}
		}
		return ids
	}))

// SecurityGroupUse is how many groups each project has.
var SecurityGroupUse = state.NewSum("security-group-use", SecurityGroups, func(g SecurityGroup) (string, auth.Amounts) {
	return g.ProjectID, auth.Amounts{SecurityGroups: 1}
})

// groupName is what no two groups have the same.
func groupName(projectID, name string) string { return projectID + "/" + name }

// newGroup is a group without rules.
func newGroup(projectID, name, description string) SecurityGroup {
	return SecurityGroup{ID: uuid.NewString(), ProjectID: projectID, Name: name, Description: description, Created: time.Now().UTC()}
}

// allowEgress lets the group's machines reach everybody.
func (g *SecurityGroup) allowEgress() {
	g.Rules = append(g.Rules, SecurityRule{uuid.NewString(), Rule{Direction: Egress, Protocol: AnyProtocol, From: Any, To: Any}})
}

// EnsureDefaultGroup returns the project's default group, which it makes if there is none.
func EnsureDefaultGroup(tx *state.Tx, projectID string) (SecurityGroup, error) {
	g, err := SecurityGroups.One(tx, "name", groupName(projectID, DefaultGroup))
	if !errdefs.IsNotFound(err) {
		return g, err
	}
	g = newGroup(projectID, DefaultGroup, "made by itself")
	g.allowEgress()
	g.Rules = append(g.Rules, SecurityRule{uuid.NewString(), Rule{Direction: Ingress, Protocol: AnyProtocol, From: Any, To: Any, RemoteGroup: g.ID}})
	return g, SecurityGroups.Insert(tx, g)
}

// findGroup returns a group of the project by its id or name. One of another project is NotFound, as one that is not there.
func findGroup(r state.Reader, projectID, idOrName string) (SecurityGroup, error) {
	g, err := SecurityGroups.Get(r, idOrName)
	if errdefs.IsNotFound(err) {
		g, err = SecurityGroups.One(r, "name", groupName(projectID, idOrName))
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return g, err
	}
	if err != nil || g.ProjectID != projectID || g.Deleting {
		return SecurityGroup{}, fmt.Errorf("network: security group %.80q: project %q has none: %w", idOrName, projectID, errdefs.ErrNotFound)
	}
	return g, nil
}

// groupsFor returns the ids of the groups asked for, by id or name, sorted; of none, that of the default group. The groups are
// guarded: they are not on their way to be deleted.
func groupsFor(tx *state.Tx, projectID string, asked []string) ([]string, error) {
	if len(asked) > MaxGroupsPerPort {
		return nil, fmt.Errorf("network: SecurityGroups names %d groups, at most %d are possible: %w", len(asked), MaxGroupsPerPort,
			errdefs.ErrInvalidArgument)
	}
	if len(asked) == 0 {
		asked = []string{DefaultGroup}
	}
	var ids []string
	for _, name := range asked {
		g, err := SecurityGroup{}, error(nil)
		if name == DefaultGroup {
			g, err = EnsureDefaultGroup(tx, projectID)
		} else {
			g, err = findGroup(tx, projectID, name)
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, g.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
