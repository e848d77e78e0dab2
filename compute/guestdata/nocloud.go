package guestdata

import (
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

// NoCloudMeta returns meta-data for cloud-init's NoCloud: JSON, which is YAML too.
func (g Guest) NoCloudMeta() []byte {
	m := map[string]any{"instance-id": g.ID, "local-hostname": g.FQDN()}
	if g.PublicKey != "" {
		m["public-keys"] = []string{g.PublicKey}
	}
	return encode(m)
}

// NoCloudNetwork returns network-config for cloud-init, in version 2 of its format.
func (g Guest) NoCloudNetwork() []byte {
	cards := map[string]any{}
	for i, c := range g.Cards {
		e := map[string]any{"match": map[string]string{"macaddress": c.MAC}}
		if c.MTU > 0 {
			e["mtu"] = c.MTU
		}
		if c.SLAAC {
			e["accept-ra"] = true
		}
		if c.DHCP {
			e["dhcp4"] = true
		} else {
			var addrs []string
			for _, a := range c.Addrs {
				addrs = append(addrs, a.String())
			}
			e["addresses"] = addrs
			var routes []map[string]string
			for _, r := range c.static() {
				routes = append(routes, map[string]string{"to": r.To.String(), "via": r.Via.String()})
			}
			if routes != nil {
				e["routes"] = routes
			}
			if len(c.DNS) > 0 {
				servers := map[string][]string{}
				for _, a := range c.DNS {
					servers["addresses"] = append(servers["addresses"], a.String())
				}
				if c.Domain != "" {
					servers["search"] = []string{c.Domain}
				}
				e["nameservers"] = servers
			}
		}
		cards["card"+itoa(i)] = e
	}
	return encode(map[string]any{"version": 2, "ethernets": cards})
}

// Interfaces returns /etc/network/interfaces as Debian's ifupdown and busybox read it (interfaces(5)), for the cards eth0, eth1, … in
// their order.
func (g Guest) Interfaces() []byte {
	var b strings.Builder
	line := func(words ...string) { b.WriteString(strings.Join(words, " ") + "\n") }
	line("# written when the machine was launched")
	line("auto lo")
	line("iface lo inet loopback")
	for i, c := range g.Cards {
		name := "eth" + itoa(i)
		line()
		line("auto", name)
		switch {
		case c.DHCP:
			line("iface", name, "inet dhcp")
		case len(c.Addrs) == 0:
			line("iface", name, "inet manual")
		}
		for j, a := range c.Addrs {
			if c.DHCP {
				break
			}
			line("iface", name, "inet static")
			line("    address", a.Addr().String())
			line("    netmask", netmask(a))
			if j > 0 {
				continue
			}
			if c.MTU > 0 {
				line("    mtu", itoa(c.MTU))
			}
			if c.Router.Is4() {
				line("    gateway", c.Router.String())
			}
			for _, r := range c.Routes {
				if r.To.IsValid() && r.To.Bits() > 0 {
					line("    up ip route add", r.To.String(), "via", r.Via.String(), "dev", name)
				}
			}
			if len(c.DNS) > 0 {
				words := []string{"    dns-nameservers"}
				for _, a := range c.DNS {
					words = append(words, a.String())
				}
				line(words...)
				if c.Domain != "" {
					line("    dns-search", c.Domain)
				}
			}
		}
		if c.SLAAC {
			line("iface", name, "inet6 auto")
		}
	}
	return []byte(b.String())
}
