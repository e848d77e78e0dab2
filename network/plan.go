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
			d.Bridges = append(d.Bridges, n.bridge(r, hostID))
		}
		d.Taps = append(d.Taps, p.tap(n))
	}
	for n := range Networks.By(r, "node", hostID) {
		if _, known := networks[n.ID]; !known && NetworkPorts.Get(r, n.ID).N > 0 {
			d.Bridges = append(d.Bridges, n.bridge(r, hostID))
		}
	}
	slices.SortFunc(d.Bridges, func(a, b Bridge) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Taps, func(a, b Tap) int { return cmp.Compare(a.Name, b.Name) })
	d.Groups = groups(r, groupsOf(d.Taps))
	d.Floating = floatingOn(r, hostID)
	return d
}

// answered is what the servers of a node are told: the node's own taps, and on a network node those of all nodes.
func answered(r state.Reader, hostID string, plan Desired) Desired {
	d := plan
	d.Taps = slices.Clone(plan.Taps)
	for n := range Networks.By(r, "node", hostID) {
		for p := range Ports.By(r, "network", n.ID) {
			if p.Plugged && !p.On(hostID) {
				d.Taps = append(d.Taps, p.tap(n))
			}
		}
	}
	return d
}

// bridge is what the network is on a node. Each mode has its own.
func (n Network) bridge(r state.Reader, hostID string) Bridge {
	if n.Mode == Flat {
		return Bridge{Name: n.Bridge, External: true, NoServer: true}
	}
	b := Bridge{
		Name: n.Bridge, MTU: n.MTU, Uplink: n.Uplink, VLAN: n.VLAN, Gateway: prefixOf(n.Gateway, n.CIDR), Prefix6: n.CIDRv6,
		Router: n.Router, DNS: n.DNS, Domain: n.Domain, Lease: n.Lease,
	}
	own := n.NodeID == hostID || (n.NodeID == "" && n.Mode == FlatDHCP)
	if n.MultiHost {
		f, err := FixedIPs.One(r, "gateway", onHost(n.ID, hostID))
		if own = err == nil; own {
			b.Gateway = prefixOf(f.Addr, n.CIDR)
			if n.Router == n.Gateway {
				b.Router = f.Addr
			}
		}
	}
	b.Routes = n.routes(b.Gateway.Addr(), b.Router)
	if !own {
		b.Gateway, b.NoServer = netip.Prefix{}, true
	}
	b.NAT = n.NAT && own
	if n.Route6 && own {
		b.Gateway6 = gateway6(n.CIDRv6, b.Gateway.Addr())
	}
	return b
}

// gateway6 is a node's own address of a /64: its IPv4 address on the network is the end of it, so that nodes have different ones where those differ, and
// no guest has one of them (a guest's has ff:fe in the middle of the second half).
func gateway6(prefix netip.Prefix, gateway netip.Addr) netip.Prefix {
	a, four := prefix.Masked().Addr().As16(), gateway.As4()
	copy(a[12:], four[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), prefix.Bits())
}

// routed tells whether nodes are gateways of the network.
func (n Network) routed() bool {
	return n.Mode == FlatDHCP || (n.Mode == VLAN && (n.MultiHost || n.NodeID != ""))
}

// MetadataAddr is where guests ask about themselves.
var MetadataAddr = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// routes are the network's own and, where guests route through somebody else, the one that leads to the node's metadata.
func (n Network) routes(gateway, router netip.Addr) []Route {
	if !gateway.IsValid() || router == gateway {
		return n.Routes
	}
	for _, r := range n.Routes {
		if r.To.Bits() == 32 && r.To.Addr() == MetadataAddr {
			return n.Routes // as the network says
		}
	}
	return append(n.Routes[:len(n.Routes):len(n.Routes)], Route{netip.PrefixFrom(MetadataAddr, 32), gateway})
}

func (p Port) tap(n Network) Tap {
	return Tap{Name: p.TapName(), Bridge: n.Bridge, Port: p.ID, MAC: p.HardwareAddr(), IPs: p.Addrs, Hostname: p.Hostname,
		Guarded: true, Groups: p.SecurityGroups, Limits: p.Limits}
}
