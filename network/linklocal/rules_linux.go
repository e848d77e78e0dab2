package linklocal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// What we put into the kernel is known by the table: no other program has one of this number by chance.
const (
	table    = 0x64700001 // as the groups of our links begin
	priority = 100        // before the main table's 32766
)

// wire is a connection to rtnetlink in Config.NetNS.
func (s *Server) wire() (*netlink.Conn, error) {
	fd := 0
	if s.cfg.NetNS != "" {
		ns, err := os.Open(s.cfg.NetNS)
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		fd = int(ns.Fd())
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: fd})
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	_ = c.SetOption(netlink.ExtendedAcknowledge, true)
	return c, nil
}

// setRules makes our rules those for the bridges, and the route that they lead to.
func (s *Server) setRules(bridges map[string]bool) error {
	c, err := s.wire()
	if err != nil {
		return err
	}
	defer c.Close()
	have, err := rules(c)
	if err != nil {
		return err
	}
	if len(bridges) > 0 { // it may have gone with the loopback device, for a while
		if err := change(c, unix.RTM_NEWROUTE, localRoute()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route to %v: %w", network.MetadataAddr, err)
		}
	}
	for bridge := range bridges {
		if have[bridge] == 0 {
			if err := change(c, unix.RTM_NEWRULE, rule(bridge)); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("rule of bridge %s: %w", bridge, err)
			}
		}
	}
	for bridge, n := range have {
		if bridges[bridge] {
			n-- // more than one is one too many
		}
		for ; n > 0; n-- {
			if err := change(c, unix.RTM_DELRULE, rule(bridge)); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("rule of bridge %s: %w", bridge, err)
			}
		}
	}
	return nil
}

func change(c *netlink.Conn, kind netlink.HeaderType, body []byte) error {
	flags := netlink.Request | netlink.Acknowledge
	if kind == unix.RTM_NEWROUTE || kind == unix.RTM_NEWRULE {
		flags |= netlink.Create | netlink.Excl
	}
	_, err := c.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: flags}, Data: body})
	return err
}

// rules counts our rules for each bridge.
func rules(c *netlink.Conn) (map[string]int, error) {
	all, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data: ruleHeader(0, 0)})
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	have := map[string]int{}
	for _, m := range all {
		if len(m.Data) < 12 {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[12:])
		if err != nil {
			return nil, fmt.Errorf("rules: %w", err)
		}
		var bridge string
		ours := false
		for d.Next() {
			switch d.Type() {
			case unix.FRA_TABLE:
				ours = d.Uint32() == table
			case unix.FRA_IIFNAME:
				bridge = d.String()
			}
		}
		if err := d.Err(); err != nil {
			return nil, fmt.Errorf("rules: %w", err)
		}
		if ours {
			have[bridge]++
		}
	}
	return have, nil
}

// ruleHeader is the kernel's struct fib_rule_hdr.
func ruleHeader(toBits, action byte) []byte {
	return []byte{unix.AF_INET, toBits, 0, 0, unix.RT_TABLE_UNSPEC, 0, 0, action, 0, 0, 0, 0}
}

func rule(bridge string) []byte {
	e := netlink.NewAttributeEncoder()
	e.String(unix.FRA_IIFNAME, bridge)
	e.Bytes(unix.FRA_DST, network.MetadataAddr.AsSlice())
	e.Uint32(unix.FRA_TABLE, table)
	e.Uint32(unix.FRA_PRIORITY, priority)
	return encoded(ruleHeader(32, unix.FR_ACT_TO_TBL), e)
}

// localRoute is struct rtmsg with its attributes. The loopback device has index 1 in every namespace.
func localRoute() []byte {
	e := netlink.NewAttributeEncoder()
	e.Bytes(unix.RTA_DST, network.MetadataAddr.AsSlice())
	e.Uint32(unix.RTA_OIF, 1)
	e.Uint32(unix.RTA_TABLE, table)
	return encoded([]byte{unix.AF_INET, 32, 0, 0, unix.RT_TABLE_UNSPEC, unix.RTPROT_STATIC, unix.RT_SCOPE_HOST, unix.RTN_LOCAL, 0, 0, 0, 0}, e)
}

func encoded(header []byte, e *netlink.AttributeEncoder) []byte {
	attributes, _ := e.Encode() // can't fail: all are short
	return append(header, attributes...)
}

// neighbour returns the hardware address that the node knows for an address behind an interface.
func (s *Server) neighbour(index int, addr netip.Addr) (net.HardwareAddr, error) {
	c, err := s.wire()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	header := make([]byte, 12) // struct ndmsg
	header[0] = unix.AF_INET
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	e := netlink.NewAttributeEncoder()
	e.Bytes(unix.NDA_DST, addr.AsSlice())
	all, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETNEIGH, Flags: netlink.Request}, Data: encoded(header, e)})
	if err != nil {
		return nil, fmt.Errorf("neighbour %v: %w", addr, err)
	}
	for _, m := range all {
		if len(m.Data) < len(header) {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[len(header):])
		if err != nil {
			return nil, err
		}
		for d.Next() {
			if d.Type() == unix.NDA_LLADDR && len(d.Bytes()) == 6 {
				return append(net.HardwareAddr(nil), d.Bytes()...), nil
			}
		}
	}
	return nil, fmt.Errorf("neighbour %v: %w", addr, unix.ENOENT)
}
