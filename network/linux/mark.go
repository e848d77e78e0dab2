package linux

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// mark begins the alias of every link of ours. What follows is what the kernel has no other place for.
const mark = "dewpoint "

// maxAlias is how long the alias of a link may be (IFALIASZ, with its end).
const maxAlias = 255

// bridgeMark is what the alias of a bridge says.
type bridgeMark struct {
	gateway netip.Prefix
	uplink  string
	shared  bool // the gateway is an address of the uplink too
	vlan    int  // a sub-interface for it is a port of the bridge

	gateway6 netip.Prefix
	shared6  bool // the same of it
	opened   bool // the node forwards IPv6 because of this bridge, and others like it
}

// owns tells whether p is an address of the bridge that its uplink did not bring.
func (m bridgeMark) owns(p netip.Prefix) bool {
	return p == m.gateway && !m.shared || p == m.gateway6 && !m.shared6
}

// alone is the mark of the bridge without its uplink.
func (m bridgeMark) alone() bridgeMark {
	return bridgeMark{gateway: m.gateway, gateway6: m.gateway6, opened: m.opened}
}

// isGateway tells whether p is an address that the bridge is to have by itself.
func (m bridgeMark) isGateway(p netip.Prefix) bool { return p == m.gateway || p == m.gateway6 }

func (m bridgeMark) String() string {
	text := mark + "bridge"
	if m.gateway.IsValid() {
		text += " gateway=" + m.gateway.String()
	}
	if m.uplink != "" {
		text += " uplink=" + m.uplink
	}
	if m.shared {
		text += " shared=true"
	}
	if m.vlan != 0 {
		text += fmt.Sprint(" vlan=", m.vlan)
	}
	if m.gateway6.IsValid() {
		text += " gateway6=" + m.gateway6.String()
	}
	if m.shared6 {
		text += " shared6=true"
	}
	if m.opened {
		text += " opened=true"
	}
	return text
}

// parseBridgeMark understands what String wrote, and of other text as much as it can.
func parseBridgeMark(alias string) (m bridgeMark) {
	for key, value := range pairs(alias) {
		switch key {
		case "gateway":
			m.gateway, _ = netip.ParsePrefix(value)
		case "uplink":
			m.uplink = value
		case "shared":
			m.shared = value == "true"
		case "gateway6":
			m.gateway6, _ = netip.ParsePrefix(value)
		case "shared6":
			m.shared6 = value == "true"
		case "opened":
			m.opened = value == "true"
		case "vlan":
			if id, err := strconv.Atoi(value); err == nil && id > 0 && id <= network.MaxVLAN {
				m.vlan = id
			}
		}
	}
	return m
}

// tapMark is what the alias of a tap says: who it is for, and what the sets have for it.
type tapMark struct {
	port   string
	mac    net.HardwareAddr
	ips    []netip.Addr
	choice string // of security groups; "": not guarded
	limits network.Limits
	cut    bool // there was no room for all addresses
}

func markOf(t network.Tap) tapMark {
	return tapMark{port: t.Port, mac: t.MAC, ips: t.IPs, choice: choice(t), limits: t.Limits}
}

func (m tapMark) String() string {
	text := fmt.Sprintf("%stap port=%s mac=%v", mark, m.port, m.mac)
	if m.choice != "" {
		text += " groups=" + m.choice
	}
	if m.limits.In.Bytes != 0 {
		text += " in=" + rateText(m.limits.In)
	}
	if m.limits.Out.Bytes != 0 {
		text += " out=" + rateText(m.limits.Out)
	}
	if len(m.ips) > 0 {
		var ips []string
		for _, ip := range m.ips {
			ips = append(ips, ip.String())
		}
		text += " ips=" + strings.Join(ips, ",")
	}
	if len(text) > maxAlias {
		text = text[:strings.LastIndexByte(text[:maxAlias-len(" cut=true")+1], ',')] + " cut=true"
	}
	return text
}

// position is where the mark has an address, and at the end for one that it has not.
func (m tapMark) position(a netip.Addr) int {
	if at := slices.Index(m.ips, a); at >= 0 {
		return at
	}
	return len(m.ips)
}

func parseTapMark(alias string) (m tapMark) {
	for key, value := range pairs(alias) {
		switch key {
		case "port":
			m.port = value
		case "mac":
			if mac, err := net.ParseMAC(value); err == nil && len(mac) == 6 {
				m.mac = mac
			}
		case "ips":
			for _, text := range strings.Split(value, ",") {
				if ip, err := netip.ParseAddr(text); err == nil {
					m.ips = append(m.ips, ip)
				}
			}
		case "groups":
			m.choice = value
		case "in":
			m.limits.In = parseRate(value)
		case "out":
			m.limits.Out = parseRate(value)
		case "cut":
			m.cut = value == "true"
		}
	}
	return m
}

func isMarked(alias string) bool { return strings.HasPrefix(alias, mark) }

func pairs(alias string) func(yield func(key, value string) bool) {
	return func(yield func(key, value string) bool) {
		rest, ours := strings.CutPrefix(alias, mark)
		if !ours {
			return
		}
		for _, word := range strings.Fields(rest) {
			if key, value, ok := strings.Cut(word, "="); ok && !yield(key, value) {
				return
			}
		}
	}
}
