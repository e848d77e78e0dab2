// Package auth says who may do what in a cloud, and how much: users, projects, roles, key pairs, quotas, and the policy
// that every action of every service goes through.
//
//	a face (an API, a host program) ── says who the caller is ──► NewContext(ctx, Caller)
//	                                                                   │
//	a service ── Policy.Authorize(ctx, "compute:run", project) ◄───────┘
//	     └─ in its transaction: CheckQuota(tx, project, want, used), FindKeyPair(tx, user, name)
//
// A [Caller] is a user at work in one project, with the roles it has there. Whoever puts one into a context has
// authenticated it; tokens and access keys are how the APIs do that, and a host program that is the only user of its
// cloud says [Admin]. The [Policy] is data: what it does not name is denied, to everybody.
//
// # Records
//
// A [Service] keeps the records, for callers whom the policy lets; [FindCaller] makes a Caller of a user that is on
// record. Nothing needs to be on record for a host program that is its cloud's only user: Admin may do everything, in whatever
// project it names, and a program with users of its own puts its own Callers into contexts.
//
// # Roles
//
// The roles are those of Nova in 2011. Sysadmin, netadmin and developer are given in a project or globally, projectmanager is
// implied by being a project's manager, cloudadmin and itsec are global only. A user's roles in a project are the
// union of those it has there and its global ones; a global role opens a project only to its members, except that
// cloudadmin (who may do everything) and itsec (who may look at everything) may enter every project. See [RolesIn].
//
// # Quotas
//
// A quota is checked in the transaction that uses it, against a [state.Sum] that the store derives in the same
// transaction: nothing is counted on the side, so nothing can leak. See [CheckQuota].
package auth
