package auth

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every combination of one global role, roles in the project, membership and being its manager, against the rules one
// by one.
func TestRolesIn(t *testing.T) {
	globals := [][]string{nil}
	for _, role := range GlobalRoles() {
		globals = append(globals, []string{role}, []string{role, SysAdmin})
	}
	locals := [][]string{nil, {NetAdmin}, {Developer, SysAdmin}}
	rows := 0
	for _, global := range globals {
		for _, local := range locals {
			for _, member := range []bool{false, true} {
				for _, manager := range []bool{false, true} {
					rows++
					roles, enter := RolesIn(global, local, member, manager)
					everywhere := slices.Contains(global, CloudAdmin) || slices.Contains(global, ITSec)
					require.Equal(t, member || manager || everywhere, enter)
					if !enter {
						require.Empty(t, roles)
						continue
					}
					for _, role := range append(GlobalRoles(), ProjectManager) {
						want := slices.Contains(global, role) || member && slices.Contains(local, role) || manager && role == ProjectManager
						require.Equal(t, want, slices.Contains(roles, role), "%s of %v %v %v %v", role, global, local, member, manager)
					}
					require.True(t, slices.IsSorted(roles))
					require.Equal(t, slices.Compact(slices.Clone(roles)), roles)
				}
			}
		}
	}
	require.Equal(t, 11*3*4, rows)
}

func TestRolesInByExample(t *testing.T) {
	for _, row := range []struct {
		name            string
		global, inside  []string
		member, manager bool
		roles           []string
		enter           bool
	}{
		{name: "a stranger stays out"},
		{name: "a global role opens no project", global: []string{SysAdmin}},
		{name: "roles of a membership that is gone count nothing", inside: []string{SysAdmin}, manager: true, enter: true,
			roles: []string{ProjectManager}},
		{name: "a member without roles is in", member: true, enter: true},
		{name: "the union", global: []string{NetAdmin}, inside: []string{SysAdmin}, member: true, enter: true,
			roles: []string{NetAdmin, SysAdmin}},
		{name: "given twice, had once", global: []string{SysAdmin}, inside: []string{SysAdmin}, member: true, manager: true,
			enter: true, roles: []string{ProjectManager, SysAdmin}},
		{name: "itsec goes everywhere", global: []string{ITSec}, inside: []string{SysAdmin}, enter: true, roles: []string{ITSec}},
		{name: "cloudadmin too", global: []string{CloudAdmin}, enter: true, roles: []string{CloudAdmin}},
	} {
		roles, enter := RolesIn(row.global, row.inside, row.member, row.manager)
		require.Equal(t, row.roles, roles, row.name)
		require.Equal(t, row.enter, enter, row.name)
	}
}
