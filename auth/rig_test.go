package auth

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// rig is a cloud's service, with a project and people in it.
type rig struct {
	*Service
	t     *testing.T
	log   state.Log
	store *state.Store
}

func newLog(t *testing.T) state.Log {
	log := memstate.New(memstate.Config{})
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	return log
}

func openStore(t *testing.T, log state.Log, more ...state.Schema) *state.Store {
	t.Helper()
	store, err := state.Open(context.Background(), state.Config{Log: log, Schema: append(Schema(), more...)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

func newRig(t *testing.T) rig {
	t.Helper()
	return rigOn(t, newLog(t))
}

func rigOn(t *testing.T, log state.Log) rig {
	t.Helper()
	r := rig{t: t, log: log, store: openStore(t, log)}
	var err error
	r.Service, err = NewService(ServiceConfig{Store: r.store, Policy: DefaultPolicy()})
	require.NoError(t, err)
	return r
}

// admin is the context of a host program.
func admin(t *testing.T) context.Context { return NewContext(t.Context(), Admin("")) }

func (r rig) user(name string, roles ...string) User {
	r.t.Helper()
	u, err := r.CreateUser(admin(r.t), UserSpec{Name: name, Roles: roles})
	require.NoError(r.t, err)
	return u
}

func (r rig) project(name, managerID string) Project {
	r.t.Helper()
	p, err := r.CreateProject(admin(r.t), ProjectSpec{Name: name, ManagerID: managerID})
	require.NoError(r.t, err)
	return p
}

func (r rig) member(p Project, u User, roles ...string) {
	r.t.Helper()
	_, err := r.SetMember(admin(r.t), p.ID, u.ID, roles)
	require.NoError(r.t, err)
}

// as is the context of a user at work in a project.
func (r rig) as(u User, projectID string) context.Context {
	r.t.Helper()
	c, err := r.CallerFor(r.t.Context(), u.ID, projectID)
	require.NoError(r.t, err)
	return NewContext(r.t.Context(), c)
}

// all returns every record of a table.
func all[T any](store *state.Store, table *state.Table[T]) []T {
	found := []T{}
	_ = store.View(func(v *state.View) error {
		for rec := range table.All(v) {
			found = append(found, rec)
		}
		return nil
	})
	return found
}
