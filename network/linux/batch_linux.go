package linux

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// batch is a transaction of the packet filter, as nfnetlink reads it. The library makes some ten objects of each element, which takes
// longer than the kernel takes for it; here all is written into one piece of memory.
type batch struct {
	bytes    []byte
	messages uint32 // that were written; the number of the last
	last     int    // where the last begins
	err      error
}

// newBatch begins a transaction of about so many bytes.
func newBatch(size int) *batch {
	b := &batch{bytes: make([]byte, 0, size)}
	b.raw(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, func() {})
	return b
}

const (
	messageHeader = unix.SizeofNlMsghdr + 4 // and that of nfnetlink
	maxElements   = math.MaxUint16 - 1<<10  // bytes of elements in a message: an attribute's size has 16 bits
)

// message writes a message about something in our table.
func (b *batch) message(kind uint16, flags netlink.HeaderFlags, attributes func()) {
	b.raw(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, byte(nftables.TableFamilyBridge), 0, attributes)
}

func (b *batch) raw(kind uint16, flags netlink.HeaderFlags, family byte, resource uint16, attributes func()) {
	b.messages, b.last = b.messages+1, len(b.bytes)
	b.bytes = append(b.bytes, make([]byte, messageHeader)...)
	attributes()
	h := b.bytes[b.last:]
	binary.NativeEndian.PutUint32(h, uint32(len(h)))
	binary.NativeEndian.PutUint16(h[4:], kind)
	binary.NativeEndian.PutUint16(h[6:], uint16(flags|netlink.Request))
	binary.NativeEndian.PutUint32(h[8:], b.messages)
	h[16], h[17] = family, unix.NFNETLINK_V0
	binary.BigEndian.PutUint16(h[18:], resource)
}

func (b *batch) nest(kind uint16, attributes func()) {
	begin := b.open(kind)
	attributes()
	b.shut(begin)
}

func (b *batch) open(kind uint16) (begin int) {
	begin = len(b.bytes)
	b.bytes = binary.NativeEndian.AppendUint16(append(b.bytes, 0, 0), kind|unix.NLA_F_NESTED)
	return begin
}

func (b *batch) shut(begin int) {
	binary.NativeEndian.PutUint16(b.bytes[begin:], uint16(len(b.bytes)-begin))
}

func (b *batch) text(kind uint16, s string)  { b.attribute(kind, s, 1) }
func (b *batch) data(kind uint16, d []byte)  { b.attribute(kind, string(d), 0) }
func (b *batch) value(kind uint16, d string) { b.attribute(kind, d, 0) }

func (b *batch) number(kind uint16, n uint32) {
	b.bytes = binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b.bytes, unix.NLA_HDRLEN+4), kind)
	b.bytes = binary.BigEndian.AppendUint32(b.bytes, n)
}

// attribute writes s with some zeros behind it, and as many more as bring what follows to its place.
func (b *batch) attribute(kind uint16, s string, zeros int) {
	size := unix.NLA_HDRLEN + len(s) + zeros
	b.bytes = binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b.bytes, uint16(size)), kind)
	b.bytes = append(b.bytes, s...)
	b.bytes = append(b.bytes, make([]byte, zeros+-size&(unix.NLA_ALIGNTO-1))...)
}

// named writes a message that says no more than whose name.
func (b *batch) named(kind uint16, flags netlink.HeaderFlags, attribute uint16, name string) {
	b.message(kind, flags, func() {
		if attribute != unix.NFTA_TABLE_NAME {
			b.text(unix.NFTA_TABLE_NAME, tableName) // it has the same number everywhere
		}
		b.text(attribute, name)
	})
}

func (b *batch) addTable() {
	b.named(unix.NFT_MSG_NEWTABLE, netlink.Create, unix.NFTA_TABLE_NAME, tableName)
}

func (b *batch) delTable() { b.named(unix.NFT_MSG_DELTABLE, 0, unix.NFTA_TABLE_NAME, tableName) }

func (b *batch) addSet(s set) {
	k, flags := s.kernel(), uint32(0)
	for flag, is := range map[uint32]bool{unix.NFT_SET_MAP: k.IsMap, unix.NFT_SET_TIMEOUT: k.HasTimeout, unix.NFT_SET_EVAL: k.Dynamic,
		nftables.NFT_SET_CONCAT: k.Concatenation} {
		if is {
			flags |= flag
		}
	}
	b.message(unix.NFT_MSG_NEWSET, netlink.Create, func() {
		b.text(unix.NFTA_SET_TABLE, tableName)
		b.text(unix.NFTA_SET_NAME, s.name)
		b.number(unix.NFTA_SET_FLAGS, flags)
		b.number(unix.NFTA_SET_KEY_TYPE, k.KeyType.GetNFTMagic())
		b.number(unix.NFTA_SET_KEY_LEN, k.KeyType.Bytes)
		b.number(unix.NFTA_SET_ID, b.messages)
		switch s.to {
		case "verdict":
			b.number(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		case "mark":
			b.number(unix.NFTA_SET_DATA_TYPE, k.DataType.GetNFTMagic())
			b.number(unix.NFTA_SET_DATA_LEN, k.DataType.Bytes)
		}
		b.nest(unix.NFTA_SET_DESC, func() {
			if k.Size > 0 {
				b.number(unix.NFTA_SET_DESC_SIZE, k.Size)
			}
			if !k.Concatenation {
				return
			}
			b.nest(nftables.NFTA_SET_DESC_CONCAT, func() {
				for _, t := range nftables.ConcatSetTypeElements(k.KeyType) {
					b.nest(unix.NFTA_LIST_ELEM, func() { b.number(1, t.Bytes) }) // NFTA_SET_FIELD_LEN
				}
			})
		})
		// The byte order is what nft goes by to show names of interfaces.
		b.data(unix.NFTA_SET_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, 1))
	})
}

