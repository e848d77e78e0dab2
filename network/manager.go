package network

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Manager is the data path of one node: its bridges, the taps of its machines and the filters between them. It is
// the interface that a driver implements: network/linux for the kernel, network/fakenetwork for tests. The suite in
// network/networktest checks every sentence below.
//
// What a node should have is a pure function of the records in the store (see [Plan]); a Manager makes it so. It
// owns what carries its mark and nothing else: links and tables of the host that it did not make are never changed, except
// for an uplink that a Bridge names, and for whether IPv6 is forwarded. It keeps no state that matters between calls: a new Manager on a node where
// an old one was killed goes on from what the node has.
//
// All methods are safe for concurrent use and take effect one after the other. When ctx ends, a method returns soon,
// with the context's error; a later Apply repairs what was left half-done.
type Manager interface {
	// Apply makes the node's data path exactly d: it adds what is missing, mends what differs, and removes what is
	// ours and not in d. It is idempotent; applied twice, the second Report is empty. A tap's filter is in force
	// before the tap joins its bridge, and until the tap has left it. A tap that a machine holds open keeps its identity:
	// Apply never makes anew what is right already. What [Desired.Validate] refuses (two taps of one name, a tap
	// on a bridge that is not in d, an address twice on one bridge) is InvalidArgument, and nothing was changed. An uplink
	// that does not exist is NotFound, names it, and everything else in d is applied all the same. A link of the host that
	// has the name of a bridge or tap in d, and not our mark, is AlreadyExists, names it, is not touched, and
	// everything else in d is applied all the same. An External bridge that does not exist, or is no bridge, is NotFound, names it,
	// its taps are on no bridge until it is there, and everything else in d is applied all the same.
	//
	// Packets that come for a Floating's Addr go to its Fixed, from guests of the node too, and what Fixed sends to where no bridge of
	// ours is comes from Addr. The address is on Link, so that it is answered for; who is on Link is told of it when it comes there. The
	// node must forward IPv4, which is the administrator's to allow.
	//
	// For guests of bridges with a Gateway6 the node routes IPv6 to the outside and back, with their own addresses, and for no others: what comes
	// from other bridges of ours, or is for them, or goes from one bridge to another, is dropped. The node forwards IPv6 while there is such a bridge. If it
	// did not before, it forwards for these bridges alone, cards of the host that hear router advertisements go on hearing them, and with the last of these
	// bridges it is as before. If it did, nothing else of it changes.
	//
	// A tap that is Guarded gets and sends what a rule of one of its Groups lets through, and the answers to that, and nothing else
	// but what every machine needs: ARP, neighbor discovery, and what it says to DHCP servers and 169.254.169.254 and hears from them. A rule
	// that is taken away lets through no further packet, also of connections that it had let through.
	Apply(ctx context.Context, d Desired) (Report, error)

	// Plug adds or mends one tap, on a bridge that an earlier Apply or Plug made, or that is made now as b says.
	// It does the same as Apply with that tap added, at a cost that does not grow with the number of taps: it does not
	// look at other taps, not even for an address that t has too. A t whose Bridge is not b's Name is InvalidArgument.
	// The addresses of a Guarded t become Members of its Groups. A group of t that the node does not have is made without rules: it lets nothing
	// through until SetGroups or Apply bring them.
	Plug(ctx context.Context, b Bridge, t Tap) error

	// SetGroups makes each of the groups as it is in gs, and leaves others as they are. It does the same as Apply with these in
	// place of those of the same id, at a cost that does not grow with the number of taps or of other groups. What is wrong with gs by
	// itself is InvalidArgument, and nothing was changed.
	SetGroups(ctx context.Context, gs []Group) error

	// SetFloating makes the node answer for exactly fs. It does the same as Apply with these in place of those that are there, at a cost that
	// does not grow with the number of taps. What is wrong with fs by itself (not IPv4, an address twice) is InvalidArgument, and nothing was
	// changed. A Link that does not exist is NotFound, names it, and all others are answered for.
	SetFloating(ctx context.Context, fs []Floating) error

	// Unplug removes the tap with this name and its filter, also while a machine holds it open. One that does not exist, or
	// that is not ours, is success, and nothing was changed. Groups stay as they are.
	Unplug(ctx context.Context, tap string) error

	// Inspect reads what the node has of ours, in the form of a Desired, sorted by name, groups by id, rules by text. After a successful
	// Apply(d), Inspect returns d, sorted, but for the fields that no kernel keeps (those that only DHCP uses).
	Inspect(ctx context.Context) (Desired, error)

	// Close frees what the Manager holds open. It changes nothing on the node: machines keep their network while
	// no process of ours runs.
	Close() error
}

