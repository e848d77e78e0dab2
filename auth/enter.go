package auth

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// FindCaller returns the caller that a user on record is in a project, in a transaction or a view: with the roles that
// [RolesIn] says, and as an administrator if it is a cloudadmin. projectID "" is for what needs no project.
//
// It asks nobody's leave: it is for those who have authenticated the user. An unknown user is NotFound; a project that the
// user may not enter, that does not exist or is deleted is PermissionDenied, in the same words. What the caller may do is as of
// now: who keeps it does not notice what changes afterwards.
func FindCaller(r state.Reader, userID, projectID string) (Caller, error) {
	u, err := Users.Get(r, userID)
	if err != nil {
		return Caller{}, absent("user", userID)
	}
	c := Caller{UserID: u.ID, ProjectID: projectID, Admin: slices.Contains(u.Roles, CloudAdmin), recorded: true}
	if projectID == "" {
		c.Roles, _ = RolesIn(u.Roles, nil, false, false)
		return c, nil
	}
	if p, err := currentProject(r, projectID); err == nil {
		m, err := Members.Get(r, pair(p.ID, u.ID))
		roles, enter := RolesIn(u.Roles, m.Roles, err == nil, p.ManagerID == u.ID)
		if enter {
			c.Roles = roles
			return c, nil
		}
	}
	return Caller{}, fmt.Errorf("auth: user %s may not work in project %.64q, if there is one: %w", u.ID, projectID, errdefs.ErrPermissionDenied)
}

// CallerFor is [FindCaller] on the state as it is now.
func (s *Service) CallerFor(ctx context.Context, userID, projectID string) (c Caller, err error) {
	if err := ctx.Err(); err != nil {
		return Caller{}, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		c, err = FindCaller(v, userID, projectID)
		return err
	})
	return c, err
}
