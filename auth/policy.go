package auth

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Policy says who may do what. It is data: one rule for each action, and what has no rule is denied to everybody,
// administrators included, so that an action that was forgotten is found by the first test that uses it. The zero value
// denies everything. A policy may be used by any number of goroutines as long as nobody changes its map.
type Policy struct {
	Rules map[string]Rule // by action: "compute:run"
}

// Rule says who may do one action. The zero value is administrators only.
type Rule struct {
	// Roles are those of which a caller needs one, in the project at hand.
	Roles []string

	// Member lets every caller do it in its own project, with any role or none.
	Member bool

	// Personal is for what belongs to the user and not to a project, as key pairs do: every caller may do it, one that
	// works in no project too. That it does it to what is its own is for the service to see to.
	Personal bool

	// Owned is for what makes something that a project owns: an administrator who works in no project must not do it
	// either.
	Owned bool
}

// Authorize returns the caller of ctx if it may do the action in a project; projectID "" means the caller's own. A
// service that is given the id of an object looks up the project that the object belongs to and asks for that.
//
// A ctx without a caller is Unauthenticated. PermissionDenied is an action that has no rule, the project of somebody else
// for a caller that is not an administrator, none of the rule's roles, and no project at all where one is needed.
func (p Policy) Authorize(ctx context.Context, action, projectID string) (Caller, error) {
	c, ok := FromContext(ctx)
	if !ok {
		return Caller{}, fmt.Errorf("auth: %s: the context has no caller: %w", action, errdefs.ErrUnauthenticated)
	}
	denied := func(format string, args ...any) (Caller, error) {
		return Caller{}, fmt.Errorf("auth: %s: %s: %w", action, fmt.Sprintf(format, args...), errdefs.ErrPermissionDenied)
	}
	rule, ok := p.Rules[action]
	if !ok {
		return denied("the policy has no such action")
	}
	if projectID == "" {
		projectID = c.ProjectID
	}
	switch {
	case rule.Owned && projectID == "":
		return denied("it makes something that a project owns, so user %s must work in one", c.UserID)
	case c.Admin:
		return c, nil
	case projectID != c.ProjectID:
		return denied("user %s works in project %q, not in %.64q", c.UserID, c.ProjectID, projectID)
	case rule.Personal:
		return c, nil
	case projectID == "":
		return denied("user %s works in no project", c.UserID)
	case rule.Member, c.Has(rule.Roles...):
		return c, nil
	case len(rule.Roles) == 0:
		return denied("only an administrator may, and user %s is none", c.UserID)
	}
	return denied("user %s has none of the roles %s in project %s", c.UserID, strings.Join(rule.Roles, ", "), projectID)
}
