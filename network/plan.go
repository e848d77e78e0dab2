package network

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Plan returns what the data path of a node should be: a function of the records and nothing else. A node has the
// bridges of the networks that it has plugged ports on, a tap for each of these ports, and their security groups.
func Plan(r state.Reader, hostID string) Desired {
	var d Desired
	networks := map[string]Network{}
	for p := range Ports.By(r, "host", hostID) {
		if !p.Plugged {
			continue
		}
		n, known := networks[p.NetworkID]
		if !known {
			var err error
			if n, err = Networks.Get(r, p.NetworkID); err != nil {
				continue // a network with ports can't be deleted
			}
			networks[n.ID] = n
			d.Bridges = append(d.Bridges, n.bridge())
		}
		d.Taps = append(d.Taps, p.tap(n))
	}
	slices.SortFunc(d.Bridges, func(a, b Bridge) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Taps, func(a, b Tap) int { return cmp.Compare(a.Name, b.Name) })
	d.Groups = groups(r, groupsOf(d.Taps))
	return d
}

// bridge is what every node of the network has. Each mode has its own; FlatDHCP is the one there is.
func (n Network) bridge() Bridge {
	return Bridge{
		Name: n.Bridge, MTU: n.MTU, Uplink: n.Uplink, Gateway: prefixOf(n.Gateway, n.CIDR),
		Router: n.Router, DNS: n.DNS, Domain: n.Domain, Lease: n.Lease, Routes: n.routes(),
	}
}

// MetadataAddr is where guests ask about themselves.
var MetadataAddr = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// routes are the network's own and, where guests route through somebody else, the one that leads to the node's metadata.
func (n Network) routes() []Route {
	if !n.Gateway.IsValid() || n.Router == n.Gateway {
		return n.Routes
	}
	for _, r := range n.Routes {
		if r.To.Bits() == 32 && r.To.Addr() == MetadataAddr {
			return n.Routes // as the network says
		}
	}
	return append(n.Routes[:len(n.Routes):len(n.Routes)], Route{netip.PrefixFrom(MetadataAddr, 32), n.Gateway})
}

func (p Port) tap(n Network) Tap {
	return Tap{Name: p.TapName(), Bridge: n.Bridge, Port: p.ID, MAC: p.HardwareAddr(), IPs: p.Addrs, Hostname: p.Hostname,
		Guarded: true, Groups: p.SecurityGroups}
}
