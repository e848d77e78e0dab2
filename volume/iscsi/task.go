package iscsi

import (
	"sync/atomic"
	"time"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/disk"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// task is a command between its arrival and its answer.
type task struct {
	tag       uint32
	lun       uint64
	cdb       [16]byte
	edtl      int // how much data the initiator expects to move
	immediate bool
	read      bool // the data goes to the initiator
	absent    bool // there is no such unit
	plan      disk.Plan
	failure   *disk.Failure // known before its data has arrived

	buf    *buffer // of data on its way in
	data   []byte  // what is in it, or was read with the command
	want   int     // how much data the command takes
	got    int     // how much has arrived
	end    int     // where the sequence ends that is on its way
	ttt    uint32  // of the sequence; NoTag: it was not asked for
	dataSN uint32
	r2tSN  uint32

	// What follows is under the connection's lock.
	tracked bool // others can find it
	waiting bool // for data
	gone    bool // it was aborted while it waited, and is counted as ended
	ended   chan struct{}
	aborted atomic.Bool
}

// pace is how quickly a store answers, as far as it matters: whether it is quick enough that whoever reads a connection may wait
// for it.
type pace struct {
	strikes atomic.Int32
}

const (
	quick       = 50 * time.Microsecond
	slowFrom    = 8
	mostStrikes = 64
)

// slow tells whether the store was slow of late.
func (p *pace) slow() bool { return p.strikes.Load() >= slowFrom }

// took counts how long a transfer of n bytes took.
func (p *pace) took(d time.Duration, n int) {
	now := p.strikes.Load()
	switch {
	case d > quick+time.Duration(n/2):
		if now < mostStrikes {
			p.strikes.Store(now + 4)
		}
	case now > 0:
		p.strikes.Store(now - 1)
	}
}

// command takes a SCSI command.
func (c *conn) command(h *pdu.Header) error {
	additional, err := c.reader.Additional()
	if err != nil {
		return err
	}
	flags, length := h.Flags(), h.DataLen()
	write, final := flags&pdu.Write != 0, flags&pdu.Final != 0
	edtl := int(h.Word(pdu.AtTransfer))
	if length > 0 && (!write || !c.params.immediate || length > edtl || length > c.params.firstBurst) {
		return protocolError("immediate data that was not agreed on")
	}
	if !final && (!write || c.params.initialR2T) {
		return protocolError("unsolicited data that was not agreed on")
	}
	ok, err := c.inOrder(h)
	if err != nil {
		return err
	}
	if !ok || c.export == nil {
		head := *h
		if err := c.discard(); err != nil || !ok {
			return err
		}
		c.answered(head.Immediate())
		return c.reject(&head, rejectProtocol)
	}

	t := &task{tag: h.Tag(), lun: h.LUN(), edtl: edtl, immediate: h.Immediate(), read: flags&pdu.Read != 0, ttt: pdu.NoTag}
	copy(t.cdb[:], h[32:])
	if t.immediate && c.immediate.Add(1) > 16 {
		c.immediate.Add(-1)
		head := *h
		if err := c.discard(); err != nil {
			return err
		}
		return c.reject(&head, rejectImmediate)
	}
	n, ok := disk.DecodeLUN(t.lun)
	t.absent = !ok || n != uint64(c.export.LUN)
	switch {
	case write && t.read || additional.HasRead:
		t.failure = disk.UnexpectedData()
	case t.absent || disk.IsReportLUNs(t.cdb[:]):
	default:
		t.plan, t.failure = c.export.unit.Plan(c.nexus, t.cdb[:])
		if t.failure == nil {
			t.failure = t.mismatch(write)
		}
	}
	if t.plan.Kind == disk.ReadIn || !write {
		if t.plan.Kind != disk.ReadIn && t.plan.Length > 0 && t.failure == nil {
			t.want = 0 // it was not sent
		}
		if err := c.discard(); err != nil {
			return err
		}
		c.run(t)
		return nil
	}
	return c.begin(t, length, final)
}

type protocolError string

func (e protocolError) Error() string { return "protocol error: " + string(e) }

// mismatch tells whether the direction or the amount of data is nothing that the command can be done with.
func (t *task) mismatch(write bool) *disk.Failure {
	switch {
	case t.plan.Kind == disk.WriteIn && t.read && t.edtl > 0:
		return disk.WrongDirection()
	case write && disk.Mismatched(t.cdb[:], t.edtl):
		return disk.InvalidField()
	case t.plan.Kind == disk.WriteIn && int64(t.edtl) < t.plan.Length && t.edtl%disk.BlockSize != 0:
		return disk.WrongDirection()
	}
	return nil
}

// discard reads the data of the current unit and forgets it.
func (c *conn) discard() error {
	if c.reader.InBuffer() {
		_, err := c.reader.Data()
		return err
	}
	b := c.server.pools.get(c.reader.DataLen())
	defer c.server.pools.put(b)
	return c.reader.DataInto(b.b)
}

// begin takes a command whose data is on its way in, with what came along with it.
func (c *conn) begin(t *task, length int, final bool) error {
	t.want = min(int(t.plan.Length), t.edtl)
	if t.failure != nil || t.absent {
		t.want = 0
	}
	if final && length == t.want && length <= inPlace && t.failure == nil {
		// All is there, and nothing has to be kept if it is done at once.
		data, err := c.reader.Data()
		if err != nil {
			return err
		}
		t.data = data
		if c.atOnce(t) {
			c.execute(t)
			return nil
		}
		t.buf = c.server.pools.get(len(data))
		t.data = t.buf.b[:copy(t.buf.b, data)]
		c.inBytes.Add(int64(t.want))
		c.dispatch(t)
		return nil
	}
	if t.want > 0 {
		if c.inBytes.Add(int64(t.want)) > int64(c.server.cfg.SessionMemory/2) {
			c.inBytes.Add(-int64(t.want))
			t.failure, t.want = disk.Full(), 0
		} else {
			t.buf = c.server.pools.get(t.want)
			t.data = t.buf.b
		}
	}
	if err := c.receive(t, length); err != nil {
		return err
	}
	if !final {
		t.end = min(t.edtl, c.params.firstBurst)
	}
	return c.proceed(t, final)
}

// receive reads the data of the current unit to where it belongs.
func (c *conn) receive(t *task, n int) error {
	at := t.got
	t.got += n
	if at+n <= t.want {
		return c.reader.DataInto(t.data[at : at+n])
	}
	if at >= t.want { // more than the command takes
		return c.discard()
	}
	b := c.server.pools.get(n)
	defer c.server.pools.put(b)
	if err := c.reader.DataInto(b.b); err != nil {
		return err
	}
	copy(t.data[at:], b.b)
	return nil
}

// proceed does what comes next for a command whose data arrives: waits for more, asks for more, or does it.
func (c *conn) proceed(t *task, final bool) error {
	switch {
	case !final:
		c.track(t)
		return nil
	case t.failure != nil || t.got >= t.want:
		if c.untrack(t) {
			c.run(t)
		}
		return nil
	}
	if !c.track(t) {
		return nil
	}
	n := min(t.want-t.got, c.params.maxBurst)
	c.nextR2T = (c.nextR2T + 1) & 0x7fffffff
	t.ttt, t.dataSN, t.end = c.nextR2T, 0, t.got+n
	b, r := c.newPDU(pdu.R2T, 0)
	r[1] = pdu.Final
	r.SetLUN(t.lun)
	r.SetWord(pdu.AtTag, t.tag)
	r.SetWord(pdu.AtTransfer, t.ttt)
	r.SetWord(pdu.AtDataSN, t.r2tSN)
	r.SetWord(pdu.AtOffset, uint32(t.got))
	r.SetWord(pdu.AtResidual, uint32(n))
	t.r2tSN++
	return c.out.send(b, false)
}

// dataOut takes data that belongs to a command.
func (c *conn) dataOut(h *pdu.Header) error {
	c.mu.Lock()
	t := c.tasks[h.Tag()]
	if t != nil && !t.waiting {
		t = nil
	}
	c.mu.Unlock()
	if t == nil { // of a command that was aborted, or has failed
		return c.discard()
	}
	n, final := h.DataLen(), h.Flags()&pdu.Final != 0
	right := t.failure == nil && h.Word(pdu.AtTransfer) == t.ttt && h.Word(pdu.AtDataSN) == t.dataSN &&
		int64(h.Word(pdu.AtOffset)) == int64(t.got) && t.got+n <= t.end
	if right && final && t.ttt != pdu.NoTag && t.got+n < t.end {
		right = false
	}
	if !right {
		if t.failure == nil {
			t.failure = disk.WrongAmount()
		}
		if err := c.discard(); err != nil {
			return err
		}
		return c.proceed(t, final)
	}
	t.dataSN++
	if err := c.receive(t, n); err != nil {
		return err
	}
	return c.proceed(t, final)
}

// track makes a task that waits for data one that others can find, unless it has been aborted.
func (c *conn) track(t *task) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.gone {
		return false
	}
	if !t.tracked {
		t.tracked, t.waiting = true, true
		c.tasks[t.tag] = t
	}
	return true
}

