// Package network gives machines their addresses and their way to each other.
//
// Its nouns:
//
//   - A [Network] is a subnet, and how its traffic is carried ([Mode]). Networks of different modes live side by side.
//   - A [Port] is a network card of a machine: a hardware address, and one [FixedIP] on one network.
//   - A [Manager] is the data path of one node: bridges, taps and the filters between them. network/linux is the
//     kernel's, network/fakenetwork one that only pretends, and network/networktest checks either.
//   - A [DHCPServer] tells machines their addresses. network/dhcp is one in the process itself.
//   - An [Agent] keeps a node's data path and DHCP as the records say.
//
// [Service] is what callers use: it makes and removes networks. [Addresses] allocates ports inside the transactions of those who
// make machines. What a node should have is a pure function of the records, [Plan], so that a node that was killed at any
// moment is made right by doing the same again:
//
//	records ──Plan──► Desired ──Apply──► Manager: links and filters
//	                     └──────Apply──► DHCPServer: answers
//
// A machine's card is made in an order that leaks nothing. First the transaction that allocates the port, with
// [Port].Plugged set; then [Agent.Plug] on the node. To remove it: [Addresses.Unplug] in a transaction, [Agent.Unplug] on the
// node, and when the tap is gone, [Addresses.Release] in a transaction. Only then can another have the address.
package network
