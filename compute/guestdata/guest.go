package guestdata

import (
	"net/netip"
	"strings"
)

// Guest is one machine.
type Guest struct {
	ID            string // a UUID
	Name          string
	Hostname      string // without a domain
	Domain        string // "": none
	ProjectID     string
	ReservationID string
	LaunchIndex   int
	Zone          string

	Flavor    string // its name
	ImageID   string
	KernelID  string // "": the image boots by itself
	RamdiskID string // "": none

	KeyName   string // "": no key pair
	PublicKey string // a line of authorized_keys
	UserData  []byte // empty: none

	SecurityGroups []string // names
	PublicIPv4     netip.Addr

	Cards []Card // in the order that the machine sees them
}

// Card is a network card.
type Card struct {
	PortID    string // a UUID
	NetworkID string
	MAC       string // in the form 02:00:5e:00:53:01
	MTU       int    // bytes; 0: what the guest thinks right

	Addrs  []netip.Prefix // its IPv4 fixed IPs, each with the length of its subnet
	DHCP   bool           // DHCP tells it Addrs; otherwise only these documents do
	SLAAC  bool           // it makes an IPv6 address from router advertisements (RFC 4862)
	Router netip.Addr     // of IPv4; invalid: none
	DNS    []netip.Addr
	Domain string
	Routes []Route // besides the default route
}

// Route is a static route.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// FQDN is the machine's name with its domain, if it has one.
func (g Guest) FQDN() string {
	if g.Domain == "" {
		return g.Hostname
	}
	return g.Hostname + "." + g.Domain
}

// IPv4 returns the machine's first fixed IP, or the zero Addr.
func (g Guest) IPv4() netip.Addr {
	for _, c := range g.Cards {
		for _, a := range c.Addrs {
			if a.Addr().Is4() {
				return a.Addr()
			}
		}
	}
	return netip.Addr{}
}

// static returns the routes of a card that is told its addresses here, the default route first.
func (c Card) static() (all []Route) {
	if c.Router.Is4() {
		all = append(all, Route{netip.PrefixFrom(netip.IPv4Unspecified(), 0), c.Router})
	}
	for _, r := range c.Routes {
		if r.To.IsValid() && r.To.Bits() > 0 {
			all = append(all, r)
		}
	}
	return all
}

// EC2ID is the form that EC2 has for the id of a thing: a prefix ("i", "ami", "aki", "ari"), and 17 hexadecimal digits, which are
// the first of the UUID.
func EC2ID(prefix, id string) string {
	digits := strings.ReplaceAll(id, "-", "")
	return prefix + "-" + digits[:min(17, len(digits))]
}
