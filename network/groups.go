package network

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

var printable = regexp.MustCompile(`^[^\p{C}\p{Zl}\p{Zp}]*$`)

// CreateSecurityGroup makes a group of the caller's project that has one rule: its machines reach everybody. A name that the
// project has already is AlreadyExists, one group too many ResourceExhausted.
func (s *Service) CreateSecurityGroup(ctx context.Context, name, description string) (SecurityGroup, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "network:group:create", "")
	if err != nil {
		return SecurityGroup{}, err
	}
	for field, text := range map[string]string{"name": name, "description": description} {
		if len(text) > maxGroupText || !printable.MatchString(text) || field == "name" && text == "" {
			return SecurityGroup{}, fmt.Errorf("network: security group: %s %.40q must have at most %d bytes, all printable: %w", field, text,
				maxGroupText, errdefs.ErrInvalidArgument)
		}
	}
	var g SecurityGroup
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if _, err := EnsureDefaultGroup(tx, caller.ProjectID); err != nil { // its name is taken, whether it is there yet or not
			return err
		}
		if err := auth.CheckQuota(tx, caller.ProjectID, auth.Amounts{SecurityGroups: 1}, SecurityGroupUse.Get(tx, caller.ProjectID)); err != nil {
			return err
		}
		g = newGroup(caller.ProjectID, name, description)
		g.allowEgress()
		return SecurityGroups.Insert(tx, g)
	})
	if errdefs.IsAlreadyExists(err) {
		err = fmt.Errorf("network: security group %q: the project has one of this name: %w", name, errdefs.ErrAlreadyExists)
	}
	return g, err
}

// group returns a group that the caller may do something to: its project's, by id or name, or for administrators any, by id.
func (s *Service) group(ctx context.Context, r state.Reader, action, idOrName string) (SecurityGroup, error) {
	caller, _ := auth.FromContext(ctx)
	project := caller.ProjectID
	if g, err := SecurityGroups.Get(r, idOrName); err == nil && caller.Admin {
		project = g.ProjectID
	}
	if _, err := s.cfg.Policy.Authorize(ctx, action, project); err != nil {
		return SecurityGroup{}, err
	}
	return findGroup(r, project, idOrName)
}

// SecurityGroup returns a group of the caller's project by id or name; administrators see those of all projects by id.
func (s *Service) SecurityGroup(ctx context.Context, idOrName string) (g SecurityGroup, err error) {
	err = s.cfg.Store.View(func(v *state.View) error { g, err = s.group(ctx, v, "network:group:get", idOrName); return err })
	return g, err
}

// SecurityGroups returns the groups of the caller's project, sorted by name. The default group is among them once the project
// has a port or a group.
func (s *Service) SecurityGroups(ctx context.Context) (all []SecurityGroup, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "network:group:list", "")
	if err != nil {
		return nil, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		all = slices.Collect(SecurityGroups.By(v, "project", caller.ProjectID))
		return nil
	})
	slices.SortFunc(all, func(a, b SecurityGroup) int { return cmp.Compare(a.Name, b.Name) })
	return all, err
}

// AddRules adds rules to a group, live: those of its machines that run have them in force soon. It adds all or none. A rule that
// Rule.Validate refuses is InvalidArgument, one whose RemoteGroup the project does not have NotFound, one that the group has
// AlreadyExists, and one too many ResourceExhausted.
func (s *Service) AddRules(ctx context.Context, idOrName string, rules ...Rule) (g SecurityGroup, err error) {
	for i, r := range rules {
		if err := r.Validate(); err != nil {
			return g, fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if g, err = s.group(ctx, tx, "network:group:rule:add", idOrName); err != nil {
			return err
		}
		used := auth.Amounts{SecurityGroupRules: len(g.Rules)}
		if err := auth.CheckQuota(tx, g.ProjectID, auth.Amounts{SecurityGroupRules: len(rules)}, used); err != nil {
			return err
		}
		for i, r := range rules {
			r = r.normal()
			if r.RemoteGroup != "" {
				remote, err := findGroup(tx, g.ProjectID, r.RemoteGroup)
				if err != nil {
					return fmt.Errorf("rule %d: RemoteGroup: %w", i+1, err)
				}
				r.RemoteGroup = remote.ID
			}
			for _, old := range g.Rules {
				if old.Rule == r {
					return fmt.Errorf("network: security group %q has the rule %q: %w", g.Name, r, errdefs.ErrAlreadyExists)
				}
			}
			g.Rules = append(g.Rules, SecurityRule{uuid.NewString(), r})
		}
		return SecurityGroups.Put(tx, g)
	})
	return g, err
}

