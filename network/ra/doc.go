// Package ra is a [network.Server] that tells guests of IPv6: on each bridge with a Prefix6, by router advertisements (RFC 4861), of which
// they make their addresses (RFC 4862), and with the DNS servers (RFC 8106); and to those that ask, the same by stateless DHCPv6
// (RFC 8415 §18.2.6).
//
// Guests route through a node that advertises with a router lifetime: on bridges with a Gateway6, while the node forwards IPv6. Elsewhere the lifetime
// is 0, so that guests reach each other by their addresses and nothing beyond. The address that a guest makes of its hardware address is its port's fixed IP; a filter drops what it
// sends from others.
//
// It answers only on bridges that the node serves, and keeps nothing: a new process advertises the same. When it ends it says that it is a router no
// more (RFC 4861 §6.2.5); all else guests keep for as long as they were told, and the router too if it was killed.
package ra
