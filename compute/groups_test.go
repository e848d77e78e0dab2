package compute_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

func TestRunPutsItsPortsIntoGroups(t *testing.T) {
	c := newCloud(t, 1)
	c.enlist(t)
	groups := func(asked ...string) ([]string, error) {
		req := one()
		req.SecurityGroups = asked
		made, err := c.service.Run(c.ctx, req)
		if err != nil {
			return nil, err
		}
		var names []string
		err = c.store.View(func(v *state.View) error {
			p, err := network.Ports.Get(v, made[0].Ports[0])
			for _, id := range p.SecurityGroups {
				g, err := network.SecurityGroups.Get(v, id)
				if err != nil {
					return err
				}
				require.Equal(t, made[0].ProjectID, g.ProjectID)
				names = append(names, g.Name)
			}
			return err
		})
		return names, err
	}
	got, err := groups()
	require.NoError(t, err)
	require.Equal(t, []string{network.DefaultGroup}, got)
	_, err = groups("web")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.ErrorContains(t, err, `"web"`)
	_, err = groups(make([]string, network.MaxGroupsPerPort+1)...)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "SecurityGroups names 17 groups")
	nets, err := network.NewService(network.ServiceConfig{Store: c.store, Policy: auth.DefaultPolicy()})
	require.NoError(t, err)
	_, err = nets.CreateSecurityGroup(admin(), "web", "")
	require.NoError(t, err)
	got, err = groups("web")
	require.NoError(t, err)
	require.Equal(t, []string{"web"}, got)
	require.NoError(t, c.close())
}
