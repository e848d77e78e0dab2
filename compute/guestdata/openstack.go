package guestdata

import (
	"encoding/json"
	"net"
	"net/netip"
)

// key is a public key in meta_data.json.
type key struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Data string `json:"data"`
}

// metaData is meta_data.json, with the names of OpenStack Nova's.
type metaData struct {
	UUID        string            `json:"uuid"`
	Name        string            `json:"name"`
	Hostname    string            `json:"hostname"`
	LaunchIndex int               `json:"launch_index"`
	Zone        string            `json:"availability_zone"`
	ProjectID   string            `json:"project_id"`
	Meta        map[string]string `json:"meta"`
	Devices     []struct{}        `json:"devices"`
	PublicKeys  map[string]string `json:"public_keys,omitempty"`
	Keys        []key             `json:"keys,omitempty"`
	Seed        []byte            `json:"random_seed,omitempty"`
}

// MetaData returns openstack/…/meta_data.json. The seed is for the guest's random generator; nil: none.
func (g Guest) MetaData(seed []byte) []byte {
	m := metaData{UUID: g.ID, Name: g.Name, Hostname: g.FQDN(), LaunchIndex: g.LaunchIndex, Zone: g.Zone, ProjectID: g.ProjectID,
		Meta: map[string]string{}, Devices: []struct{}{}, Seed: seed}
	if g.PublicKey != "" {
		m.PublicKeys = map[string]string{g.KeyName: g.PublicKey}
		m.Keys = []key{{g.KeyName, "ssh", g.PublicKey}}
	}
	return encode(m)
}

// The parts of network_data.json.
type (
	link struct {
		ID   string `json:"id"`
		Port string `json:"vif_id"`
		Type string `json:"type"`
		MTU  int    `json:"mtu,omitempty"`
		MAC  string `json:"ethernet_mac_address"`
	}
	subnet struct {
		ID       string    `json:"id"`
		Type     string    `json:"type"`
		Link     string    `json:"link"`
		Network  string    `json:"network_id"`
		Address  string    `json:"ip_address,omitempty"`
		Netmask  string    `json:"netmask,omitempty"`
		Routes   []route   `json:"routes,omitempty"`
		Services []service `json:"services,omitempty"`
	}
	route struct {
		Network string `json:"network"`
		Netmask string `json:"netmask"`
		Gateway string `json:"gateway"`
	}
	service struct {
		Type    string `json:"type"`
		Address string `json:"address"`
	}
	networkData struct {
		Links    []link    `json:"links"`
		Networks []subnet  `json:"networks"`
		Services []service `json:"services"`
	}
)

// NetworkData returns openstack/…/network_data.json: a card that DHCP answers is told to ask it, another gets its addresses here.
func (g Guest) NetworkData() []byte {
	n := networkData{Links: []link{}, Networks: []subnet{}, Services: []service{}}
	said := map[netip.Addr]bool{}
	for _, c := range g.Cards {
		id := "tap" + c.PortID[:min(11, len(c.PortID))]
		n.Links = append(n.Links, link{id, c.PortID, "bridge", c.MTU, c.MAC})
		var dns []service
		for _, a := range c.DNS {
			dns = append(dns, service{"dns", a.String()})
			if !said[a] {
				said[a] = true
				n.Services = append(n.Services, service{"dns", a.String()})
			}
		}
		add := func(s subnet) {
			s.ID, s.Link, s.Network = "network"+itoa(len(n.Networks)), id, c.NetworkID
			n.Networks = append(n.Networks, s)
		}
		if c.DHCP {
			add(subnet{Type: "ipv4_dhcp"})
		} else {
			var routes []route
			for _, r := range c.static() {
				routes = append(routes, route{r.To.Addr().String(), netmask(r.To), r.Via.String()})
			}
			for i, a := range c.Addrs {
				s := subnet{Type: "ipv4", Address: a.Addr().String(), Netmask: netmask(a)}
				if i == 0 {
					s.Routes, s.Services = routes, dns
				}
				add(s)
			}
		}
		if c.SLAAC {
			add(subnet{Type: "ipv6_slaac"})
		}
	}
	return encode(n)
}

// netmask is the length of an IPv4 prefix in the old form.
func netmask(p netip.Prefix) string { return net.IP(net.CIDRMask(p.Bits(), 32)).String() }

// encode is for values that can always be encoded.
func encode(v any) []byte {
	b, _ := json.Marshal(v)
	return b
}
