package auth

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// SetMember makes a user a member of a project, or replaces the roles that it has there; roles are of [ProjectRoles], and none
// are possible. projectID "" is the caller's own. A project or a user with too many is ResourceExhausted.
func (s *Service) SetMember(ctx context.Context, projectID, userID string, roles []string) (m Member, err error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:member:set", projectID)
	if err != nil {
		return Member{}, err
	}
	if projectID == "" {
		projectID = by.ProjectID
	}
	if roles, err = checkRoles("Roles", roles, ProjectRoles()); err != nil {
		return Member{}, err
	}
	m = Member{ProjectID: projectID, UserID: userID, Roles: roles}
	if err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error { return setMember(tx, m) }); err != nil {
		return Member{}, err
	}
	s.note(ctx, by, "member set", "project", projectID, "user", userID, "roles", roles)
	return m, nil
}

func setMember(tx *state.Tx, m Member) error {
	if _, err := currentProject(tx, m.ProjectID); err != nil {
		return err
	}
	if _, err := findUser(tx, m.UserID); err != nil {
		return err
	}
	if !Members.Has(tx, pair(m.ProjectID, m.UserID)) {
		if MemberUse.Get(tx, m.ProjectID) >= MaxMembers {
			return fmt.Errorf("auth: project %s has %d members, more are not possible: %w", m.ProjectID, MaxMembers,
				errdefs.ErrResourceExhausted)
		}
		if UserUse.Get(tx, m.UserID) >= MaxMemberships {
			return fmt.Errorf("auth: user %s is a member of %d projects, more are not possible: %w", m.UserID, MaxMemberships,
				errdefs.ErrResourceExhausted)
		}
	}
	return put(tx, Members, m)
}

// RemoveMember ends a membership; one that does not exist is NotFound. A manager stays what it is.
func (s *Service) RemoveMember(ctx context.Context, projectID, userID string) error {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:member:remove", projectID)
	if err != nil {
		return err
	}
	if projectID == "" {
		projectID = by.ProjectID
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if _, err := currentProject(tx, projectID); err != nil {
			return err
		}
		if !Members.Has(tx, pair(projectID, userID)) {
			return absent("member of project "+projectID, userID)
		}
		return Members.Delete(tx, pair(projectID, userID))
	})
	if err != nil {
		return err
	}
	s.note(ctx, by, "member removed", "project", projectID, "user", userID)
	return nil
}

// ListMembers returns the members of a project, in the order of their users' ids.
func (s *Service) ListMembers(ctx context.Context, projectID string) (all []Member, err error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:member:list", projectID)
	if err != nil {
		return nil, err
	}
	if projectID == "" {
		projectID = by.ProjectID
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		if _, err := currentProject(v, projectID); err != nil {
			return err
		}
		all = collect(Members, v, "project", projectID)
		return nil
	})
	return all, err
}
