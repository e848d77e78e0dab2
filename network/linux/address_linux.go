package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// address is an address of a link, with all that the kernel says of it.
type address struct {
	prefix    netip.Prefix
	header    []byte // ifaddrmsg
	raw       []netlink.Attribute
	permanent bool
}

// addresses are those that are valid beyond the link.
type addresses []address

func (all addresses) has(p netip.Prefix) bool {
	for _, a := range all {
		if p.IsValid() && a.prefix == p {
			return true
		}
	}
	return false
}

// addresses lists the addresses of a link, of one family or of all.
func (c *call) addresses(ctx context.Context, l *nic, family uint8) (addresses, error) {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0] = family
	binary.NativeEndian.PutUint32(header[4:], l.index)
	replies, err := c.route(ctx, unix.RTM_GETADDR, netlink.Request|netlink.Dump, header, nil)
	if err != nil {
		return nil, failed("addresses of "+l.name, err)
	}
	var all addresses
	for _, reply := range replies {
		a, err := decodeAddress(reply.Data)
		if err != nil {
			return nil, failed("addresses of "+l.name, err)
		}
		if reply.Header.Type == unix.RTM_NEWADDR && a.header[3] < unix.RT_SCOPE_LINK && binary.NativeEndian.Uint32(a.header[4:]) == l.index {
			all = append(all, a)
		}
	}
	return all, nil
}

func decodeAddress(data []byte) (a address, err error) {
	if len(data) < unix.SizeofIfAddrmsg {
		return a, errors.New("an address is cut short")
	}
	a.header = data[:unix.SizeofIfAddrmsg:unix.SizeofIfAddrmsg]
	a.permanent = a.header[2]&unix.IFA_F_PERMANENT != 0
	ad, err := netlink.NewAttributeDecoder(data[unix.SizeofIfAddrmsg:])
	if err != nil {
		return a, err
	}
	var local, peer []byte
	for ad.Next() {
		b := ad.Bytes()
		switch ad.Type() {
		case unix.IFA_LOCAL:
			local = b
		case unix.IFA_ADDRESS:
			peer = b
		}
		a.raw = append(a.raw, netlink.Attribute{Type: ad.Type(), Data: b})
	}
	if local == nil {
		local = peer
	}
	if ip, ok := netip.AddrFromSlice(local); ok {
		a.prefix = netip.PrefixFrom(ip, int(a.header[1]))
	}
	return a, ad.Err()
}

// addAddress gives a link an address. One that it has already is success.
func (c *call) addAddress(ctx context.Context, l *nic, p netip.Prefix) error {
	ip := p.Addr().AsSlice()
	_, err := c.route(ctx, unix.RTM_NEWADDR, netlink.Request|netlink.Acknowledge|netlink.Create|netlink.Excl, addressHeader(l, p), func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.IFA_LOCAL, ip)
		ae.Bytes(unix.IFA_ADDRESS, ip)
		if p.Addr().Is4() && p.Bits() < 31 {
			last := p.Addr().As4()
			mask := ^uint32(0) >> p.Bits()
			ae.Bytes(unix.IFA_BROADCAST, binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(last[:])|mask))
		}
		if p.Addr().Is6() {
			ae.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		}
	})
	return ignore(err, unix.EEXIST)
}

// copyAddress gives a link the address of another.
func (c *call) copyAddress(ctx context.Context, l *nic, a address) error {
	header := addressHeader(l, a.prefix)
	header[3] = a.header[3]
	_, err := c.route(ctx, unix.RTM_NEWADDR, netlink.Request|netlink.Acknowledge|netlink.Create|netlink.Excl, header, func(ae *netlink.AttributeEncoder) {
		for _, attribute := range a.raw {
			switch {
			case attribute.Type == unix.IFA_LABEL: // it names the other link
			case attribute.Type == unix.IFA_FLAGS && len(attribute.Data) == 4 && a.prefix.Addr().Is6():
				// It was checked for duplicates where it comes from.
				ae.Uint32(unix.IFA_FLAGS, binary.NativeEndian.Uint32(attribute.Data)|unix.IFA_F_NODAD)
			default:
				ae.Bytes(attribute.Type, attribute.Data)
			}
		}
	})
	return ignore(err, unix.EEXIST)
}

// removeAddress takes an address from a link. One that it does not have is success.
func (c *call) removeAddress(ctx context.Context, l *nic, a address) error {
	_, err := c.route(ctx, unix.RTM_DELADDR, netlink.Request|netlink.Acknowledge, addressHeader(l, a.prefix), func(ae *netlink.AttributeEncoder) {
		for _, attribute := range a.raw {
			if attribute.Type == unix.IFA_LOCAL || attribute.Type == unix.IFA_ADDRESS {
				ae.Bytes(attribute.Type, attribute.Data)
			}
		}
	})
	return ignore(err, unix.EADDRNOTAVAIL)
}

func addressHeader(l *nic, p netip.Prefix) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0] = unix.AF_INET
	if p.Addr().Is6() {
		b[0] = unix.AF_INET6
	}
	b[1] = uint8(p.Bits())
	binary.NativeEndian.PutUint32(b[4:], l.index)
	return b
}

func ignore(err error, harmless unix.Errno) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}
