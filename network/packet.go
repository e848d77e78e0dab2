package network

import (
	"net/netip"
	"slices"
)

// Packet is the first one of a flow, as a rule sees it: what follows it and answers it needs no rule.
type Packet struct {
	Direction Direction
	Protocol  Protocol   // AnyProtocol: one that has no name here
	Port      int        // the one that it goes to, of TCP and UDP
	Type      int        // of ICMP and ICMPv6
	Code      int        // of ICMP and ICMPv6
	Remote    netip.Addr // the other end
}

// Lets tells whether a Guarded tap's groups let a packet through. It is what a driver must do, in a few lines, for tests of
// drivers and of those who make rules.
func (d Desired) Lets(t Tap, p Packet) bool {
	if !t.Guarded {
		return true
	}
	for _, g := range d.Groups {
		if slices.Contains(t.Groups, g.ID) && slices.ContainsFunc(g.Rules, func(r Rule) bool { return d.matches(r, p) }) {
			return true
		}
	}
	return false
}

func (d Desired) matches(r Rule, p Packet) bool {
	r = r.normal()
	if r.Direction != p.Direction || r.Protocol != AnyProtocol && r.Protocol != p.Protocol {
		return false
	}
	switch r.Protocol {
	case TCP, UDP:
		if r.From != Any && (p.Port < r.From || p.Port > r.To) {
			return false
		}
	case ICMP, ICMPv6:
		if r.From != Any && r.From != p.Type || r.To != Any && r.To != p.Code {
			return false
		}
	}
	if r.RemoteGroup == "" {
		return !r.Remote.IsValid() || r.Remote.Contains(p.Remote)
	}
	return slices.ContainsFunc(d.Groups, func(g Group) bool { return g.ID == r.RemoteGroup && slices.Contains(g.Members, p.Remote) })
}
