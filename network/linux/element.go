package linux

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// element is a fact, about a port or a member of a group.
type element struct {
	set string
	key string // as the kernel wants it
	to  string // the chain, in a map; in groups_of by its class
}

// elements returns the facts about a port: what it may send, what it gets, and by which rules.
func elements(t network.Tap) []element { return facts(t.Name, markOf(t)) }

// choice is the combination of a tap's groups, "" for one that has none because it is not guarded.
func choice(t network.Tap) string {
	if !t.Guarded {
		return ""
	}
	return combination(t.Groups)
}

func facts(tap string, m tapMark) []element {
	name := string(padded([]byte(tap), 16))
	begin := name + string(padded(m.mac, 8))
	all := append(make([]element, 0, len(m.ips)+5), element{set: macs, key: begin})
	add := func(a netip.Addr) {
		if a.Is4() {
			four := a.As4()
			all = append(all, element{set: ip4s, key: begin + string(four[:])})
		} else {
			six := a.As16()
			all = append(all, element{set: ip6s, key: begin + string(six[:])})
		}
	}
	add(linkLocal(m.mac))
	for _, a := range m.ips {
		add(a)
	}
	all = append(all, limitElements(tap, m.limits)...)
	if m.choice == "" {
		return append(all, element{set: open, key: name})
	}
	return append(all, element{groupsOf, name, choose + m.choice})
}

func padded(b []byte, n int) []byte {
	return append(append(make([]byte, 0, n), b...), make([]byte, n-len(b))...)
}

func linkLocal(mac net.HardwareAddr) netip.Addr { return network.LinkLocal(mac) }

// parse returns what the element says of a tap: its name, its MAC address and the IP address, if there is one.
func (e element) parse() (tap string, mac net.HardwareAddr, ip netip.Addr, err error) {
	sizes := map[string]int{macs: 24, ip4s: 28, ip6s: 40, open: 16, groupsOf: 16, limitsIn: 16, limitsOut: 16}
	if size := sizes[e.set]; size == 0 || len(e.key) != size {
		return "", nil, ip, fmt.Errorf("element of %d bytes in set %q", len(e.key), e.set)
	}
	tap, _, _ = strings.Cut(e.key[:16], "\x00")
	if len(e.key) == 16 {
		return tap, nil, ip, nil
	}
	ip, _ = netip.AddrFromSlice([]byte(e.key[24:]))
	return tap, net.HardwareAddr(e.key[16:22]), ip, nil
}

// String is the element as nft writes it, but with the chain of a class.
func (e element) String() string {
	tap, mac, ip, err := e.parse()
	_, member := groupOf(e.set)
	switch {
	case e.set == choosers && len(e.key) == 4:
		return fmt.Sprintf("0x%08x : goto %s", binary.NativeEndian.Uint32([]byte(e.key)), e.to)
	case member:
		a, _ := netip.AddrFromSlice([]byte(e.key))
		return a.String()
	case err != nil:
		return err.Error()
	case ip.IsValid():
		return fmt.Sprintf("%q . %v . %v", tap, mac, ip)
	case e.set == groupsOf:
		return fmt.Sprintf("%q : %s", tap, e.to)
	case e.to != "":
		return fmt.Sprintf("%q : goto %s", tap, e.to)
	case mac == nil:
		return fmt.Sprintf("%q", tap)
	}
	return fmt.Sprintf("%q . %v", tap, mac)
}
