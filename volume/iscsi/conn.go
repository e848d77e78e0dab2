package iscsi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/disk"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// The buffer that a connection reads through, before login and after.
const (
	loginBuffer   = 16 << 10
	sessionBuffer = 72 << 10
	inPlace       = 32 << 10 // data up to here is used where it was read
)

// conn is a connection, and once it has logged in a session. One goroutine reads it and does what is quick; workers do what may take
// long; another goroutine writes what the connection does not take at once.
type conn struct {
	server *Server
	nc     net.Conn
	reader *pdu.Reader
	out    *output
	done   chan struct{} // all that it had begun has ended
	ctx    context.Context
	cancel context.CancelFunc // ends commands that look at it

	initiator string
	isid      uint64
	tsih      uint16
	cid       uint16
	since     time.Time
	log       *slog.Logger
	export    *exported // nil: discovery
	nexus     *disk.Nexus
	login     *login
	params    params

	expCmdSN  atomic.Uint32
	maxCmdSN  atomic.Uint32
	pingTag   uint32
	busy      atomic.Bool   // the reader does something else than wait for the initiator
	heard     atomic.Uint32 // counts what was heard of the initiator
	text      []byte        // of text requests that are continued
	strayed   bool          // it has asked for a target that is not for it, and the log says so
	textOut   []byte        // of a text response that is continued
	nextR2T   uint32
	inBytes   atomic.Int64 // of data on its way in
	immediate atomic.Int32 // immediate commands that were begun

	killed sync.Once
	why    atomic.Pointer[string]

	mu      sync.Mutex
	tasks   map[uint32]*task // that were begun and have not ended, unless the reader does them at once
	queue   []*task          // for workers
	running int              // workers
	idle    *sync.Cond       // there are fewer tasks
	workers sync.WaitGroup
}

// kill ends a connection now. What it had begun ends soon after; then done is closed.
func (c *conn) kill(why string) {
	c.killed.Do(func() {
		c.why.Store(&why)
		c.cancel()
		c.nc.Close()
		c.out.stop()
		c.abort(func(*task) bool { return true })
	})
}

// handle is the life of a connection.
func (s *Server) handle(ctx context.Context, nc net.Conn) {
	c := &conn{server: s, nc: nc, done: make(chan struct{}), tasks: map[uint32]*task{}}
	c.idle = sync.NewCond(&c.mu)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.out = newOutput(c)
	c.reader = pdu.NewReader(nc, loginBuffer)
	c.reader.MaxData = mostTextBytes
	c.log = s.cfg.Log.With("initiator_address", nc.RemoteAddr().String())
	defer close(c.done)
	defer c.cancel()
	defer nc.Close()

	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	nc.SetDeadline(time.Now().Add(s.cfg.LoginTimeout))
	if ctx.Err() != nil {
		nc.SetDeadline(time.Unix(1, 0))
	}
	err := c.logIn()
	stop()
	s.leave()
	if err != nil {
		c.log.Warn("iscsi: login refused", "initiator", c.login.initiator, "target", c.login.target, "reason", err.Error())
		return
	}
	defer s.retire(c)
	nc.SetDeadline(time.Time{})
	c.log = c.log.With("initiator", c.initiator, "target", c.login.target, "tsih", c.tsih)
	c.log.Info("iscsi: session begun")

	if c.export != nil {
		c.nexus = c.export.unit.Attach(fmt.Sprintf("%s,i,0x%012x", c.initiator, c.isid), func() {
			c.abort(func(*task) bool { return true })
		})
		defer c.export.unit.Detach(c.nexus)
	}
	c.reader.Grow(sessionBuffer)
	c.reader.MaxData = maxReceive
	c.reader.HeaderDigests, c.reader.DataDigests = c.params.headerDigest, c.params.dataDigest
	c.reader.BeforeRead, c.reader.AfterRead = c.beforeRead, c.afterRead
	var writer sync.WaitGroup
	writer.Go(c.out.run)
	over := make(chan struct{})
	drain := context.AfterFunc(ctx, func() {
		defer close(over)
		nc.SetReadDeadline(time.Unix(1, 0))
		select {
		case <-c.ctx.Done():
		case <-time.After(s.cfg.DrainTimeout):
			c.kill("the server stops")
		}
	})
	err = c.serve()
	if ctx.Err() != nil || errors.Is(err, errLogout) {
		// What was begun is ended and answered.
		last := time.AfterFunc(s.cfg.DrainTimeout, func() { c.kill("its commands do not end") })
		c.drain()
		c.out.close()
		writer.Wait()
		last.Stop()
	}
	c.kill(reason(err))
	if !drain() {
		<-over
	}
	c.workers.Wait()
	writer.Wait()
	c.dropTasks()
	c.log.Info("iscsi: session ended", "reason", *c.why.Load())
}

