// Package linklocal is a [network.Server] that takes in what guests of a node send to 169.254.169.254, port 80, and says for each
// connection where it comes from. What is answered is not its business: Config.Serve gets a listener for each bridge.
//
// Where a connection comes from is what the kernel saw, as a [network.PeerConn]: the bridge that the listener is bound to, the source
// address, and the hardware address of the frame that opened it (Linux keeps that for a listener with TCP_SAVE_SYN; where it
// did not, under a flood, the neighbour table says it). Two bridges with one range of addresses are told apart.
//
// The node gets no further address: it may be a machine in a cloud itself, that asks 169.254.169.254 too. Instead, packets that come in
// by one of our bridges, and they alone, are looked up in a routing table of ours, where the address is local:
//
//	ip rule:                 iif br100 to 169.254.169.254 lookup 1685061633
//	ip route, in that table: local 169.254.169.254 dev lo
//
// They stay when Run has ended, for as long as the bridge is wanted: without them, what guests ask would be routed on to the
// metadata of the cloud that the node is in.
//
// It needs CAP_NET_ADMIN. A filter of the host's own, if there is one, must let TCP to port 80 in from our bridges.
package linklocal
