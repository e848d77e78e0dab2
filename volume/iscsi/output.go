package iscsi

import (
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// output is what a connection has to send. Whoever has something sends it at once, all that is there with one call, as much as the
// connection takes; what it does not take is left to a goroutine that waits. So nobody who reads waits for an initiator that
// writes.
type output struct {
	c      *conn
	raw    syscall.RawConn // nil: all is left to the goroutine
	limit  int
	wake   chan struct{} // to the goroutine
	parted [][]byte      // for the call

	mu       sync.Mutex
	room     *sync.Cond
	queue    []*buffer
	spare    []*buffer
	bytes    int // queued
	promised int // that will be
	statSN   uint32
	sending  bool // somebody sends
	handed   bool // it is the goroutine, or will be
	stopped  bool // nothing is sent any more
	closing  bool // what is there is sent, and then nothing more
	left     []*buffer
	skip     int // how much of the first that is left was sent
}

func newOutput(c *conn) *output {
	o := &output{c: c, limit: c.server.cfg.SessionMemory / 2, wake: make(chan struct{}, 1)}
	o.room = sync.NewCond(&o.mu)
	if tcp, ok := c.nc.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil && canWriteSome {
			o.raw = raw
		}
	}
	return o
}

// await returns when there is room for n bytes more, or the connection has ended, and tells whether that took a while. The room is the
// caller's until it calls kept.
func (o *output) await(n int) (waited bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		full := func() bool { return o.bytes+o.promised > 0 && o.bytes+o.promised+n > o.limit && !o.stopped }
		if !full() {
			o.promised += n
			return waited
		}
		waited = true
		o.mu.Unlock()
		o.flush()
		o.mu.Lock()
		if full() {
			o.room.Wait()
		}
	}
}

// kept gives the room for n bytes back: they have been sent, or will not be.
func (o *output) kept(n int) {
	o.mu.Lock()
	o.promised -= n
	o.mu.Unlock()
	o.room.Broadcast()
}

// send queues a unit, which is no longer the caller's. One with a status has a number of its own.
func (o *output) send(b *buffer, status bool) error {
	o.c.seal(b)
	h := (*pdu.Header)(b.b)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		o.c.server.pools.put(b)
		return net.ErrClosed
	}
	if h.Opcode() != pdu.DataIn || status {
		h.SetWord(pdu.AtStatSN, o.statSN)
	}
	if status {
		o.statSN++
	}
	h.SetWord(pdu.AtExpCmdSN, o.c.expCmdSN.Load())
	h.SetWord(pdu.AtMaxCmdSN, o.c.maxCmdSN.Load())
	if o.c.params.headerDigest {
		pdu.PutDigest(b.b[pdu.HeaderSize:], pdu.Digest(h[:]))
	}
	o.queue = append(o.queue, b)
	o.bytes += len(b.b)
	return nil
}

// flush sends what is queued, unless somebody does already.
func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sending || o.stopped || len(o.queue) == 0 {
		return
	}
	o.sending = true
	if o.raw == nil {
		o.hand()
		return
	}
	for len(o.queue) > 0 && !o.stopped {
		o.take()
		o.mu.Unlock()
		ok := o.some()
		o.mu.Lock()
		if !ok {
			o.hand()
			return
		}
	}
	o.sending = false
	if o.closing {
		o.hand()
	}
}

// hand leaves the rest to the goroutine. The lock is held.
func (o *output) hand() {
	o.handed = true
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take moves what is queued to what is being sent. The lock is held.
func (o *output) take() {
	o.left, o.queue = o.queue, o.spare[:0]
	o.spare, o.skip = o.left, 0
}

// parts is what is left as one call wants it.
func (o *output) parts() [][]byte {
	o.parted = o.parted[:0]
	for i, b := range o.left {
		if i == 0 {
			o.parted = append(o.parted, b.b[o.skip:])
		} else {
			o.parted = append(o.parted, b.b)
		}
		if len(o.parted) == 256 {
			break
		}
	}
	return o.parted
}

// sent counts what was sent and gives its buffers back.
func (o *output) sent(n int) {
	total := n
	for n > 0 {
		rest := len(o.left[0].b) - o.skip
		if n < rest {
			o.skip += n
			break
		}
		n -= rest
		o.c.server.pools.put(o.left[0])
		o.left, o.skip = o.left[1:], 0
	}
	o.mu.Lock()
	o.bytes -= total
	o.mu.Unlock()
	o.room.Broadcast()
}

// some sends what the connection takes without waiting, and tells whether that was all.
func (o *output) some() bool {
	for len(o.left) > 0 {
		n, err := writeSome(o.raw, o.parts())
		if n > 0 {
			o.sent(n)
		}
		if err != nil || n <= 0 { // the goroutine finds out what it is
			return false
		}
	}
	return true
}

// all sends everything, however long it takes.
func (o *output) all() error {
	for len(o.left) > 0 {
		o.c.nc.SetWriteDeadline(time.Now().Add(2 * o.c.server.cfg.PingInterval))
		parts := net.Buffers(o.parts())
		n, err := parts.WriteTo(o.c.nc)
		o.sent(int(n))
		if err != nil && n == 0 {
			return err
		}
	}
	return nil
}

// run is the goroutine: it sends what was left to it, and looks whether the initiator is there.
func (o *output) run() {
	tick := time.NewTicker(o.c.server.cfg.PingInterval)
	defer tick.Stop()
	heard, silent := uint32(0), 0
	for {
		select {
		case <-o.wake:
		case <-tick.C:
			if now := o.c.heard.Load(); now != heard || o.c.busy.Load() {
				heard, silent = now, 0
				continue
			}
			if silent++; silent > 1 {
				o.c.kill("the initiator does not answer")
			} else {
				o.c.ping()
			}
			continue
		}
		o.mu.Lock()
		for o.handed && !o.stopped {
			if len(o.left) == 0 {
				if len(o.queue) == 0 {
					o.handed, o.sending = false, false
					break
				}
				o.take()
			}
			o.mu.Unlock()
			err := o.all()
			o.mu.Lock()
			if err != nil {
				o.mu.Unlock()
				o.c.kill("sending failed: " + err.Error())
				o.mu.Lock()
			}
		}
		over := o.stopped || o.closing && !o.sending && len(o.queue) == 0
		o.mu.Unlock()
		if over {
			return
		}
	}
}

// close has all that is queued sent, and then the goroutine end.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closing = true
	if !o.sending {
		o.sending = true
		o.hand()
		return
	}
	if o.handed {
		o.hand()
	}
}

// stop has nothing more sent.
func (o *output) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	o.room.Broadcast()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}
