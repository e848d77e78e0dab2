package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// ProjectSpec is a project to be made.
type ProjectSpec struct {
	Name        string // required: 1 to [MaxName] bytes, unique among the projects that are not deleted
	Description string // at most [MaxDescription] bytes
	ManagerID   string // a user on record, who need not be a member; "": none
}

// ProjectChange is what to change of a project; nil leaves a field as it is.
type ProjectChange struct {
	Name, Description, ManagerID *string // as in a ProjectSpec
}

// CreateProject makes a project without members.
func (s *Service) CreateProject(ctx context.Context, spec ProjectSpec) (Project, error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:project:create", "")
	if err != nil {
		return Project{}, err
	}
	p := Project{ID: uuid.NewString(), Name: spec.Name, Description: spec.Description, ManagerID: spec.ManagerID,
		Created: time.Now().UTC()}
	if err := p.check(); err != nil {
		return Project{}, err
	}
	if err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error { return putProject(tx, p) }); err != nil {
		return Project{}, err
	}
	s.note(ctx, by, "project created", "project", p.ID, "name", p.Name, "manager", p.ManagerID)
	return p, nil
}

func (p Project) check() error {
	if err := checkName("Name", p.Name); err != nil {
		return err
	}
	if len(p.Description) > MaxDescription || !utf8.ValidString(p.Description) {
		return fmt.Errorf("auth: Description must have at most %d bytes of UTF-8, but has %d: %w", MaxDescription, len(p.Description),
			errdefs.ErrInvalidArgument)
	}
	return nil
}

// putProject records a project, whose manager must be on record for as long as it is that.
func putProject(tx *state.Tx, p Project) error {
	if p.ManagerID != "" {
		if _, err := findUser(tx, p.ManagerID); err != nil {
			return fmt.Errorf("auth: ManagerID: %w", err)
		}
	}
	return put(tx, Projects, p)
}

// GetProject returns the caller's project (id "" or its own), to administrators any; one that is deleted is NotFound.
func (s *Service) GetProject(ctx context.Context, id string) (p Project, err error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:project:get", id)
	if err != nil {
		return Project{}, err
	}
	if id == "" {
		id = by.ProjectID
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		p, err = currentProject(v, id)
		return err
	})
	return p, err
}

// ListProjects returns the projects that are not deleted, in the order of their ids: to a caller those that it is a member or the
// manager of, to administrators and to itsec, who may enter them all, all.
func (s *Service) ListProjects(ctx context.Context) ([]Project, error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:project:list", "")
	if err != nil {
		return nil, err
	}
	all := []Project{}
	add := func(p Project) {
		if p.Deleted.IsZero() {
			all = append(all, p)
		}
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		if by.Admin || by.Has(ITSec) {
			for p := range Projects.All(v) {
				add(p)
			}
			return nil
		}
		for p := range Projects.By(v, "manager", by.UserID) {
			add(p)
		}
		for m := range Members.By(v, "user", by.UserID) {
			if p, err := Projects.Get(v, m.ProjectID); err == nil && p.ManagerID != by.UserID {
				add(p)
			}
		}
		return nil
	})
	slices.SortFunc(all, func(a, b Project) int { return strings.Compare(a.ID, b.ID) })
	return all, err
}

// UpdateProject changes a project's name, description or manager.
func (s *Service) UpdateProject(ctx context.Context, id string, change ProjectChange) (p Project, err error) {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:project:update", id)
	if err != nil {
		return Project{}, err
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if p, err = currentProject(tx, id); err != nil {
			return err
		}
		for _, f := range []struct{ to, from *string }{
			{&p.Name, change.Name}, {&p.Description, change.Description}, {&p.ManagerID, change.ManagerID},
		} {
			if f.from != nil {
				*f.to = *f.from
			}
		}
		if err := p.check(); err != nil {
			return err
		}
		return putProject(tx, p)
	})
	if err != nil {
		return Project{}, err
	}
	s.note(ctx, by, "project changed", "project", p.ID, "name", p.Name, "manager", p.ManagerID)
	return p, nil
}

// DeleteProject marks a project as deleted, frees its name, and removes its memberships and its quota. Nobody can enter it
// any more, and nothing can come to belong to it. One that still uses something, as far as [ServiceConfig].Used tells, is
// FailedPrecondition and says what: its instances and volumes are to be deleted first, by those who know how. Members don't keep
// it: whose they are is what being a member is about. Deleting it again is NotFound.
func (s *Service) DeleteProject(ctx context.Context, id string) error {
	by, err := s.cfg.Policy.Authorize(ctx, "auth:project:delete", id)
	if err != nil {
		return err
	}
	if err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error { return s.deleteProject(tx, id) }); err != nil {
		return err
	}
	s.note(ctx, by, "project deleted", "project", id)
	return nil
}

func (s *Service) deleteProject(tx *state.Tx, id string) error {
	p, err := currentProject(tx, id)
	if err != nil {
		return err
	}
	used := s.cfg.Used(tx, id)
	for _, r := range Resources() {
		if n := used.Of(r); n != 0 {
			return fmt.Errorf("auth: project %s (%s) still has %d %s; delete them first: %w", p.ID, p.Name, n, r,
				errdefs.ErrFailedPrecondition)
		}
	}
	MemberUse.Get(tx, id) // guards that no member is added meanwhile
	for _, m := range collect(Members, tx, "project", id) {
		if err := Members.Delete(tx, pair(id, m.UserID)); err != nil {
			return err
		}
	}
	if Quotas.Has(tx, id) {
		if err := Quotas.Delete(tx, id); err != nil {
			return err
		}
	}
	p.Deleted = time.Now().UTC()
	return put(tx, Projects, p)
}

// currentProject returns a project that is not deleted.
func currentProject(r state.Reader, id string) (Project, error) {
	p, err := Projects.Get(r, id)
	if err != nil || !p.Deleted.IsZero() {
		return Project{}, absent("project", id)
	}
	return p, nil
}

// CheckProject returns nil unless the project is deleted: then nothing can come to belong to it, which is
// FailedPrecondition. A project that is not on record is no error. In a transaction it guards that this stays so.
func CheckProject(r state.Reader, projectID string) error {
	if p, err := Projects.Get(r, projectID); err == nil && !p.Deleted.IsZero() {
		return fmt.Errorf("auth: project %s (%s) is deleted: %w", p.ID, p.Name, errdefs.ErrFailedPrecondition)
	}
	return nil
}
