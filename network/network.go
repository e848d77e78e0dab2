package network

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Mode is how a network gives addresses to its ports and carries their traffic. Networks of different modes live side by
// side in one cloud.
type Mode string

const (
	// FlatDHCP is one bridge on every node that has a port of the network, joined by an optional physical interface;
	// fixed IPs are handed out by DHCP.
	FlatDHCP Mode = "flat-dhcp"

	// Flat is a bridge that an administrator made on every node: taps join it, and nothing else of it is ours. No node has an
	// address on it or answers DHCP: guests are told their fixed IPs when they are made, and the router is not ours.
	Flat Mode = "flat"

	// VLAN is a VLAN (IEEE 802.1Q) of a physical interface, with a bridge over it on every node that has a port of the network; fixed
	// IPs are handed out by DHCP. A project that asks for no network gets one of its own from a [Range].
	VLAN Mode = "vlan"
)

// Network is a subnet that ports get fixed IPs from.
type Network struct {
	ID        string
	Name      string // unique
	Mode      Mode
	ProjectID string // "": shared by all projects

	CIDR    netip.Prefix // IPv4, /8 to /29
	CIDRv6  netip.Prefix // IPv6, a /64: guests make their addresses from it by themselves (RFC 4862); invalid: no IPv6
	Gateway netip.Addr   // the node's own address on the bridge; by default the first of CIDR. Of Flat no node's, and kept free
	Router  netip.Addr   // what guests route through; by default the gateway
	NAT     bool         // what guests send through their node to the outside has an address of the node; for networks whose Router is the Gateway
	Route6  bool         // the nodes that are gateways route IPv6 between guests and the outside, which must route CIDRv6 to them: there is no NAT
	DNS     []netip.Addr
	Domain  string        // by default "novalocal"
	Lease   time.Duration // DHCP lease; by default 24 h
	Routes  []Route

	Bridge string // by default "br100", of VLAN "br-vlan100" with its id; of this network alone. Of Flat required
	Uplink string // physical interface that joins the bridges of the nodes; "": none. But for VLAN, for this network alone
	VLAN   int    // id of the VLAN of the uplink, 1 to 4094; of this network alone
	MTU    int    // by default 1500

	// Which nodes have the gateway and answer DHCP. NodeID names the one that does, the network node. With MultiHost each node does for
	// its own guests, under an address of its own from CIDR, which takes Gateway's place. With neither, each node of FlatDHCP
	// has the one gateway's address, which is right for bridges that no uplink joins, and none of VLAN has: such a network has a
	// router, and addresses, that others provide.
	NodeID    string
	MultiHost bool

	// RangeID says that the network was allotted to its project from a [Range]: it goes with the project's last port.
	RangeID string

	Created time.Time

	// Deleting says that somebody is removing the network: no port is allocated on it any more. Repeating Delete ends it.
	Deleting bool
}

// Clone returns a copy that shares nothing.
func (n Network) Clone() Network {
	n.DNS = append([]netip.Addr(nil), n.DNS...)
	n.Routes = append([]Route(nil), n.Routes...)
	return n
}

// FixedIP is an address of a network that belongs to a port, or to a node. There is one record for each address in use.
type FixedIP struct {
	NetworkID string
	Addr      netip.Addr
	PortID    string
	Since     time.Time

	// HostID is of the address that a node has on a network with MultiHost: it has no PortID, and goes with the node's last port there.
	HostID string
}

// Port is a network card of an instance: a MAC address and its fixed IPs on one network.
type Port struct {
	ID         string
	NetworkID  string
	ProjectID  string
	InstanceID string
	HostID     string // the node that the instance is on
	NextHostID string // the node that it is moving to, which has the port's tap too; "": it stays
	MAC        string // in the form 02:00:5e:00:53:01; unique in the cloud
	Addrs      []netip.Addr
	Hostname   string

	// SecurityGroups are the ids of the groups that the port is in, sorted.
	SecurityGroups []string

	// Limits are how much its guest may get and send.
	Limits Limits

	// Plugged says that the node is to have the port's tap: it is set before the tap is made, and cleared before it
	// is removed.
	Plugged bool
}

