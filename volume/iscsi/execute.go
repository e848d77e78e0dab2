package iscsi

import (
	"encoding/binary"
	"time"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/disk"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// execute does a task and answers it.
func (c *conn) execute(t *task) {
	if t.aborted.Load() {
		c.complete(t, nil)
		return
	}
	if t.failure != nil {
		c.answer(t, nil, t.failure)
		return
	}
	unit := c.export.unit
	switch {
	case disk.IsReportLUNs(t.cdb[:]):
		in, failure := disk.ReportLUNs(t.cdb[:], []uint64{uint64(c.export.LUN)})
		c.answer(t, in, failure)
	case t.absent:
		in, failure := disk.Absent(t.cdb[:], []uint64{uint64(c.export.LUN)})
		c.answer(t, in, failure)
	case t.plan.Kind == disk.ReadIn:
		c.readIn(t)
	case t.plan.Kind == disk.WriteIn:
		begun := time.Now()
		failure := unit.Write(c.nexus, t.cdb[:], t.plan, t.data[:min(len(t.data), t.want)])
		if !t.plan.Slow {
			c.export.pace.took(time.Since(begun), t.want)
		}
		c.answer(t, nil, failure)
	default:
		in, failure := unit.Perform(c.ctx, c.nexus, t.cdb[:], t.data)
		c.answer(t, in, failure)
	}
}

// readIn reads what a command asks for, each piece into the unit that it is sent in. The last one has the status.
func (c *conn) readIn(t *task) {
	total := int(t.plan.Length)
	if !t.read {
		total = 0
	}
	total = min(total, t.edtl)
	if total == 0 {
		c.answer(t, nil, nil)
		return
	}
	begun := time.Now()
	for at, sn := 0, uint32(0); at < total; sn++ {
		n := min(total-at, c.params.maxSend, maxReceive)
		burst := c.params.maxBurst - at%c.params.maxBurst // a sequence ends there
		n = min(n, burst)
		if c.out.await(n) {
			begun = time.Now()
		}
		if t.aborted.Load() {
			c.out.kept(n)
			c.complete(t, nil)
			return
		}
		b, r := c.newPDU(pdu.DataIn, n)
		if failure := c.export.unit.Read(c.dataOf(b), t.plan.Offset+int64(at)); failure != nil {
			c.server.pools.put(b)
			c.out.kept(n)
			c.answer(t, nil, failure)
			return
		}
		r.SetWord(pdu.AtTag, t.tag)
		r.SetWord(pdu.AtTransfer, pdu.NoTag)
		r.SetWord(pdu.AtDataSN, sn)
		r.SetWord(pdu.AtOffset, uint32(at))
		at += n
		if n == burst {
			r[1] = pdu.Final
		}
		if at < total {
			err := c.out.send(b, false)
			c.out.kept(n)
			if err != nil {
				c.complete(t, nil)
				return
			}
			if !t.tracked {
				c.out.flush()
			}
			continue
		}
		c.export.pace.took(time.Since(begun), n)
		r[1] = pdu.Final | pdu.Status
		t.residual(r, int(t.plan.Length))
		c.complete(t, b)
		c.out.kept(n)
	}
}

// residual says by how much what the command moves differs from what the initiator expects.
func (t *task) residual(r *pdu.Header, moved int) {
	switch {
	case moved > t.edtl:
		r[1] |= pdu.Overflow
		r.SetWord(pdu.AtResidual, uint32(moved-t.edtl))
	case moved < t.edtl:
		r[1] |= pdu.Underflow
		r.SetWord(pdu.AtResidual, uint32(t.edtl-moved))
	}
}

// answer sends the data of a command that is not a read, its status, or its failure.
func (c *conn) answer(t *task, in []byte, failure *disk.Failure) {
	if failure == nil && len(in) > 0 && t.read && t.edtl > 0 {
		n := min(len(in), t.edtl)
		for at, sn := 0, uint32(0); ; sn++ {
			m := min(n-at, c.params.maxSend)
			b, r := c.newPDU(pdu.DataIn, m)
			copy(c.dataOf(b), in[at:at+m])
			r.SetWord(pdu.AtTag, t.tag)
			r.SetWord(pdu.AtTransfer, pdu.NoTag)
			r.SetWord(pdu.AtDataSN, sn)
			r.SetWord(pdu.AtOffset, uint32(at))
			if at += m; at < n {
				if c.out.send(b, false) != nil {
					c.complete(t, nil)
					return
				}
				continue
			}
			r[1] = pdu.Final | pdu.Status
			t.residual(r, len(in))
			c.complete(t, b)
			return
		}
	}
	var sense []byte
	if failure != nil {
		if text := failure.Sense(c.export.unit.Descriptors()); text != nil {
			sense = append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)
		}
	}
	b, r := c.newPDU(pdu.SCSIResponse, len(sense))
	copy(c.dataOf(b), sense)
	r[1] = pdu.Final
	if failure != nil {
		r[3] = failure.Status
	}
	r.SetWord(pdu.AtTag, t.tag)
	moved := int(t.plan.Length)
	if t.plan.Kind == disk.Other && t.plan.Length == 0 {
		moved = len(in)
	}
	if failure != nil && t.plan.Kind != disk.WriteIn {
		moved = min(moved, t.edtl) // nothing that was there was left out
		if t.plan.Kind == disk.ReadIn || t.plan.Length == 0 {
			moved = 0
		}
	}
	t.residual(r, moved)
	c.complete(t, b)
}

// complete ends a task with its answer, which is not sent if the task was aborted.
func (c *conn) complete(t *task, b *buffer) {
	if !t.tracked {
		c.over(t)
		if b != nil {
			large := len(b.b) > 60<<10
			_ = c.out.send(b, true) // if it can't be sent the connection is over, and whoever reads it finds out
			if large {
				c.out.flush()
			}
		}
		c.release(t)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over(t)
	if b != nil {
		if t.aborted.Load() {
			c.server.pools.put(b)
		} else {
			_ = c.out.send(b, true)
		}
	}
	if c.tasks[t.tag] == t {
		delete(c.tasks, t.tag)
	}
	c.release(t)
	if t.ended != nil {
		close(t.ended)
	}
	if len(c.tasks) == 0 {
		c.idle.Broadcast()
	}
}

// release gives back the memory of a task's data.
func (c *conn) release(t *task) {
	if t.buf != nil {
		c.inBytes.Add(-int64(t.want))
		c.server.pools.put(t.buf)
		t.buf, t.data = nil, nil
	}
}
