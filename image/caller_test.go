package image

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// as is a context of a caller who works in a project.
func as(t *testing.T, project string) context.Context {
	return auth.NewContext(t.Context(), auth.Caller{UserID: "user of " + project, ProjectID: project, Roles: []string{auth.SysAdmin}})
}

func asAdmin(t *testing.T) context.Context {
	return auth.NewContext(t.Context(), auth.Caller{UserID: "admin", ProjectID: "admins", Admin: true})
}

func policy() auth.Policy { return auth.DefaultPolicy() }

func newStore(t *testing.T, log state.Log) *state.Store {
	t.Helper()
	store, err := state.Open(t.Context(), state.Config{Log: log, Schema: append(auth.Schema(), Images)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// rig is a service over a store in memory and blobs in a directory.
type rig struct {
	*Service
	store *state.Store
	log   state.Log
	blobs *Files
	dir   string
}

func newRig(t *testing.T) rig {
	t.Helper()
	log := memstate.New(memstate.Config{})
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	r := rig{store: newStore(t, log), log: log, dir: t.TempDir() + "/images"}
	r.blobs = newFiles(t, r.dir)
	var err error
	r.Service, err = NewService(ServiceConfig{Store: r.store, Blobs: r.blobs, Policy: policy(), MaxBytes: 1 << 20})
	require.NoError(t, err)
	return r
}
