package iscsi

import (
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/disk"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// Functions of a task management request, and responses to it, RFC 7143 sections 11.5.1 and 11.6.1.
const (
	abortTask    = 1
	abortTaskSet = 2
	clearTaskSet = 4
	resetUnit    = 5
	resetWarm    = 6
	reassign     = 8

	taskDone        = 0
	taskUnknown     = 1
	taskNoUnit      = 2
	taskNoReassign  = 4
	taskUnsupported = 5
	taskRejected    = 255
)

// taskRequest does task management. It is answered when what it ends has ended.
func (c *conn) taskRequest(h *pdu.Header) error {
	ok, err := c.inOrder(h)
	if !ok {
		return err
	}
	c.answered(h.Immediate())
	if c.export == nil {
		return c.reject(h, rejectProtocol)
	}
	var ended []<-chan struct{}
	var after func()
	response := byte(taskDone)
	unit := c.export.unit
	function := h.Flags() & 0x7f
	n, ok := disk.DecodeLUN(h.LUN())
	switch {
	case function == reassign:
		response = taskNoReassign
	case function != resetWarm && (!ok || n != uint64(c.export.LUN)):
		response = taskNoUnit
	case function == abortTask:
		tag, found := h.Word(20), false
		ended = c.abort(func(t *task) bool {
			found = found || t.tag == tag
			return t.tag == tag
		})
		if !found {
			response = taskUnknown
		}
	case function == abortTaskSet:
		ended = c.abort(func(*task) bool { return true })
	case function == clearTaskSet, function == resetUnit, function == resetWarm:
		for _, other := range c.server.sharing(c.export) {
			ended = append(ended, other.abort(func(*task) bool { return true })...)
		}
		after = func() {
			unit.Settle()
			if function == clearTaskSet {
				unit.Cleared(c.nexus)
			} else {
				unit.Reset(c.nexus)
			}
		}
	default:
		response = taskUnsupported
	}
	tag := h.Tag()
	reply := func(response byte) error {
		b, r := c.newPDU(pdu.TaskResponse, 0)
		r[1], r[2] = pdu.Final, response
		r.SetWord(pdu.AtTag, tag)
		return c.out.send(b, true)
	}
	if len(ended) == 0 {
		if after != nil {
			after()
		}
		return reply(response)
	}
	if c.immediate.Add(1) > 16 {
		c.immediate.Add(-1)
		return reply(taskRejected)
	}
	c.workers.Go(func() {
		defer c.immediate.Add(-1)
		for _, e := range ended {
			<-e
		}
		if after != nil {
			after()
		}
		_ = reply(response) // without a connection there is nobody to tell
		c.out.flush()
	})
	return nil
}

// sharing returns all sessions of an export.
func (s *Server) sharing(e *exported) (all []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range e.sessions {
		all = append(all, c)
	}
	return all
}