var errLogout = errors.New("the initiator has logged out")

func reason(err error) string {
	if err == nil || errors.Is(err, io.EOF) {
		return "the initiator has closed the connection"
	}
	return err.Error()
}

// logIn reads requests until the login has ended, one way or the other.
func (c *conn) logIn() error {
	l := newLogin(c.server)
	c.login = l
	var statSN uint32
	for first := true; ; first = false {
		h, err := c.reader.Header()
		if err != nil {
			return err
		}
		if h.Opcode() != pdu.LoginRequest {
			return fmt.Errorf("opcode %#x before login", h.Opcode())
		}
		if first {
			c.expCmdSN.Store(h.Word(pdu.AtCmdSN))
			statSN = h.Word(pdu.AtExpStatSN)
			c.cid = h.Half(20)
		}
		head := *h
		data, err := c.reader.Data()
		if err != nil {
			return err
		}
		reply := l.step(&head, data)
		if reply.done {
			c.initiator, c.isid, c.export, c.params = l.initiator, l.isid, l.export, l.params
			ctx, cancel := context.WithTimeout(c.ctx, c.server.cfg.LoginTimeout)
			if status := c.server.admit(ctx, c); status != statusSuccess {
				reply = l.refuse(status, fmt.Sprintf("status %#04x", status))
			}
			cancel()
		}
		var r pdu.Header
		r[0], r[1] = pdu.LoginResponse, reply.flags
		copy(r[8:14], head[8:14])
		if reply.done {
			r.SetHalf(14, c.tsih)
		}
		r.SetWord(pdu.AtTag, head.Tag())
		r.SetWord(pdu.AtStatSN, statSN)
		r.SetWord(pdu.AtExpCmdSN, c.expCmdSN.Load())
		r.SetWord(pdu.AtMaxCmdSN, c.expCmdSN.Load()+window-1)
		r.SetHalf(36, reply.status)
		text := pdu.AppendText(nil, reply.pairs...)
		r.SetDataLen(len(text))
		text = append(text, make([]byte, pdu.Pad(len(text)))...)
		if _, err := c.nc.Write(append(r[:], text...)); err != nil {
			if reply.done {
				c.server.retire(c)
			}
			return err
		}
		statSN++
		if reply.status != statusSuccess {
			return errors.New(l.reason)
		}
		if reply.done {
			c.maxCmdSN.Store(c.expCmdSN.Load() + window - 1)
			c.out.statSN = statSN
			return nil
		}
	}
}

func (c *conn) beforeRead() {
	c.out.flush()
	c.busy.Store(false)
}

func (c *conn) afterRead() {
	c.busy.Store(true)
	c.heard.Add(1)
}

// serve takes what the initiator sends until it ends.
func (c *conn) serve() error {
	for {
		h, err := c.reader.Header()
		if err != nil {
			return err
		}
		switch op := h.Opcode(); op {
		case pdu.SCSICommand:
			err = c.command(h)
		case pdu.DataOut:
			err = c.dataOut(h)
		default:
			head := *h
			if h.DataLen() > longestText {
				return fmt.Errorf("%d bytes of data with opcode %#x", h.DataLen(), op)
			}
			var data []byte
			if data, err = c.reader.Data(); err != nil {
				return err
			}
			switch op {
			case pdu.NOPOut:
				err = c.nopOut(&head, data)
			case pdu.TextRequest:
				err = c.textRequest(&head, data)
			case pdu.TaskRequest:
				err = c.taskRequest(&head)
			case pdu.Logout:
				err = c.logout(&head)
			case pdu.SNACK:
				err = c.reject(&head, rejectSNACK)
			default:
				err = c.reject(&head, rejectUnsupported)
			}
		}
		if err != nil {
			return err
		}
	}
}