func (b *batch) delSet(s set) { b.named(unix.NFT_MSG_DELSET, 0, unix.NFTA_SET_NAME, s.name) }

func (b *batch) addChain(c chain) {
	k := c.kernel()
	b.message(unix.NFT_MSG_NEWCHAIN, netlink.Create, func() {
		b.text(unix.NFTA_CHAIN_TABLE, tableName)
		b.text(unix.NFTA_CHAIN_NAME, c.name)
		if k.Hooknum == nil {
			return
		}
		b.nest(unix.NFTA_CHAIN_HOOK, func() {
			b.number(unix.NFTA_HOOK_HOOKNUM, uint32(*k.Hooknum))
			b.number(unix.NFTA_HOOK_PRIORITY, uint32(*k.Priority))
		})
		b.number(unix.NFTA_CHAIN_POLICY, uint32(*k.Policy))
		b.text(unix.NFTA_CHAIN_TYPE, string(k.Type))
	})
}

func (b *batch) delChain(name string) { b.named(unix.NFT_MSG_DELCHAIN, 0, unix.NFTA_CHAIN_NAME, name) }

// flushChain removes the rules of a chain.
func (b *batch) flushChain(name string) {
	b.named(unix.NFT_MSG_DELRULE, 0, unix.NFTA_RULE_CHAIN, name)
}

func (b *batch) addRule(chain string, r rule) {
	b.message(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func() {
		b.text(unix.NFTA_RULE_TABLE, tableName)
		b.text(unix.NFTA_RULE_CHAIN, chain)
		b.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
			for _, e := range r.exprs() {
				data, err := expr.Marshal(byte(nftables.TableFamilyBridge), e)
				b.err = errors.Join(b.err, err)
				b.data(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, data)
			}
		})
		b.data(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, r.comment()))
	})
}

// elements adds elements or deletes them, set by set.
func (b *batch) elements(kind uint16, flags netlink.HeaderFlags, all []element, classes map[string]uint32) {
	sizes, bySet := map[string]int{}, map[string][]element{}
	for _, e := range all {
		sizes[e.set]++
	}
	for name, n := range sizes {
		bySet[name] = make([]element, 0, n)
	}
	for _, e := range all {
		bySet[e.set] = append(bySet[e.set], e)
	}
	for _, name := range slices.Sorted(maps.Keys(bySet)) {
		for rest := bySet[name]; len(rest) > 0; {
			b.message(kind, flags, func() {
				b.text(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
				b.text(unix.NFTA_SET_ELEM_LIST_SET, name)
				b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
					for begin := len(b.bytes); len(rest) > 0 && len(b.bytes)-begin < maxElements; rest = rest[1:] {
						b.element(rest[0], kind == unix.NFT_MSG_NEWSETELEM, classes)
					}
				})
			})
		}
	}
}

func (b *batch) element(e element, whole bool, classes map[string]uint32) {
	item := b.open(unix.NFTA_LIST_ELEM)
	key := b.open(unix.NFTA_SET_ELEM_KEY)
	b.value(unix.NFTA_DATA_VALUE, e.key)
	b.shut(key)
	if whole && e.to != "" {
		data := b.open(unix.NFTA_SET_ELEM_DATA)
		if e.set == groupsOf {
			b.value(unix.NFTA_DATA_VALUE, classKey(classes[e.to]))
		} else {
			verdict := b.open(unix.NFTA_DATA_VERDICT)
			b.number(unix.NFTA_VERDICT_CODE, math.MaxUint32+1+unix.NFT_GOTO)
			b.text(unix.NFTA_VERDICT_CHAIN, e.to)
			b.shut(verdict)
		}
		b.shut(data)
	}
	b.shut(item)
}

// send makes the changes of a batch: all, or none. The kernel answers while it is sent: about the last message, and about those that fail.
func (k *kernel) send(b *batch) error {
	if b.err != nil || b.messages == 1 {
		return b.err
	}
	h, last := b.bytes[b.last:], b.messages
	binary.NativeEndian.PutUint16(h[6:], binary.NativeEndian.Uint16(h[6:])|uint16(netlink.Acknowledge))
	b.raw(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, func() {})
	if len(b.bytes) > k.room {
		if err := k.rules.SetWriteBuffer(len(b.bytes)); err != nil {
			return err
		}
		k.room = len(b.bytes)
	}
	conn, err := k.rules.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = conn.Control(func(fd uintptr) {
		if failure = unix.Sendto(int(fd), b.bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); failure == nil {
			failure = answer(int(fd), last)
		}
	})
	return errors.Join(failure, err)
}

// answer reads what the kernel says to a batch, until nothing is left.
func answer(fd int, last uint32) (failure error) {
	buf, answered := make([]byte, 1<<12), false // what of a message is behind is what was sent
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && !answered && failure == nil:
			return errors.New("the kernel did not answer")
		case err == unix.EAGAIN:
			return failure
		case err != nil:
			return err
		}
		for rest := buf[:n]; len(rest) >= messageHeader; {
			size, kind := int(binary.NativeEndian.Uint32(rest)), binary.NativeEndian.Uint16(rest[4:])
			if kind == unix.NLMSG_ERROR {
				errno := -int32(binary.NativeEndian.Uint32(rest[unix.SizeofNlMsghdr:]))
				if errno == 0 {
					answered = answered || binary.NativeEndian.Uint32(rest[8:]) == last
				} else if failure == nil {
					failure = unix.Errno(errno)
				}
			}
			rest = rest[min(len(rest), (max(size, messageHeader)+3)&^3):]
		}
	}
}
