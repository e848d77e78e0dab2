package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nic is a link of the node as the kernel has it.
type nic struct {
	index  uint32
	name   string
	kind   string
	alias  string
	mac    net.HardwareAddr
	mtu    int
	master uint32 // 0: none
	parent uint32 // of a VLAN: the link that it is a part of
	group  uint32
	up     bool
	data   []byte // of its kind, as the kernel writes it
	family []byte // of families of addresses (IFLA_AF_SPEC), as the kernel writes it
	loop   bool
}

func (l *nic) ours() bool {
	return isMarked(l.alias) || l.group == tapGroup || l.group == bridgeGroup || l.group == vlanGroup
}

// isBridge and isTap are what of ours the link is.
func (l *nic) isBridge() bool { return l.ours() && l.kind == "bridge" }
func (l *nic) isTap() bool {
	return l.ours() && l.kind == "tun" && l.number(unix.IFLA_TUN_TYPE) == unix.IFF_TAP
}

// number returns an attribute of the link's kind, 0 if it has none.
func (l *nic) number(attribute uint16) (n uint64) {
	ad, err := netlink.NewAttributeDecoder(l.data)
	if err != nil {
		return 0
	}
	for ad.Next() {
		if ad.Type() != attribute {
			continue
		}
		switch b := ad.Bytes(); len(b) {
		case 1:
			return uint64(b[0])
		case 2:
			return uint64(binary.NativeEndian.Uint16(b))
		case 4:
			return uint64(binary.NativeEndian.Uint32(b))
		case 8:
			return binary.NativeEndian.Uint64(b)
		}
	}
	return 0
}

// skipStats keeps what nobody reads out of lists of links (RTEXT_FILTER_SKIP_STATS).
const skipStats = 1 << 3

// links lists the links of the node by name.
func (c *call) links(ctx context.Context) (map[string]*nic, error) {
	replies, err := c.route(ctx, unix.RTM_GETLINK, netlink.Request|netlink.Dump, make([]byte, unix.SizeofIfInfomsg), func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_EXT_MASK, skipStats)
	})
	if err != nil {
		return nil, failed("list links", err)
	}
	all := make(map[string]*nic, len(replies))
	for _, reply := range replies {
		l, err := decodeLink(reply.Data)
		if err != nil {
			return nil, failed("list links", err)
		}
		all[l.name] = l
	}
	return all, nil
}

// link returns the link with this name, nil if there is none.
func (c *call) link(ctx context.Context, name string) (*nic, error) {
	replies, err := c.route(ctx, unix.RTM_GETLINK, netlink.Request, make([]byte, unix.SizeofIfInfomsg), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
		ae.Uint32(unix.IFLA_EXT_MASK, skipStats)
	})
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, nil
	case err != nil:
		return nil, failed("link "+name, err)
	case len(replies) != 1:
		return nil, failed("link "+name, fmt.Errorf("%d answers", len(replies)))
	}
	l, err := decodeLink(replies[0].Data)
	if err != nil {
		return nil, failed("link "+name, err)
	}
	return l, nil
}

func decodeLink(message []byte) (*nic, error) {
	if len(message) < unix.SizeofIfInfomsg {
		return nil, errors.New("a link is cut short")
	}
	l := &nic{
		index: binary.NativeEndian.Uint32(message[4:]), up: binary.NativeEndian.Uint32(message[8:])&unix.IFF_UP != 0,
		loop: binary.NativeEndian.Uint32(message[8:])&unix.IFF_LOOPBACK != 0,
	}
	ad, err := netlink.NewAttributeDecoder(message[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			l.name = ad.String()
		case unix.IFLA_IFALIAS:
			l.alias = ad.String()
		case unix.IFLA_ADDRESS:
			l.mac = ad.Bytes()
		case unix.IFLA_MTU:
			l.mtu = int(ad.Uint32())
		case unix.IFLA_MASTER:
			l.master = ad.Uint32()
		case unix.IFLA_LINK:
			l.parent = ad.Uint32()
		case unix.IFLA_GROUP:
			l.group = ad.Uint32()
		case unix.IFLA_AF_SPEC:
			if l.group != tapGroup { // nobody asks, and there are many
				l.family = ad.Bytes()
			}
		case unix.IFLA_LINKINFO:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					switch ad.Type() {
					case unix.IFLA_INFO_KIND:
						l.kind = ad.String()
					case unix.IFLA_INFO_DATA:
						l.data = ad.Bytes()
					}
				}
				return nil
			})
		}
	}
	return l, ad.Err()
}

// linkChange is what to change of a link, or to make it of. A field that is nil or zero stays as it is; up false too.
type linkChange struct {
	index  uint32 // 0: the link with the name
	make   bool
	name   string
	kind   string
	data   func(*netlink.AttributeEncoder) error // of kind
	mac    net.HardwareAddr
	mtu    int
	group  uint32
	alias  *string
	master *uint32
	parent uint32 // of what is made
	up     bool
}

func (c *call) change(ctx context.Context, l linkChange) error {
	flags := netlink.Request | netlink.Acknowledge
	if l.make {
		flags |= netlink.Create | netlink.Excl
	}
	var up uint32
	if l.up {
		up = unix.IFF_UP
	}
	_, err := c.route(ctx, unix.RTM_NEWLINK, flags, linkHeader(l.index, up), func(ae *netlink.AttributeEncoder) {
		if l.index == 0 {
			ae.String(unix.IFLA_IFNAME, l.name)
		}
		if len(l.mac) > 0 {
			ae.Bytes(unix.IFLA_ADDRESS, l.mac)
		}
		if l.mtu != 0 {
			ae.Uint32(unix.IFLA_MTU, uint32(l.mtu))
		}
		if l.group != 0 {
			ae.Uint32(unix.IFLA_GROUP, l.group)
		}
		if l.alias != nil {
			ae.String(unix.IFLA_IFALIAS, *l.alias)
		}
		if l.master != nil {
			ae.Uint32(unix.IFLA_MASTER, *l.master)
		}
		if l.parent != 0 {
			ae.Uint32(unix.IFLA_LINK, l.parent)
		}
		if l.kind != "" {
			ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
				ae.String(unix.IFLA_INFO_KIND, l.kind)
				ae.Nested(unix.IFLA_INFO_DATA, l.data)
				return nil
			})
		}
	})
	return err
}

// remove removes a link. One that is gone already is success.
func (c *call) remove(ctx context.Context, l *nic) error {
	_, err := c.route(ctx, unix.RTM_DELLINK, netlink.Request|netlink.Acknowledge, linkHeader(l.index, 0), nil)
	if errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return err
}

func linkHeader(index, up uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint32(b[8:], up)
	binary.NativeEndian.PutUint32(b[12:], up) // only flags that are set change
	return b
}

// route makes one request, unless ctx has ended.
func (c *call) route(ctx context.Context, kind netlink.HeaderType, flags netlink.HeaderFlags, header []byte, encode func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ae := netlink.NewAttributeEncoder()
	if encode != nil {
		encode(ae)
	}
	attributes, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	return c.wire.route(netlink.Message{Header: netlink.Header{Type: kind, Flags: flags}, Data: append(header, attributes...)})
}