// Reasons of a Reject, RFC 7143 section 11.17.1.
const (
	rejectSNACK       = 0x03
	rejectProtocol    = 0x04
	rejectUnsupported = 0x05
	rejectImmediate   = 0x06
	rejectInvalid     = 0x09
)

// reject returns a header with what is wrong with it.
func (c *conn) reject(h *pdu.Header, why byte) error {
	b, r := c.newPDU(pdu.Reject, pdu.HeaderSize)
	r[1], r[2] = pdu.Final, why
	r.SetWord(pdu.AtTag, pdu.NoTag)
	copy(c.dataOf(b), h[:])
	return c.out.send(b, true)
}

// inOrder takes the number of a command. One outside the window is to be ignored, RFC 7143 section 4.2.2.1.
func (c *conn) inOrder(h *pdu.Header) (ok bool, err error) {
	n, want := h.Word(pdu.AtCmdSN), c.expCmdSN.Load()
	if h.Immediate() {
		return true, nil
	}
	switch {
	case n == want:
		if int32(n-c.maxCmdSN.Load()) > 0 {
			return false, nil
		}
		c.expCmdSN.Store(n + 1)
		return true, nil
	case int32(n-want) < 0 || int32(n-c.maxCmdSN.Load()) > 0:
		return false, nil
	}
	// One that was skipped can't come any more: there is no other connection that it could come by.
	return false, fmt.Errorf("command %d where %d was due", n, want)
}

// answered gives the initiator room for another command.
func (c *conn) answered(immediate bool) {
	if !immediate {
		c.maxCmdSN.Add(1)
	}
}

func (c *conn) nopOut(h *pdu.Header, data []byte) error {
	ok, err := c.inOrder(h)
	if !ok {
		return err
	}
	c.answered(h.Immediate())
	if h.Tag() == pdu.NoTag { // the answer to ours, or just a sign of life
		return nil
	}
	data = data[:min(len(data), c.params.maxSend)]
	b, r := c.newPDU(pdu.NOPIn, len(data))
	r[1] = pdu.Final
	r.SetLUN(h.LUN())
	r.SetWord(pdu.AtTag, h.Tag())
	r.SetWord(pdu.AtTransfer, pdu.NoTag)
	copy(c.dataOf(b), data)
	return c.out.send(b, true)
}

// ping asks the initiator whether it is there.
func (c *conn) ping() {
	c.pingTag++
	b, r := c.newPDU(pdu.NOPIn, 0)
	r[1] = pdu.Final
	r.SetWord(pdu.AtTag, pdu.NoTag)
	r.SetWord(pdu.AtTransfer, c.pingTag&0x7fffffff)
	_ = c.out.send(b, false) // the session ends by itself if it can't be sent
	c.out.flush()
}

func (c *conn) textRequest(h *pdu.Header, data []byte) error {
	ok, err := c.inOrder(h)
	if !ok {
		return err
	}
	c.answered(h.Immediate())
	if h.Word(pdu.AtTransfer) == pdu.NoTag { // a new exchange
		c.textOut = nil
		if len(c.text)+len(data) > longestText {
			return errors.New("too much text")
		}
		c.text = append(c.text, data...)
		if h.Flags()&pdu.Continue != 0 {
			return c.textResponse(h, false)
		}
		pairs, err := pdu.ParseText(c.text)
		c.text = nil
		if err != nil {
			return c.reject(h, rejectInvalid)
		}
		c.textOut = c.answerText(pairs)
	}
	return c.textResponse(h, true)
}

