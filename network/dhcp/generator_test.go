//go:build linux

package dhcp

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
)

// generator plays many clients on one card: the same for every server that it measures.
type generator struct {
	t      testing.TB
	fd     int
	rx, tx *messages
	frames [batchLength][]byte
	queued int

	window   int           // exchanges that are under way at once
	patience time.Duration // after which a client asks again
	clients  []client
	naks     int
	again    int // requests that were sent again, as no answer came
}

type client struct {
	step    byte // what it waits for: offer or ack; 0: idle
	xid     uint32
	addr    [4]byte
	server  [4]byte
	changed time.Time
}

const window = 32 // of a measurement

func newGenerator(t testing.TB, ns *netnstest.NS, clients int) *generator {
	g := &generator{t: t, window: window, patience: time.Second, clients: make([]client, clients), rx: &messages{}, tx: &messages{}}
	require.NoError(t, ns.Do(func() (err error) {
		if g.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		program, err := assemble([]bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtType},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 255},
			bpf.LoadAbsolute{Off: 14 + 22, Size: 2}, // the destination's port
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort, SkipTrue: 255},
			bpf.RetConstant{Val: packetSpace},
			bpf.RetConstant{Val: 0},
		}, 255)
		if err != nil {
			return err
		}
		filters := make([]unix.SockFilter, len(program))
		for i, p := range program {
			filters[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
		}
		if err := unix.SetsockoptSockFprog(g.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]}); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
		tv := unix.NsecToTimeval(int64(10 * time.Millisecond))
		if err := unix.SetsockoptTimeval(g.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		req, err := unix.NewIfreq("g0")
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(g.fd, unix.SIOCGIFINDEX, req); err != nil {
			return err
		}
		index := int(req.Uint32())
		// All clients' answers come to one card.
		if err := unix.SetsockoptPacketMreq(g.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}); err != nil {
			return err
		}
		g.rx.init(int32(index))
		g.rx.space()
		g.tx.init(int32(index))
		return unix.Bind(g.fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: index}) // ETH_P_ALL
	}))
	for i := range g.frames {
		g.frames[i] = make([]byte, 0, 600)
	}
	t.Cleanup(func() { _ = unix.Close(g.fd) })
	return g
}

// run makes exchanges with the clients from first on, one after the other and around, until the time is over or each has had
// one when once is set. It returns how many were completed.
func (g *generator) run(first int, length time.Duration, once bool) (done, next int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := time.Now()
	begun, busy := 0, 0
	begin := func() {
		if once && begun == len(g.clients) {
			return
		}
		i := (first + begun) % len(g.clients)
		begun++
		busy++
		c := &g.clients[i]
		c.xid = uint32(i)<<8 | (c.xid+1)&0xff
		g.send(i, discover)
	}
	for range g.window {
		begin()
	}
	g.flush()
	lastCheck := start
	for {
		now := time.Now()
		if busy == 0 || now.Sub(start) > length {
			break
		}
		for _, m := range g.receive() {
			if len(m) < 14+268 {
				continue
			}
			kind, server := replyKind(m[14:])
			b := m[14+28:]
			xid := binary.BigEndian.Uint32(b[4:])
			i := int(xid >> 8)
			if i >= len(g.clients) || g.clients[i].xid != xid {
				continue
			}
			c := &g.clients[i]
			switch {
			case kind == offer && c.step == offer:
				copy(c.addr[:], b[16:20])
				c.server = server
				g.send(i, ask)
			case kind == ack && c.step == ack:
				c.step = 0
				done++
				busy--
				begin()
			case kind == nak && c.step != 0:
				g.naks++
				c.step = 0
				busy--
				begin()
			}
		}
		g.flush()
		if now.Sub(lastCheck) > g.patience/4 {
			lastCheck = now
			for i := range g.clients {
				if c := &g.clients[i]; c.step != 0 && now.Sub(c.changed) > g.patience {
					g.again++
					if c.step == offer {
						g.send(i, discover)
					} else {
						g.send(i, ask)
					}
				}
			}
			g.flush()
		}
	}
	for i := range g.clients {
		g.clients[i].step = 0
	}
	return done, (first + begun) % len(g.clients)
}

func replyKind(ip []byte) (kind byte, server [4]byte) {
	for o := ip[268:]; len(o) > 2 && o[0] != optEnd; {
		if o[0] == optPad {
			o = o[1:]
			continue
		}
		n := int(o[1])
		if len(o) < 2+n {
			break
		}
		switch {
		case o[0] == optKind && n == 1:
			kind = o[2]
		case o[0] == optServerID && n == 4:
			copy(server[:], o[2:])
		}
		o = o[2+n:]
	}
	return kind, server
}

func (g *generator) send(i int, kind byte) {
	c := &g.clients[i]
	c.changed = time.Now()
	c.step = offer
	var options []byte
	options = append(g.frames[g.queued][:0], optKind, 1, kind)
	if kind != discover {
		c.step = ack
		options = append(append(options, optRequested, 4), c.addr[:]...)
		options = append(append(options, optServerID, 4), c.server[:]...)
	}
	options = append(options, optParameters, 7, optMask, optRouter, optDNS, optHostname, optDomain, optBroadcast, optMTU, optEnd)
	var kept [64]byte
	n := copy(kept[:], options)
	mac := hardware(testMAC(i))
	f := append(g.frames[g.queued][:0], 255, 255, 255, 255, 255, 255)
	f = append(f, mac[:]...)
	f = append(f, 0x08, 0)
	f = appendMessage(f, clientMessage{xid: c.xid, mac: mac, broadcast: true, options: kept[:n]})
	g.frames[g.queued] = f
	g.tx.vectors[g.queued].Base = &f[0]
	g.tx.vectors[g.queued].SetLen(len(f))
	if g.queued++; g.queued == batchLength {
		g.flush()
	}
}

func (g *generator) flush() {
	for from := 0; from < g.queued; {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&g.tx.headers[from])), uintptr(g.queued-from), 0, 0, 0)
		if errno != 0 {
			break
		}
		from += int(n)
	}
	g.queued = 0
}

func (g *generator) receive() [][]byte {
	g.rx.reset()
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&g.rx.headers[0])), batchLength, unix.MSG_WAITFORONE, 0, 0)
	if errno != 0 {
		return nil
	}
	all := make([][]byte, n)
	for i := range all {
		all[i] = g.rx.data[i][:g.rx.headers[i].n]
	}
	return all
}