// untrack has a task no longer wait for data, unless it has been aborted.
func (c *conn) untrack(t *task) bool {
	if !t.tracked {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.waiting = false
	return !t.gone
}

// run does a task, at once or by a worker.
func (c *conn) run(t *task) {
	if c.atOnce(t) {
		c.execute(t)
		return
	}
	c.dispatch(t)
}

// atOnce tells whether a task is quick enough to be done by the one who reads the connection.
func (c *conn) atOnce(t *task) bool {
	if t.failure != nil || t.absent {
		return true
	}
	return !t.plan.Slow && !c.export.pace.slow() && (t.plan.Kind == disk.ReadIn || !c.export.unit.Held())
}

// dispatch leaves a task to the workers.
func (c *conn) dispatch(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.tracked {
		t.tracked = true
		c.tasks[t.tag] = t
	}
	c.queue = append(c.queue, t)
	if c.running < c.server.cfg.Workers {
		c.running++
		c.workers.Go(c.work)
	}
}

// work does what is queued until nothing is.
func (c *conn) work() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.running--
			c.mu.Unlock()
			return
		}
		t := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.mu.Unlock()
		c.execute(t)
		c.out.flush()
	}
}

// abort has all tasks that match end without an answer, and returns what to wait for until that is so.
func (c *conn) abort(match func(*task) bool) (ended []<-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tag, t := range c.tasks {
		if !match(t) {
			continue
		}
		t.aborted.Store(true)
		if t.waiting {
			// Its data may be on its way into the buffer just now, so that is not given back.
			t.waiting, t.gone = false, true
			delete(c.tasks, tag)
			c.inBytes.Add(-int64(t.want))
			c.over(t)
			continue
		}
		if t.ended == nil {
			t.ended = make(chan struct{})
		}
		ended = append(ended, t.ended)
	}
	c.idle.Broadcast()
	return ended
}

// over counts a task as ended.
func (c *conn) over(t *task) {
	c.answered(t.immediate)
	if t.immediate {
		c.immediate.Add(-1)
	}
}

// drain has what waits for data end, and waits for the rest.
func (c *conn) drain() {
	c.abort(func(t *task) bool { return t.waiting })
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.tasks) > 0 {
		c.idle.Wait()
	}
}

// dropTasks forgets what still waited for data.
func (c *conn) dropTasks() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tasks)
	c.idle.Broadcast()
}