// answerText answers the keys of a text request.
func (c *conn) answerText(pairs []pdu.Pair) []byte {
	var answers []pdu.Pair
	for _, pair := range pairs {
		if pair.Key != "SendTargets" {
			continue
		}
		var iqns []string
		switch {
		case c.export == nil && pair.Value == "All":
			iqns = c.login.targets()
		case c.export == nil:
			if slices.Contains(c.login.targets(), strings.ToLower(pair.Value)) {
				iqns = []string{strings.ToLower(pair.Value)}
			}
		case pair.Value == "" || strings.EqualFold(pair.Value, c.export.IQN):
			iqns = []string{c.export.IQN}
		}
		if len(iqns) == 0 && !c.strayed {
			c.strayed = true
			c.log.Warn("iscsi: discovery refused", "asked", pair.Value, "reason", "no such target for this initiator")
		}
		slices.Sort(iqns)
		portal := c.server.cfg.Portal
		if portal == "" {
			portal = c.nc.LocalAddr().String()
		}
		for _, iqn := range iqns {
			answers = append(answers, pdu.Pair{Key: "TargetName", Value: iqn}, pdu.Pair{Key: "TargetAddress", Value: portal + ",1"})
		}
	}
	return pdu.AppendText(nil, append(answers, c.params.operational(pairs)...)...)
}

// textResponse sends what there is, or as much as the initiator takes at once.
func (c *conn) textResponse(h *pdu.Header, last bool) error {
	n := min(len(c.textOut), c.params.maxSend)
	b, r := c.newPDU(pdu.TextResponse, n)
	r.SetLUN(h.LUN())
	r.SetWord(pdu.AtTag, h.Tag())
	copy(c.dataOf(b), c.textOut[:n])
	c.textOut = c.textOut[n:]
	switch {
	case !last:
		r.SetWord(pdu.AtTransfer, pdu.NoTag)
	case len(c.textOut) > 0:
		r[1] = pdu.Continue
		r.SetWord(pdu.AtTransfer, 1)
	default:
		r[1] = pdu.Final
		r.SetWord(pdu.AtTransfer, pdu.NoTag)
	}
	return c.out.send(b, true)
}

func (c *conn) logout(h *pdu.Header) error {
	ok, err := c.inOrder(h)
	if !ok {
		return err
	}
	c.answered(h.Immediate())
	b, r := c.newPDU(pdu.LogoutReply, 0)
	r[1] = pdu.Final
	r.SetWord(pdu.AtTag, h.Tag())
	switch why := h.Flags() & 0x7f; {
	case why == 1 && h.Half(20) != c.cid:
		r[2] = 1 // there is no such connection
		return c.out.send(b, true)
	case why > 1:
		r[2] = 2 // connections are not recovered
		return c.out.send(b, true)
	}
	c.drain()
	if err := c.out.send(b, true); err != nil {
		return err
	}
	return errLogout
}

// newPDU makes a unit for n bytes of data.
func (c *conn) newPDU(op byte, n int) (*buffer, *pdu.Header) {
	size := pdu.HeaderSize + n + pdu.Pad(n)
	if c.params.headerDigest {
		size += 4
	}
	if c.params.dataDigest && n > 0 {
		size += 4
	}
	b := c.server.pools.get(size)
	h := (*pdu.Header)(b.b)
	*h = pdu.Header{op}
	h.SetDataLen(n)
	return b, h
}

// dataOf is the part of a unit that its data goes to.
func (c *conn) dataOf(b *buffer) []byte {
	at := pdu.HeaderSize
	if c.params.headerDigest {
		at += 4
	}
	return b.b[at : at+(*pdu.Header)(b.b).DataLen()]
}

// seal pads the data of a unit and computes its digest; the header has its own when it is sent.
func (c *conn) seal(b *buffer) {
	n := (*pdu.Header)(b.b).DataLen()
	if n == 0 {
		return
	}
	end := pdu.HeaderSize + n + pdu.Pad(n)
	at := pdu.HeaderSize
	if c.params.headerDigest {
		end, at = end+4, at+4
	}
	clear(b.b[end-pdu.Pad(n) : end])
	if c.params.dataDigest {
		pdu.PutDigest(b.b[end:], pdu.Digest(b.b[at:end]))
	}
}
