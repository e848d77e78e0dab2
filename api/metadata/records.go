package metadata

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Records is the records of a cloud: a [Source], and the Resolve that goes with it.
type Records struct {
	Store *state.Store // required
}

var _ Source = Records{}

// Guest implements [Source].
func (s Records) Guest(_ context.Context, portID string) (g guestdata.Guest, err error) {
	err = s.Store.View(func(v *state.View) error {
		p, err := network.Ports.Get(v, portID)
		if err != nil {
			return err
		}
		g, err = compute.GuestData(v, p.InstanceID)
		return err
	})
	return g, err
}

// Cluster implements [Source].
func (s Records) Cluster(_ context.Context, projectID string) (map[string][]string, error) {
	all := map[string][]string{}
	err := s.Store.View(func(v *state.View) error {
		for i := range compute.Instances.By(v, "project", projectID) {
			if len(i.Ports) == 0 || i.KeyName == "" {
				continue
			}
			p, err := network.Ports.Get(v, i.Ports[0])
			if err != nil {
				continue // it is being removed
			}
			for _, a := range p.Addrs {
				if a.Is4() {
					all[i.KeyName] = append(all[i.KeyName], fmt.Sprintf("%v slots=%d", a, i.Flavor.VCPUs))
					break
				}
			}
		}
		return nil
	})
	return all, err
}

// Resolve is a Config.Resolve: it knows connections that are a [network.PeerConn].
func (s Records) Resolve(c net.Conn) (portID string, err error) {
	from, ok := c.(network.PeerConn)
	if !ok {
		return "", fmt.Errorf("metadata: where a %T comes from is not known: %w", c, errdefs.ErrNotFound)
	}
	err = s.Store.View(func(v *state.View) error {
		p, err := network.FindPort(v, from.Peer())
		portID = p.ID
		return err
	})
	return portID, err
}
