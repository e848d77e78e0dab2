// Package ra is a [network.Server] that tells guests of IPv6: on each bridge with a Prefix6, by router advertisements (RFC 4861), of which
// they make their addresses (RFC 4862), and with the DNS servers (RFC 8106); and to those that ask, the same by stateless DHCPv6
// (RFC 8415 §18.2.6).
//
// The node is no router for IPv6: its advertisements have a router lifetime of 0, so that guests reach each other by their addresses and
// nothing beyond. The address that a guest makes of its hardware address is its port's fixed IP; a filter drops what it
// sends from others.
//
// It answers only on bridges that the node serves, and keeps nothing: a new process advertises the same. When it ends guests keep
// what they have for as long as they were told.
package ra
