package network

import "github.com/dewpoint-cloud/dewpoint/state"

// Count is how many records there are.
type Count struct{ N int }

// Plus and Minus are for sums.
func (c Count) Plus(d Count) Count  { return Count{c.N + d.N} }
func (c Count) Minus(d Count) Count { return Count{c.N - d.N} }

// How many ports a network has, and how many of them are on one node. Whoever removes what lasts as long as the last port reads them
// in the transaction that removes the port: one that adds a port meanwhile makes it look again.
var (
	NetworkPorts = state.NewSum("network-ports", Ports, func(p Port) (string, Count) { return p.NetworkID, Count{1} })
	HostPorts    = state.NewSum("network-host-ports", Ports, func(p Port) (string, Count) { return onHost(p.NetworkID, p.HostID), Count{1} })
)

func onHost(networkID, hostID string) string { return networkID + " " + hostID }
