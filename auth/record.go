package auth

import (
	"net/url"
	"slices"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// User is somebody who can be a caller.
type User struct {
	ID      string
	Name    string   // unique in the cloud
	Roles   []string // global ones, sorted
	Created time.Time
}

// Clone returns a copy that shares nothing.
func (u User) Clone() User {
	u.Roles = slices.Clone(u.Roles)
	return u
}

// Project owns instances, images, networks, and has a quota. A deleted project stays on record, so that nothing can come to
// belong to it any more, but others can have its name.
type Project struct {
	ID          string
	Name        string // unique among the projects that are not deleted
	Description string
	ManagerID   string // a user: has the role projectmanager; "": nobody
	Created     time.Time
	Deleted     time.Time // zero: it is not
}

// Member is a user's belonging to a project.
type Member struct {
	ProjectID string
	UserID    string
	Roles     []string // in the project, sorted
}

// Clone returns a copy that shares nothing.
func (m Member) Clone() Member {
	m.Roles = slices.Clone(m.Roles)
	return m
}

// The tables of this package. Only its [Service] writes them; others read them in their own transactions, by
// [FindKeyPair], [CheckQuota] and [LimitsOf].
var (
	Users = state.NewTable("user", func(u User) string { return u.ID },
		state.Unique("name", func(u User) []string { return []string{u.Name} }))

	Projects = state.NewTable("project", func(p Project) string { return p.ID },
		state.Index("manager", func(p Project) []string { return p.current(p.ManagerID) }),
		state.Unique("name", func(p Project) []string { return p.current(p.Name) }))

	Members = state.NewTable("member", func(m Member) string { return pair(m.ProjectID, m.UserID) },
		state.Index("project", func(m Member) []string { return []string{m.ProjectID} }),
		state.Index("user", func(m Member) []string { return []string{m.UserID} }))

	KeyPairs = state.NewTable("key-pair", func(k KeyPair) string { return pair(k.UserID, k.Name) },
		state.Index("user", func(k KeyPair) []string { return []string{k.UserID} }))

	Quotas = state.NewTable("quota", func(q Quota) string { return q.ProjectID })

	// KeyPairUse counts the key pairs of a user.
	KeyPairUse = state.NewSum("key-pair-use", KeyPairs, func(k KeyPair) (string, Count) { return k.UserID, 1 })
	// UserUse counts the memberships of a user, MemberUse those in a project.
	UserUse   = state.NewSum("user-use", Members, func(m Member) (string, Count) { return m.UserID, 1 })
	MemberUse = state.NewSum("member-use", Members, func(m Member) (string, Count) { return m.ProjectID, 1 })
	// ManagerUse counts the projects that a user manages.
	ManagerUse = state.NewSum("manager-use", Projects, func(p Project) (string, Count) {
		if p.ManagerID == "" || !p.Deleted.IsZero() {
			return "", 0
		}
		return p.ManagerID, 1
	})
)

// Count is a [state.Sum]'s number of records.
type Count int

// Plus returns c + d.
func (c Count) Plus(d Count) Count { return c + d }

// Minus returns c - d.
func (c Count) Minus(d Count) Count { return c - d }

// Schema returns the tables and sums that a store needs for this package.
func Schema() []state.Schema {
	return []state.Schema{Users, Projects, Members, KeyPairs, Quotas, KeyPairUse, UserUse, MemberUse, ManagerUse}
}

// current returns the value for an index over the projects that are not deleted.
func (p Project) current(value string) []string {
	if !p.Deleted.IsZero() {
		return nil
	}
	return []string{value}
}

// pair makes a key of an id and what is unique under it.
func pair(id, name string) string { return url.PathEscape(id) + "/" + name }
