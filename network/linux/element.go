package linux

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// element is a fact about one port.
type element struct {
	set string
	key string // as the kernel wants it
}

// elements returns the facts about a port: what it may send, and what it gets.
func elements(t network.Tap) []element {
	begin := string(padded([]byte(t.Name), 16)) + string(padded(t.MAC, 8))
	all := []element{{macs, begin}}
	for _, a := range append([]netip.Addr{linkLocal(t.MAC)}, t.IPs...) {
		if a.Is4() {
			all = append(all, element{ip4s, begin + string(a.AsSlice())})
		} else {
			all = append(all, element{ip6s, begin + string(a.AsSlice())})
		}
	}
	return all
}

func padded(b []byte, n int) []byte {
	return append(append(make([]byte, 0, n), b...), make([]byte, n-len(b))...)
}

// linkLocal returns the link-local address that a host makes of its MAC address (RFC 4291 appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// parse returns what the element says: the name of the tap, its MAC address and the IP address, if there is one.
func (e element) parse() (tap string, mac net.HardwareAddr, ip netip.Addr, err error) {
	sizes := map[string]int{macs: 24, ip4s: 28, ip6s: 40}
	if size := sizes[e.set]; size == 0 || len(e.key) != size {
		return "", nil, ip, fmt.Errorf("element of %d bytes in set %q", len(e.key), e.set)
	}
	tap, _, _ = strings.Cut(e.key[:16], "\x00")
	ip, _ = netip.AddrFromSlice([]byte(e.key[24:]))
	return tap, net.HardwareAddr(e.key[16:22]), ip, nil
}

// String is the element as nft writes it.
func (e element) String() string {
	tap, mac, ip, err := e.parse()
	switch {
	case err != nil:
		return err.Error()
	case ip.IsValid():
		return fmt.Sprintf("%q . %v . %v", tap, mac, ip)
	}
	return fmt.Sprintf("%q . %v", tap, mac)
}
