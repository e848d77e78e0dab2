package guestdata

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// flat is a machine on a network without DHCP and another with; both its own.
func flat() Guest {
	return Guest{ID: "4ff0b6c1-8c1b-4b52-a3f5-0f6d5f1f2a01", Name: "Web 1", Hostname: "web-1", Domain: "novalocal", ProjectID: "p",
		LaunchIndex: 2, Zone: "z1", KeyName: "mine", PublicKey: "ssh-ed25519 AAAA mine", Cards: []Card{
			{PortID: "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", NetworkID: "n1", MAC: "52:54:00:00:00:01", MTU: 1400,
				Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}, Router: netip.MustParseAddr("10.0.0.1"),
				DNS: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Domain: "novalocal",
				Routes: []Route{{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParseAddr("10.0.0.3")}}},
			{PortID: "1a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", NetworkID: "n2", MAC: "52:54:00:00:00:02", MTU: 1500,
				Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.5/24")}, DHCP: true, SLAAC: true},
		}}
}

func TestOpenStackDocuments(t *testing.T) {
	require.JSONEq(t, `{"uuid": "4ff0b6c1-8c1b-4b52-a3f5-0f6d5f1f2a01", "name": "Web 1", "hostname": "web-1.novalocal", "launch_index": 2,
		"availability_zone": "z1", "project_id": "p", "meta": {}, "devices": [], "public_keys": {"mine": "ssh-ed25519 AAAA mine"},
		"keys": [{"name": "mine", "type": "ssh", "data": "ssh-ed25519 AAAA mine"}], "random_seed": "AQI="}`, string(flat().MetaData([]byte{1, 2})))
	require.JSONEq(t, `{"links": [
			{"id": "tap0a1b2c3d-4e", "vif_id": "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "type": "bridge", "mtu": 1400, "ethernet_mac_address": "52:54:00:00:00:01"},
			{"id": "tap1a1b2c3d-4e", "vif_id": "1a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "type": "bridge", "mtu": 1500, "ethernet_mac_address": "52:54:00:00:00:02"}],
		"networks": [
			{"id": "network0", "type": "ipv4", "link": "tap0a1b2c3d-4e", "network_id": "n1", "ip_address": "10.0.0.5", "netmask": "255.255.255.0",
				"routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"}, {"network": "172.16.0.0", "netmask": "255.240.0.0", "gateway": "10.0.0.3"}],
				"services": [{"type": "dns", "address": "10.0.0.2"}]},
			{"id": "network1", "type": "ipv4_dhcp", "link": "tap1a1b2c3d-4e", "network_id": "n2"},
			{"id": "network2", "type": "ipv6_slaac", "link": "tap1a1b2c3d-4e", "network_id": "n2"}],
		"services": [{"type": "dns", "address": "10.0.0.2"}]}`, string(flat().NetworkData()))
	var seedless map[string]any
	require.NoError(t, json.Unmarshal(Guest{}.MetaData(nil), &seedless))
	require.NotContains(t, seedless, "random_seed")
	require.NotContains(t, seedless, "keys")
}

func TestNoCloudDocuments(t *testing.T) {
	require.JSONEq(t, `{"instance-id": "4ff0b6c1-8c1b-4b52-a3f5-0f6d5f1f2a01", "local-hostname": "web-1.novalocal",
		"public-keys": ["ssh-ed25519 AAAA mine"]}`, string(flat().NoCloudMeta()))
	require.JSONEq(t, `{"version": 2, "ethernets": {
		"card0": {"match": {"macaddress": "52:54:00:00:00:01"}, "mtu": 1400, "addresses": ["10.0.0.5/24"],
			"routes": [{"to": "0.0.0.0/0", "via": "10.0.0.1"}, {"to": "172.16.0.0/12", "via": "10.0.0.3"}],
			"nameservers": {"addresses": ["10.0.0.2"], "search": ["novalocal"]}},
		"card1": {"match": {"macaddress": "52:54:00:00:00:02"}, "mtu": 1500, "dhcp4": true, "accept-ra": true}}}`, string(flat().NoCloudNetwork()))
}

// MOD-02: a Flat network's address is written into /etc/network/interfaces.
func TestInterfaces(t *testing.T) {
	require.Equal(t, `# written when the machine was launched
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
    address 10.0.0.5
    netmask 255.255.255.0
    mtu 1400
    gateway 10.0.0.1
    up ip route add 172.16.0.0/12 via 10.0.0.3 dev eth0
    dns-nameservers 10.0.0.2
    dns-search novalocal

auto eth1
iface eth1 inet dhcp
iface eth1 inet6 auto
`, string(flat().Interfaces()))
}

func TestNames(t *testing.T) {
	g := flat()
	require.Equal(t, "10.0.0.5", g.IPv4().String())
	require.False(t, Guest{}.IPv4().IsValid())
	g.Domain = ""
	require.Equal(t, "web-1", g.FQDN())
	require.Equal(t, "i-4ff0b6c18c1b4b52a", EC2ID("i", g.ID))
	require.Equal(t, "ami-", EC2ID("ami", ""))
}
