package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Peer is where a guest's connection comes from, as the kernel of a node saw it: nothing that the guest could say of itself.
type Peer struct {
	Bridge string           // the bridge that it came in by
	MAC    net.HardwareAddr // the source of its first frame
	Addr   netip.Addr       // its source address
}

// PeerConn is a connection that knows where it comes from.
type PeerConn interface {
	net.Conn
	Peer() Peer
}

// FindPort returns the port that a connection comes from: the one that has the fixed IP on the bridge's network, if it is plugged and
// the hardware address is its own. All else is NotFound. It may be on another node of the network.
//
// That no guest sends with an address that is not its own is what a [Manager] sees to. That the hardware address is right
// too, keeps out who is on the network without a port.
func FindPort(r state.Reader, from Peer) (Port, error) {
	unknown := fmt.Errorf("network: no port of bridge %.16q has address %v and MAC %v: %w", from.Bridge, from.Addr, from.MAC,
		errdefs.ErrNotFound)
	n, err := Networks.One(r, "bridge", from.Bridge)
	if err != nil {
		return Port{}, unknown
	}
	f, err := FixedIPs.Get(r, fixedIPKey(n.ID, from.Addr.Unmap()))
	if err != nil {
		return Port{}, unknown
	}
	p, err := Ports.Get(r, f.PortID)
	if err != nil || !p.Plugged || p.MAC != from.MAC.String() {
		return Port{}, unknown
	}
	return p, nil
}
