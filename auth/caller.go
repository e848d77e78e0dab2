package auth

import (
	"context"
	"slices"
)

// Caller is who asks for something: a user at work in one project.
type Caller struct {
	UserID    string   // required
	ProjectID string   // where it works; "": in none, which leaves it its own key pairs and little else
	Roles     []string // those it has in the project, as [RolesIn] says
	Admin     bool     // it may do everything, in every project

	recorded bool // FindCaller found the user on record, and so it must still be there where something comes to belong to it
}

// Admin returns a caller with every right, for host programs. What it makes belongs to projectID, which need not be a
// project on record; with "" it can make nothing that a project owns.
func Admin(projectID string) Caller {
	return Caller{UserID: "admin", ProjectID: projectID, Roles: []string{CloudAdmin}, Admin: true}
}

// Has tells whether the caller has at least one of the roles.
func (c Caller) Has(roles ...string) bool {
	return slices.ContainsFunc(roles, func(role string) bool { return slices.Contains(c.Roles, role) })
}

type callerKey struct{}

// NewContext returns a context in which c asks. Only what has authenticated c may call it.
func NewContext(ctx context.Context, c Caller) context.Context {
	c.Roles = slices.Clone(c.Roles)
	return context.WithValue(ctx, callerKey{}, c)
}

// FromContext returns the caller of a context, and whether there is one. The caller's roles must not be changed.
func FromContext(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok && c.UserID != ""
}
