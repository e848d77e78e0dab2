package network

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Direction is which way a rule lets packets through, as the machine sees it.
type Direction string

// The directions.
const (
	Ingress Direction = "ingress" // to the machine
	Egress  Direction = "egress"  // from the machine
)

// Protocol is what a rule is for: a name in lower case, and none but these.
type Protocol string

// The protocols.
const (
	TCP         Protocol = "tcp"
	UDP         Protocol = "udp"
	ICMP        Protocol = "icmp"   // of IPv4
	ICMPv6      Protocol = "icmpv6" // but for neighbor discovery, which always passes
	AnyProtocol Protocol = "any"    // every protocol, also those that have no name here
)

// Any stands for all ports, types or codes in a [Rule].
const Any = -1

// Rule lets packets through. There are no rules that forbid: what no rule of any of its groups lets through does not reach a
// machine, nor leave it. Answers to what a rule let through pass without one. Rules are comparable.
type Rule struct {
	Direction Direction
	Protocol  Protocol

	// From and To are the first and the last port (the machine's own for Ingress, the other's for Egress) for TCP and UDP, from
	// 1 to 65535, or both Any. For ICMP and ICMPv6 they are type and code, each from 0 to 255 or Any. For AnyProtocol they are
	// both Any; 0 means the same there.
	From, To int

	// Remote is who may be at the other end: a subnet of IPv4 or IPv6, without bits behind its length; the zero value is anybody.
	Remote netip.Prefix

	// RemoteGroup is the id of a security group, "" for none: its members may be at the other end. A rule has a Remote or a
	// RemoteGroup, or none of them.
	RemoteGroup string
}

// normal returns the rule in the one form that rules of its meaning have.
func (r Rule) normal() Rule {
	if r.Protocol == AnyProtocol && r.From == 0 && r.To == 0 {
		r.From, r.To = Any, Any
	}
	if r.Remote.IsValid() && r.Remote.Bits() == 0 && r.Remote.Addr().Is4() && r.Protocol == ICMP ||
		r.Remote.IsValid() && r.Remote.Bits() == 0 && r.Remote.Addr().Is6() && r.Protocol == ICMPv6 {
		r.Remote = netip.Prefix{} // the protocol says the same
	}
	return r
}

// groupID is the form of the ids of groups: they are parts of names in the kernel.
var groupID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

// Validate returns what is wrong with the rule, naming the field and its limit, as an InvalidArgument.
func (r Rule) Validate() error {
	bad := func(field, format string, args ...any) error {
		return fmt.Errorf("network: rule: %s %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	r = r.normal()
	switch r.Direction {
	case Ingress, Egress:
	default:
		return bad("Direction", "%.40q is not %q or %q", r.Direction, Ingress, Egress)
	}
	switch r.Protocol {
	case TCP, UDP:
		switch {
		case r.From == Any && r.To == Any:
		case r.From < 1 || r.From > 65535:
			return bad("From", "is %d, must be a port from 1 to 65535, or %d with To %d", r.From, Any, Any)
		case r.To < r.From || r.To > 65535:
			return bad("To", "is %d, must be a port from %d (From) to 65535", r.To, r.From)
		}
	case ICMP, ICMPv6:
		switch {
		case r.From < Any || r.From > 255:
			return bad("From", "is %d, must be a type of %s from 0 to 255, or %d", r.From, r.Protocol, Any)
		case r.To < Any || r.To > 255:
			return bad("To", "is %d, must be a code of %s from 0 to 255, or %d", r.To, r.Protocol, Any)
		case r.From == Any && r.To != Any:
			return bad("To", "is code %d of any type, must be %d where From is", r.To, Any)
		}
	case AnyProtocol:
		if r.From != Any || r.To != Any {
			return bad("From and To", "are %d and %d, must both be %d for protocol %q", r.From, r.To, Any, AnyProtocol)
		}
	default:
		return bad("Protocol", "%.40q is not one of %q, %q, %q, %q, %q", r.Protocol, TCP, UDP, ICMP, ICMPv6, AnyProtocol)
	}
	if r.RemoteGroup != "" {
		switch {
		case r.Remote.IsValid():
			return bad("RemoteGroup", "is set and so is Remote, of which a rule can have one")
		case !groupID.MatchString(r.RemoteGroup):
			return bad("RemoteGroup", "%.80q is not the id of a group", r.RemoteGroup)
		}
	}
	if r.Remote == (netip.Prefix{}) {
		return nil
	}
	switch {
	case !r.Remote.IsValid():
		return bad("Remote", "has a length that its address can't have")
	case r.Remote.Addr().Is4In6():
		return bad("Remote", "%v is an IPv4 subnet in the form of IPv6", r.Remote)
	case r.Remote.Masked() != r.Remote:
		return bad("Remote", "%v has bits behind its length, the subnet is %v", r.Remote, r.Remote.Masked())
	case r.Protocol == ICMP && !r.Remote.Addr().Is4():
		return bad("Remote", "%v is not IPv4, as protocol %q is", r.Remote, ICMP)
	case r.Protocol == ICMPv6 && !r.Remote.Addr().Is6():
		return bad("Remote", "%v is not IPv6, as protocol %q is", r.Remote, ICMPv6)
	}
	return nil
}

// String is the rule in one line of four words, as "ingress tcp 22-80 10.0.0.0/8", which [ParseRule] understands.
func (r Rule) String() string {
	number := func(n int) string {
		if n == Any {
			return "any"
		}
		return strconv.Itoa(n)
	}
	r = r.normal()
	what := "any"
	switch {
	case r.From == Any:
	case r.Protocol == ICMP || r.Protocol == ICMPv6:
		what = number(r.From) + "/" + number(r.To)
	default:
		what = number(r.From) + "-" + number(r.To)
	}
	remote := "any"
	switch {
	case r.RemoteGroup != "":
		remote = "group:" + r.RemoteGroup
	case r.Remote.IsValid():
		remote = r.Remote.String()
	}
	return fmt.Sprintf("%s %s %s %s", r.Direction, r.Protocol, what, remote)
}

// ParseRule understands what [Rule.String] wrote. What it did not write is InvalidArgument.
func ParseRule(text string) (Rule, error) {
	words := strings.Split(text, " ")
	if len(words) != 4 {
		return Rule{}, fmt.Errorf("network: rule %.200q has %d words, not 4: %w", text, len(words), errdefs.ErrInvalidArgument)
	}
	r := Rule{Direction: Direction(words[0]), Protocol: Protocol(words[1]), From: Any, To: Any}
	var err error
	if words[2] != "any" {
		separator := "-"
		if r.Protocol == ICMP || r.Protocol == ICMPv6 {
			separator = "/"
		}
		first, last, _ := strings.Cut(words[2], separator)
		if r.From, err = strconv.Atoi(first); err == nil && last != "any" {
			r.To, err = strconv.Atoi(last)
		}
	}
	if group, is := strings.CutPrefix(words[3], "group:"); is {
		r.RemoteGroup = group
	} else if words[3] != "any" && err == nil {
		r.Remote, err = netip.ParsePrefix(words[3])
	}
	if err == nil {
		err = r.Validate()
	}
	if err == nil && r.String() != text {
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return Rule{}, fmt.Errorf("network: rule %.200q: %w (%w)", text, errdefs.ErrInvalidArgument, err)
	}
	return r, nil
}