// DHCPServer answers the DHCP clients behind a node's taps, from the records it was last given and nothing else. The
// one implementation is network/dhcp; a node whose Manager is a fake needs none.
type DHCPServer interface {
	// Apply replaces all that the server knows: it answers on d's bridges, to d's taps. Clients of a bridge or tap
	// that stays notice nothing. A bridge that does not exist is answered on as soon as it does. What contradicts
	// itself (two taps of one bridge with one hardware address or fixed IP) is InvalidArgument, and nothing was changed.
	Apply(ctx context.Context, d Desired) error

	// Plug adds or replaces one tap, and its bridge if it is new or differs. It refuses what Apply refuses.
	Plug(ctx context.Context, b Bridge, t Tap) error

	// Unplug forgets the tap with this name and its lease: from now on its client hears nothing. An unknown one is
	// success.
	Unplug(ctx context.Context, tap string) error

	// Run answers until ctx ends, then returns nil once every goroutine of the server has ended. The other methods may be
	// called before, during and after it.
	Run(ctx context.Context) error
}

// Desired is what the data path of one node should be.
type Desired struct {
	Bridges []Bridge
	Taps    []Tap
	Groups  []Group // those of the taps, and those that a rule of one of these names

	// Floating are the addresses that the node answers for, and passes on to guests.
	Floating []Floating
}

// Floating is an address of the outside that leads to a guest of the node, and that the guest has where it speaks to the outside.
type Floating struct {
	Addr  netip.Addr // IPv4, each once
	Fixed netip.Addr // IPv4, each once: the guest's address behind it
	Link  string     // the network card of the node that Addr is answered on
}

// Group is a security group on the node. One that no tap is in, or that rules name and that is not here, does no harm.
type Group struct {
	ID      string // 1 to 64 letters, digits and dashes
	Rules   []Rule
	Members []netip.Addr // of rules whose RemoteGroup this is: the addresses of its ports, on all nodes
}

// Bridge is a layer-2 segment on the node.
type Bridge struct {
	Name string // a name that a Linux interface may have: at most 15 bytes
	MTU  int    // 0: 1500

	// Uplink is a network card of the node that is a port of the bridge, "" for none. Its addresses and routes
	// move to the bridge when it is enslaved and back when the bridge goes.
	Uplink string

	// VLAN is the id of a VLAN (IEEE 802.1Q) of the uplink, from 1 to 4094: a sub-interface for it, "vlan100" for 100, is the port of
	// the bridge then. The uplink itself is no port of it, keeps its addresses and routes, and carries as many VLANs as
	// there are. The sub-interface is made and removed with the bridge. 0: none.
	VLAN int

	// External says that the bridge is an administrator's: taps join it and leave it, and nothing else of it is changed. Its
	// taps have its MTU. It has no Gateway, Gateway6, Uplink, VLAN or MTU here, and Inspect shows it while a tap of ours is on it.
	External bool

	// Gateway is the node's own address on the bridge with the subnet's length, and invalid where the node has none. It is
	// also the DHCP server's identifier.
	Gateway netip.Prefix

	// NAT says that what guests send through the node to where no bridge of ours is comes from the node's address there, unless a Floating
	// says another. The node must forward IPv4, which is the administrator's to allow.
	NAT bool

	// Gateway6 is the node's own address of Prefix6, a /64, and invalid where the node does not route IPv6 for the bridge.
	Gateway6 netip.Prefix

	// Prefix6 is the IPv6 /64 that guests make their addresses from, by router advertisements (RFC 4862); invalid: none.
	Prefix6 netip.Prefix

	// What DHCP and router advertisements say to clients of this bridge.
	Router   netip.Addr // option 3; invalid: none
	DNS      []netip.Addr
	Domain   string
	Lease    time.Duration // 0: 24 h
	Routes   []Route       // option 121
	NoServer bool          // this node does not answer DHCP on this bridge
}

// Route is a classless static route (RFC 3442).
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Tap is the node's end of one port: what a machine's network card is joined to.
type Tap struct {
	Name     string // at most 15 bytes
	Bridge   string
	Port     string // id of the port's record
	MAC      net.HardwareAddr
	IPs      []netip.Addr // the fixed IPs: all that the guest may use as a source, besides its IPv6 link-local address
	Hostname string       // DHCP option 12

	// Guarded says that only what Groups let through gets to the guest and from it. Otherwise all does that is not forged.
	Guarded bool
	Groups  []string // ids of Desired.Groups, sorted

	// Limits are how much the guest gets and sends. They may change while the tap is there. They are in force before the tap joins its bridge.
	Limits Limits
}

// Report says what an Apply changed, a line each, in words for a log: empty when nothing had to change.
type Report struct {
	Changes []string
}
