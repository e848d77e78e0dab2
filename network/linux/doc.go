// Package linux is the data path of a node on the Linux kernel: bridges, taps and packet filters, by netlink and without
// running programs. It implements [network.Manager].
//
//	uplink ──┐                       table bridge dewpoint
//	         │                    ┌── prerouting:  from guests, only what is their own
//	         bridge ── tap ── machine
//	         │  │                 └── postrouting: to guests, only what is for them
//	 gateway ┘  └──── tap ── machine
//
// What a node should have is computed by pure functions: [network.Desired] in, links and a table of the packet filter out.
// An Apply reads what the node has, and changes what differs: the packet filter first, in one transaction, then links. No rule
// of the filter names a port. Every tap of ours is in one group of links, and what comes from a link of that group
// is dropped unless a set says that this port may send it: a tap that the sets don't know is cut off, not open. A node has room for 32,768 taps
// and for 65,536 addresses of each family, the link-local ones among them; more are ResourceExhausted.
//
// # Security groups
//
// Behind the filter against forgeries stands one for security groups, in both directions. A group is two chains with its rules and two
// sets with its members. Taps that are in the same groups are of one class: a map has the class of a tap, another the chain of a class. So a member
// more is one element, a port more are some elements, and no packet meets rules of groups that its tap is not in. A tap that the maps do not know is
// cut off. Between the two maps the class is the packet's mark (meta mark), which is 0 behind the filter, whatever it was before.
//
// The filter remembers the flows that rules let begin, in sets that it fills itself: the bridge family has connection tracking only where the
// kernel was built for it, and that mixes up networks with the same addresses. Flows are a tap's own. A flow is forgotten some time
// after the last packet that a rule let through: TCP after two hours and four minutes (four minutes when it begins or ends; RFC 5382), UDP
// after five minutes (RFC 4787), ICMP echo after one (RFC 5508), others after ten. A tap may begin 2,000 flows each second, 20,000 at once, that
// are remembered, so that one guest can't take the room of others. Later fragments of IPv4 pass if they come after their first.
//
// # Limits
//
// A tap that may get or send only so much has a chain for that, which a map leads to; what is more is dropped, not kept back. The kernel's bucket
// holds the bytes of a second and the burst, and counts packets without their Ethernet headers.
//
// # Addresses of the outside
//
// A floating IP is an element of two maps in the table ip dewpoint_nat, and an address of the card that it is answered on, given by us
// (IFA_PROTO, which Linux has since 5.18), so that the kernel answers ARP for it; who is on the card's network is told with an announcement (RFC 5227).
// The same table gives what guests of bridges with NAT send to the outside the node's address. It needs connection tracking, and is there only
// where there is something in it. Guests of two bridges reach each other by their floating IPs, and otherwise
// not: bridges are apart.
//
// # IPv6
//
// While there is a bridge with a Gateway6 the node forwards IPv6, which the driver switches on, and off again if it was off (net.ipv6.conf.all.forwarding). Cards that
// hear router advertisements are told to go on (accept_ra), or the node would lose its own addresses and routes. The table inet dewpoint_forward
// lets it forward from and to such bridges, and where it did not forward before nothing else. There is no NAT. Bridges hear advertisements as their uplinks do,
// and not at all without one.
//
// # What is ours
//
// A link is ours if its alias begins with "dewpoint", or if it is in a group of ours; the tables bridge dewpoint, inet dewpoint_forward and ip
// dewpoint_nat are ours, and addresses that we gave a link (IFA_PROTO).
// Nothing else on the node is changed, except for the forwarding of IPv6, and that the addresses and routes of an uplink live on its bridge while it is
// a port of it, because a port of a bridge has no use for them.
//
// # What guests may send
//
// A guest sends from its MAC address and its fixed IPs, in ARP, IPv4 and IPv6 (and there from the link-local address
// that RFC 4291 appendix A makes of its MAC address). It is no DHCP server, no IPv6 router and no MLD querier. Frames with VLAN tags,
// of other protocols, to the reserved group addresses of IEEE 802.1D, with IPv6 extension headers (but for MLD, which has
// one), and fragments that hide or overwrite ports are dropped. Fragments of IPv4 packets that do neither pass.
package linux
