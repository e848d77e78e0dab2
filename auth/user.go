package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// UserSpec is a user to be made.
type UserSpec struct {
	Name  string   // required: 1 to [MaxName] bytes, unique in the cloud
	Roles []string // of [GlobalRoles]; they count in every project that the user is in
}

// CreateUser makes a user, which is in no project yet.
func (s *Service) CreateUser(ctx context.Context, spec UserSpec) (User, error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:user:create", "")
	if err != nil {
		return User{}, err
	}
	if err := checkName("Name", spec.Name); err != nil {
		return User{}, err
	}
	roles, err := checkRoles("Roles", spec.Roles, GlobalRoles())
	if err != nil {
		return User{}, err
	}
	u := User{ID: uuid.NewString(), Name: spec.Name, Roles: roles, Created: time.Now().UTC()}
	if err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error { return put(tx, Users, u) }); err != nil {
		return User{}, err
	}
	s.note(ctx, by, "user created", "user", u.ID, "name", u.Name, "roles", u.Roles)
	return u, nil
}

// GetUser returns a user: to all callers themselves, to administrators anyone.
func (s *Service) GetUser(ctx context.Context, id string) (u User, err error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:user:get", "")
	if err != nil {
		return User{}, err
	}
	if !by.Admin && id != by.UserID {
		return User{}, fmt.Errorf("auth: user %s may only look at itself: %w", by.UserID, errdefs.ErrPermissionDenied)
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		u, err = findUser(v, id)
		return err
	})
	return u, err
}

// ListUsers returns all users, in the order of their ids.
func (s *Service) ListUsers(ctx context.Context) ([]User, error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "auth:user:list", ""); err != nil {
		return nil, err
	}
	all := []User{}
	err := s.cfg.Store.View(func(v *state.View) error {
		for u := range Users.All(v) {
			all = append(all, u)
		}
		return nil
	})
	return all, err
}

// SetUserRoles replaces the global roles of a user.
func (s *Service) SetUserRoles(ctx context.Context, id string, roles []string) (u User, err error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:user:update", "")
	if err != nil {
		return User{}, err
	}
	if roles, err = checkRoles("Roles", roles, GlobalRoles()); err != nil {
		return User{}, err
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if u, err = findUser(tx, id); err != nil {
			return err
		}
		u.Roles = roles
		return put(tx, Users, u)
	})
	if err != nil {
		return User{}, err
	}
	s.note(ctx, by, "roles of a user set", "user", u.ID, "name", u.Name, "roles", u.Roles)
	return u, nil
}

// DeleteUser removes a user with its key pairs and its memberships. The manager of a project is FailedPrecondition: give
// that project another manager first. What the user made stays with the projects.
func (s *Service) DeleteUser(ctx context.Context, id string) error {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:user:delete", "")
	if err != nil {
		return err
	}
	if err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error { return deleteUser(tx, id) }); err != nil {
		return err
	}
	s.note(ctx, by, "user deleted", "user", id)
	return nil
}

func deleteUser(tx *state.Tx, id string) error {
	u, err := findUser(tx, id)
	if err != nil {
		return err
	}
	for p := range Projects.By(tx, "manager", id) {
		return fmt.Errorf("auth: user %s (%s) is the manager of project %s (%s), which needs another first: %w", u.ID, u.Name, p.ID, p.Name,
			errdefs.ErrFailedPrecondition)
	}
	// An index shows what is there and guards no gaps; the sums guard that nothing is added meanwhile.
	ManagerUse.Get(tx, id)
	KeyPairUse.Get(tx, id)
	UserUse.Get(tx, id)
	for _, k := range collect(KeyPairs, tx, "user", id) {
		if err := KeyPairs.Delete(tx, pair(id, k.Name)); err != nil {
			return err
		}
	}
	for _, m := range collect(Members, tx, "user", id) {
		if err := Members.Delete(tx, pair(m.ProjectID, id)); err != nil {
			return err
		}
	}
	return Users.Delete(tx, id)
}

func findUser(r state.Reader, id string) (User, error) {
	u, err := Users.Get(r, id)
	if err != nil {
		return User{}, absent("user", id)
	}
	return u, nil
}

// collect returns the records under a value of an index, so that they can be changed while one goes through them.
func collect[T any](table *state.Table[T], r state.Reader, index, value string) []T {
	all := []T{}
	for rec := range table.By(r, index, value) {
		all = append(all, rec)
	}
	return all
}
