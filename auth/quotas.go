package auth

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// GetQuota returns the limits of a project, as [LimitsOf] has them, and what it uses, as far as [ServiceConfig].Used
// tells. projectID "" is the caller's own, and [EveryProject] the limits of those without their own.
func (s *Service) GetQuota(ctx context.Context, projectID string) (limits, used Amounts, err error) {
	if projectID, err = s.quotaOf(ctx, "auth:quota:get", projectID); err != nil {
		return Amounts{}, Amounts{}, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		limits = LimitsOf(v, projectID)
		if projectID != EveryProject {
			used = s.cfg.Used(v, projectID)
		}
		return nil
	})
	return limits, used, err
}

// SetQuota sets the limits that are named, each [Unlimited] or from 0, for one project or for [EveryProject], and leaves
// the others; it returns all that then hold. The project need not be on record, but must not be deleted. A limit below what
// is used takes nothing away: it only refuses more.
func (s *Service) SetQuota(ctx context.Context, projectID string, limits map[Resource]int) (now Amounts, err error) {
	if projectID, err = s.quotaOf(ctx, "auth:quota:set", projectID); err != nil {
		return Amounts{}, err
	}
	for r, limit := range limits {
		switch {
		case !slices.Contains(Resources(), r):
			return Amounts{}, fmt.Errorf("auth: Limits: %.40q is not one of the resources %q: %w", r, Resources(), errdefs.ErrInvalidArgument)
		case limit < Unlimited:
			return Amounts{}, fmt.Errorf("auth: Limits: %s is %d, must be at least 0, or %d for no limit: %w", r, limit, Unlimited,
				errdefs.ErrInvalidArgument)
		}
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if err := CheckProject(tx, projectID); err != nil {
			return err
		}
		q, err := Quotas.Get(tx, projectID)
		if err != nil {
			q = Quota{ProjectID: projectID}
		}
		if q.Limits == nil {
			q.Limits = map[Resource]int{}
		}
		for r, limit := range limits {
			q.Limits[r] = limit
		}
		if err := put(tx, Quotas, q); err != nil {
			return err
		}
		now = LimitsOf(tx.Unguarded(), projectID)
		return nil
	})
	return now, err
}

// ResetQuota gives a project the limits of [EveryProject] again, or that the [DefaultLimits]. To repeat it changes nothing.
func (s *Service) ResetQuota(ctx context.Context, projectID string) error {
	projectID, err := s.quotaOf(ctx, "auth:quota:set", projectID)
	if err != nil {
		return err
	}
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if !Quotas.Has(tx, projectID) {
			return nil
		}
		return Quotas.Delete(tx, projectID)
	})
}

// quotaOf authorizes an action on a project's quota and completes the project's id.
func (s *Service) quotaOf(ctx context.Context, action, projectID string) (string, error) {
	by, err := s.cfg.Policy.Authorize(ctx, action, projectID)
	if err != nil {
		return "", err
	}
	if projectID == "" {
		projectID = by.ProjectID
	}
	return projectID, checkName("ProjectID", projectID)
}
