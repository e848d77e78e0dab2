package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netns"
)

const (
	batchLength = 64   // packets in one read
	packetSpace = 2048 // for one; what is longer is cut off, and refused
	socketSpace = 4 << 20
)

// socket receives and sends the IP packets of DHCP on one bridge. It sees them as the bridge does, before and whatever the
// node's own packet filter and addresses are, and with the hardware address that they came from. The kernel writes the
// bridge's own hardware address into what is sent, as that may change.
type socket struct {
	conn  *packet.Conn
	raw   syscall.RawConn
	index int32
	holds int // a socket that holds the port, so that the node does not say that nobody listens; -1: none
	once  sync.Once

	rx, tx messages // tx is the reader's
	mu     sync.Mutex
	later  messages // of those who send by themselves; by mu

	got  int
	fail error
	recv func(fd uintptr) bool
}

// filter lets through what may be DHCP for a server: whole, without a VLAN's tag, and not what the bridge carries for others.
func filter() ([]bpf.RawInstruction, error) {
	const drop = 255
	return assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: drop},
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: drop}, // of others, or our own
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: drop},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: drop}, // a fragment
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: serverPort, SkipTrue: drop},
		bpf.RetConstant{Val: packetSpace},
		bpf.RetConstant{Val: 0},
	}, drop)
}

// assemble makes jumps by drop lead to the last instruction.
func assemble(program []bpf.Instruction, drop uint8) ([]bpf.RawInstruction, error) {
	for i, in := range program {
		if j, ok := in.(bpf.JumpIf); ok && j.SkipTrue == drop {
			j.SkipTrue = uint8(len(program) - 2 - i)
			program[i] = j
		}
	}
	return bpf.Assemble(program)
}

// open makes a socket on the bridge, which is ENODEV while it does not exist.
func (s *Server) open(name string) (sock *socket, err error) {
	err = netns.Do(s.cfg.NetNS, func() error {
		sock, err = open(name)
		return err
	})
	if err == nil && sock.holds < 0 {
		s.cfg.Logger.Warn("dhcp: another program has the port of DHCP servers", "bridge", name)
	}
	return sock, err
}

func open(name string) (*socket, error) {
	holds, index, up, err := holdPort(name)
	if err != nil {
		return nil, err
	}
	free := func() {
		if holds >= 0 {
			_ = unix.Close(holds)
		}
	}
	if !up {
		free()
		return nil, fmt.Errorf("bridge %s is down: %w", name, unix.ENETDOWN)
	}
	program, err := filter()
	if err != nil {
		free()
		return nil, err
	}
	conn, err := packet.Listen(&net.Interface{Index: index, Name: name}, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: program})
	if err != nil {
		free()
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		free()
		_ = conn.Close()
		return nil, err
	}
	s := &socket{conn: conn, raw: raw, index: int32(index), holds: holds}
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketSpace) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, socketSpace)
		}
	})
	s.rx.init(s.index)
	s.tx.init(s.index)
	s.later.init(s.index)
	s.rx.space()
	s.recv = s.receive
	return s, nil
}

// holdPort binds the port of servers on the bridge with a socket that takes nothing in. It is -1 if another program has it.
func holdPort(name string) (fd, index int, up bool, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, 0, false, os.NewSyscallError("socket", err)
	}
	fail := func(what string, err error) (int, int, bool, error) {
		_ = unix.Close(fd)
		return -1, 0, false, os.NewSyscallError(what, err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fail("name", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return fail("ioctl", err)
	}
	index = int(req.Uint32())
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return fail("ioctl", err)
	}
	up = req.Uint16()&unix.IFF_UP != 0
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]}); err != nil {
		return fail("setsockopt", err)
	}
	if err := unix.BindToDevice(fd, name); err != nil {
		return fail("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: serverPort}); err != nil {
		_ = unix.Close(fd)
		return -1, index, up, nil
	}
	return fd, index, up, nil
}

