// Package dhcp is the DHCP server of a node (a [network.DHCPServer]): one server, in the process that embeds it, for all bridges
// of the node.
//
// # What it answers
//
// The server knows the ports that it was given, and no others. A client is known by its bridge and its hardware address, the
// address that it gets is its port's fixed IP, and no client, whatever it sends, can get another or keep another client
// from its own: there is no pool to exhaust. To a hardware address that no port has, to a packet that is not
// what RFC 2131 says, and to one that came through a relay agent, the server is silent. A frame must come from the hardware address
// that the packet inside speaks for, so that a machine can't give up its neighbour's lease; that it can't send frames in
// its neighbour's name is the filter's work ([network.Manager]).
//
// An answer goes to the client's hardware address and to no other port, with a full checksum, unless the client asked for a
// broadcast or is told NAK (RFC 2131 §4.1).
//
// # What it keeps
//
// A lease (who, which address, since when, until when) is on disk before the client is told of it. Leases that are granted at the
// same time share one flush of the disk, so that it costs a boot storm little. The journal is a file of fixed size with a
// checksum in each record, which is replaced when it is full. It is there for those who ask who had an address: what
// the server answers never depends on it, and a journal that was lost or damaged keeps no client from its address.
//
// # How it runs
//
// Each bridge has one goroutine that reads packets in batches and answers, and one goroutine of the server writes the journal
// and sends what had to wait for it. Between them is a queue of fixed length, in which a client has one place: one that sends
// without end takes nothing from the others. A bridge that does not exist yet, or was made anew, is tried again until
// it is there.
package dhcp