// RemoveRules removes rules from a group by their ids, live: what they had let through is soon let through no more. It removes
// all or none; a rule that the group has not is NotFound.
func (s *Service) RemoveRules(ctx context.Context, idOrName string, ruleIDs ...string) (g SecurityGroup, err error) {
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if g, err = s.group(ctx, tx, "network:group:rule:remove", idOrName); err != nil {
			return err
		}
		for _, id := range ruleIDs {
			at := slices.IndexFunc(g.Rules, func(r SecurityRule) bool { return r.ID == id })
			if at < 0 {
				return fmt.Errorf("network: security group %q: rule %.80q: %w", g.Name, id, errdefs.ErrNotFound)
			}
			g.Rules = slices.Delete(g.Rules, at, at+1)
		}
		return SecurityGroups.Put(tx, g)
	})
	return g, err
}

// SetSecurityGroups makes a port be in exactly the groups that are named, by ids or names, of the port's project, live; none
// is the default group. One that the project does not have is NotFound.
func (s *Service) SetSecurityGroups(ctx context.Context, portID string, groups ...string) (p Port, err error) {
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		caller, _ := auth.FromContext(ctx)
		if p, err = Ports.Get(tx, portID); err != nil || p.ProjectID != caller.ProjectID && !caller.Admin {
			p = Port{ProjectID: caller.ProjectID}
			err = fmt.Errorf("network: port %.80q: %w", portID, errdefs.ErrNotFound)
		}
		if _, denied := s.cfg.Policy.Authorize(ctx, "network:group:set", p.ProjectID); denied != nil {
			return denied
		}
		if err != nil {
			return err
		}
		if p.SecurityGroups, err = groupsFor(tx, p.ProjectID, groups); err != nil {
			return err
		}
		return Ports.Put(tx, p)
	})
	return p, err
}

// DeleteSecurityGroup removes a group that no port is in and no rule of another group names; one in use is FailedPrecondition,
// names who uses it, and stays as it was. The default group is refused in the same way.
//
// As with networks it takes two transactions: the first marks the group, after which nobody can use it, and the second looks. Who
// is killed between them repeats it.
func (s *Service) DeleteSecurityGroup(ctx context.Context, idOrName string) error {
	var g SecurityGroup
	used := func(r state.Reader) error {
		for p := range Ports.By(r, "security-group", g.ID) {
			return fmt.Errorf("network: security group %q: port %s of instance %s is in it: %w", g.Name, p.ID, p.InstanceID, errdefs.ErrFailedPrecondition)
		}
		for other := range SecurityGroups.By(r, "remote", g.ID) {
			if other.ID != g.ID {
				return fmt.Errorf("network: security group %q: a rule of group %q names it: %w", g.Name, other.Name, errdefs.ErrFailedPrecondition)
			}
		}
		return nil
	}
	for {
		err := s.cfg.Store.Update(ctx, func(tx *state.Tx) (err error) {
			if g, err = s.deletable(ctx, tx, idOrName); err != nil || g.Deleting {
				return err
			}
			if err := used(tx.Unguarded()); err != nil {
				return err
			}
			g.Deleting = true
			return SecurityGroups.Put(tx, g)
		})
		if err != nil {
			return err
		}
		var inUse error
		var again bool
		err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
			rec, err := SecurityGroups.Get(tx, g.ID)
			if err != nil {
				return err
			}
			if again = !rec.Deleting; again { // another Delete found who uses it, and took its mark back
				return nil
			}
			if inUse = used(tx.Unguarded()); inUse != nil {
				rec.Deleting = false
				return SecurityGroups.Put(tx, rec)
			}
			return SecurityGroups.Delete(tx, g.ID)
		})
		if err != nil {
			return err
		}
		if !again {
			return inUse
		}
	}
}

// deletable returns a group that the caller may delete, also one that is on its way.
func (s *Service) deletable(ctx context.Context, r state.Reader, idOrName string) (SecurityGroup, error) {
	caller, _ := auth.FromContext(ctx)
	g, err := SecurityGroups.Get(r, idOrName)
	if errdefs.IsNotFound(err) {
		g, err = SecurityGroups.One(r, "name", groupName(caller.ProjectID, idOrName))
	}
	project := caller.ProjectID
	if err == nil && caller.Admin {
		project = g.ProjectID
	}
	if _, err := s.cfg.Policy.Authorize(ctx, "network:group:delete", project); err != nil {
		return SecurityGroup{}, err
	}
	switch {
	case err != nil && !errdefs.IsNotFound(err):
		return SecurityGroup{}, err
	case err != nil || g.ProjectID != project:
		return SecurityGroup{}, fmt.Errorf("network: security group %.80q: project %q has none: %w", idOrName, project, errdefs.ErrNotFound)
	case g.Name == DefaultGroup:
		return SecurityGroup{}, fmt.Errorf("network: security group %q: every project has one: %w", g.Name, errdefs.ErrFailedPrecondition)
	}
	return g, nil
}