// Clone returns a copy that shares nothing.
func (p Port) Clone() Port {
	p.Addrs = append([]netip.Addr(nil), p.Addrs...)
	p.SecurityGroups = append([]string(nil), p.SecurityGroups...)
	return p
}

// TapName returns the name of the port's tap device on its node.
func (p Port) TapName() string { return "dp" + p.ID[:8] + p.ID[9:tapDigits] }

// tapDigits is how much of a port's id its tap's name is made of.
const tapDigits = 13

// On tells whether the port is a node's: that on which its instance is, or to which that is moving.
func (p Port) On(hostID string) bool {
	return hostID != "" && (p.HostID == hostID || p.NextHostID == hostID)
}

// HardwareAddr returns the MAC address in binary form.
func (p Port) HardwareAddr() net.HardwareAddr {
	mac, _ := net.ParseMAC(p.MAC) // checked when the record was made
	return mac
}

func fixedIPKey(networkID string, addr netip.Addr) string { return networkID + "/" + addr.String() }

// The tables of this package.
var (
	Networks = state.NewTable("network", func(n Network) string { return n.ID },
		state.Unique("name", func(n Network) []string { return []string{n.Name} }),
		state.Unique("bridge", func(n Network) []string { return []string{n.Bridge} }),
		state.Unique("uplink", func(n Network) []string { // a card is a port of one bridge
			if n.Uplink == "" || n.Mode == VLAN {
				return nil
			}
			return []string{n.Uplink}
		}),
		state.Unique("vlan", func(n Network) []string {
			if n.VLAN == 0 {
				return nil
			}
			return []string{strconv.Itoa(n.VLAN)}
		}),
		state.Unique("allotted", func(n Network) []string {
			if n.RangeID == "" {
				return nil
			}
			return []string{n.ProjectID}
		}),
		state.Index("node", func(n Network) []string {
			if n.NodeID == "" {
				return nil
			}
			return []string{n.NodeID}
		}))
	FixedIPs = state.NewTable("fixed-ip", func(f FixedIP) string { return fixedIPKey(f.NetworkID, f.Addr) },
		state.Index("network", func(f FixedIP) []string { return []string{f.NetworkID} }),
		state.Index("port", func(f FixedIP) []string {
			if f.PortID == "" {
				return nil
			}
			return []string{f.PortID}
		}),
		state.Unique("gateway", func(f FixedIP) []string {
			if f.HostID == "" {
				return nil
			}
			return []string{onHost(f.NetworkID, f.HostID)}
		}))
	Ports = state.NewTable("port", func(p Port) string { return p.ID },
		state.Unique("mac", func(p Port) []string { return []string{p.MAC} }),
		state.Index("instance", func(p Port) []string { return []string{p.InstanceID} }),
		state.Index("network", func(p Port) []string { return []string{p.NetworkID} }),
		state.Index("host", func(p Port) []string {
			if p.NextHostID != "" {
				return []string{p.HostID, p.NextHostID}
			}
			return []string{p.HostID}
		}).Telling(func(p Port) string { return strings.Join(p.SecurityGroups, " ") + " " + strconv.FormatBool(p.Plugged) }),
		state.Index("security-group", func(p Port) []string { return p.SecurityGroups }).
			Telling(func(p Port) string { return fmt.Sprint(p.Addrs) }))
)

// Schema returns what a store needs for this package.
func Schema() []state.Schema {
	return []state.Schema{Networks, FixedIPs, Ports, NetworkPorts, HostPorts, Ranges, numberings, SecurityGroups, SecurityGroupUse,
		FloatingPools, FloatingIPs, FloatingUse}
}

// ErrNoMoreAddresses is a network whose fixed IPs are all taken.
var ErrNoMoreAddresses = fmt.Errorf("no more fixed IPs: %w", errdefs.ErrResourceExhausted)
