package compute

import (
	"net/netip"
	"slices"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// GuestData returns what an instance may know about itself. An unknown instance is NotFound.
func GuestData(r state.Reader, instanceID string) (guestdata.Guest, error) {
	i, err := Instances.Get(r, instanceID)
	if err != nil {
		return guestdata.Guest{}, err
	}
	g := guestdata.Guest{ID: i.ID, Name: i.Name, Hostname: i.Hostname, ProjectID: i.ProjectID, ReservationID: i.ReservationID,
		LaunchIndex: i.LaunchIndex, Zone: i.Zone, Flavor: i.Flavor.Name, ImageID: i.ImageID, KernelID: i.KernelID,
		RamdiskID: i.RamdiskID, KeyName: i.KeyName, PublicKey: i.PublicKey, UserData: i.UserData}
	for _, id := range i.Ports {
		p, err := network.Ports.Get(r, id)
		if err != nil {
			return guestdata.Guest{}, err
		}
		n, err := network.Networks.Get(r, p.NetworkID)
		if err != nil {
			return guestdata.Guest{}, err
		}
		for _, id := range p.SecurityGroups {
			group, err := network.SecurityGroups.Get(r, id)
			if err == nil && !slices.Contains(g.SecurityGroups, group.Name) {
				g.SecurityGroups = append(g.SecurityGroups, group.Name)
			}
		}
		for f := range network.FloatingIPs.By(r, "port", p.ID) {
			if f.Addr.Is4() && (!g.PublicIPv4.IsValid() || f.Addr.Less(g.PublicIPv4)) {
				g.PublicIPv4 = f.Addr
			}
		}
		if g.Domain == "" {
			g.Domain = n.Domain
		}
		c := guestdata.Card{PortID: p.ID, NetworkID: n.ID, MAC: p.MAC, MTU: n.MTU, DHCP: answersDHCP(n), SLAAC: n.CIDRv6.IsValid(), Router: n.Router, DNS: n.DNS,
			Domain: n.Domain}
		for _, a := range p.Addrs {
			if a.Is4() {
				c.Addrs = append(c.Addrs, netip.PrefixFrom(a, n.CIDR.Bits()))
			}
		}
		for _, route := range n.Routes {
			c.Routes = append(c.Routes, guestdata.Route{To: route.To, Via: route.Via})
		}
		g.Cards = append(g.Cards, c)
	}
	return g, nil
}