func (s *socket) close() {
	s.once.Do(func() {
		_ = s.conn.Close()
		if s.holds >= 0 {
			_ = unix.Close(s.holds)
		}
	})
}

// read waits for packets and returns how many there are.
func (s *socket) read() (int, error) {
	if err := s.raw.Read(s.recv); err != nil {
		return 0, err
	}
	return s.got, s.fail
}

func (s *socket) receive(fd uintptr) bool {
	s.rx.reset()
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&s.rx.headers[0])), batchLength, unix.MSG_DONTWAIT, 0, 0)
	s.got, s.fail = int(n), nil
	switch errno {
	case 0:
	case unix.EAGAIN:
		return false
	case unix.EINTR:
		s.got = 0
	default:
		s.got, s.fail = 0, os.NewSyscallError("recvmmsg", errno)
	}
	return true
}

// packet returns a packet of the last read.
func (s *socket) packet(i int) (from hardware, packet []byte) {
	return hardware(s.rx.addrs[i].Addr[:]), s.rx.data[i][:min(int(s.rx.headers[i].n), packetSpace)]
}

// sendNow is send for the goroutine that reads.
func (s *socket) sendNow(all []*answer) int { return s.sendBy(&s.tx, all) }

// send sends the answers that have a frame and returns how many the kernel took. It never waits: a client asks again.
func (s *socket) send(all []*answer) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendBy(&s.later, all)
}

func (s *socket) sendBy(m *messages, all []*answer) (sent int) {
	for len(all) > 0 {
		n := 0
		for n < batchLength && len(all) > 0 {
			if a := all[0]; a.length > 0 {
				m.set(n, a)
				n++
			}
			all = all[1:]
		}
		for from := 0; from < n; {
			var took uintptr
			var errno unix.Errno
			if s.raw.Control(func(fd uintptr) {
				took, _, errno = unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&m.headers[from])), uintptr(n-from), unix.MSG_DONTWAIT, 0, 0)
			}) != nil {
				return sent // closed
			}
			switch errno {
			case 0:
				from += int(took)
				sent += int(took)
			case unix.EINTR:
			default:
				from++ // this one is lost
			}
		}
	}
	runtime.KeepAlive(all)
	return sent
}

// messages are the arguments of recvmmsg and sendmmsg, which point at each other.
type messages struct {
	headers [batchLength]header
	vectors [batchLength]unix.Iovec
	addrs   [batchLength]unix.RawSockaddrLinklayer
	data    [][]byte
}

// header is the kernel's struct mmsghdr.
type header struct {
	unix.Msghdr
	n uint32
}

func (m *messages) init(index int32) {
	protocol := binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff}) // in the network's order
	for i := range m.headers {
		m.addrs[i] = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Protocol: protocol, Ifindex: index, Halen: 6}
		m.headers[i].Name = (*byte)(unsafe.Pointer(&m.addrs[i]))
		m.headers[i].Namelen = unix.SizeofSockaddrLinklayer
		m.headers[i].Iov = &m.vectors[i]
		m.headers[i].SetIovlen(1)
	}
}

func (m *messages) space() {
	all := make([]byte, batchLength*packetSpace)
	m.data = make([][]byte, batchLength)
	for i := range m.data {
		m.data[i] = all[i*packetSpace:][:packetSpace]
		m.vectors[i].Base = &m.data[i][0]
		m.vectors[i].SetLen(packetSpace)
	}
}

// reset makes place for addresses as long as there can be, which the kernel shortens.
func (m *messages) reset() {
	for i := range m.headers {
		m.headers[i].Namelen = unix.SizeofSockaddrLinklayer
	}
}

func (m *messages) set(i int, a *answer) {
	copy(m.addrs[i].Addr[:], a.dst[:])
	m.vectors[i].Base = &a.packet[0]
	m.vectors[i].SetLen(a.length)
}
