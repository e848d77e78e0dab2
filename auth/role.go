package auth

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// The roles. CloudAdmin and ITSec are global only; ProjectManager is not given but implied.
const (
	CloudAdmin     = "cloudadmin"     // may do everything, everywhere
	ITSec          = "itsec"          // may look at everything, in every project
	ProjectManager = "projectmanager" // the manager of a project
	SysAdmin       = "sysadmin"       // instances, volumes and images
	NetAdmin       = "netadmin"       // security groups and floating addresses
	Developer      = "developer"      // no more than every member may, as in Nova
)

// GlobalRoles returns the roles that a user may be given for the whole cloud.
func GlobalRoles() []string { return []string{CloudAdmin, ITSec, SysAdmin, NetAdmin, Developer} }

// ProjectRoles returns the roles that a member may be given in a project.
func ProjectRoles() []string { return []string{SysAdmin, NetAdmin, Developer} }

// RolesIn returns the roles that a user has in a project, and whether it may work there at all, given its global roles,
// those it has as a member, and what it is there.
//
// In Nova, a role in a project counted only if the user had it globally as well, while its documentation promised the union
// of both. Here it is the union: a global role counts in every project that the user is a member or the manager of. To
// be a member is needed by all but cloudadmin and itsec, who may enter every project; Nova let any global role do that.
func RolesIn(global, inProject []string, member, manager bool) (roles []string, enter bool) {
	enter = member || manager || slices.Contains(global, CloudAdmin) || slices.Contains(global, ITSec)
	if !enter {
		return nil, false
	}
	roles = append(roles, global...)
	if member {
		roles = append(roles, inProject...)
	}
	if manager {
		roles = append(roles, ProjectManager)
	}
	slices.Sort(roles)
	return slices.Compact(roles), true
}

// checkRoles refuses roles that may not be given, and returns the others sorted, each once.
func checkRoles(field string, roles, allowed []string) ([]string, error) {
	for _, r := range roles {
		if !slices.Contains(allowed, r) {
			return nil, fmt.Errorf("auth: %s: %.40q is not one of the roles %s: %w", field, r, strings.Join(allowed, ", "),
				errdefs.ErrInvalidArgument)
		}
	}
	roles = slices.Sorted(slices.Values(roles))
	return slices.Compact(roles), nil
}
