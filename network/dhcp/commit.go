package dhcp

import (
	"context"
	"time"
)

const (
	queueLength = 4096 // answers that wait for the journal
	groupLength = 512  // answers that share a flush
	tryAgain    = time.Second
)

// commit writes the leases of answers to the journal, many at a time, and then sends the answers, until ctx ends. While one
// group is on its way to the disk the next gathers, so that none waits for anything but the disk.
func (s *Server) commit(ctx context.Context) {
	var j *journal
	defer func() {
		if j != nil {
			j.close()
		}
	}()
	retry := time.NewTicker(tryAgain)
	defer retry.Stop()
	group := make([]*answer, 0, groupLength)
	records := make([]record, 0, 2*groupLength)
	for {
		if j == nil {
			j = s.openJournal()
		}
		group = group[:0]
		select {
		case <-ctx.Done():
			s.store(j, nil, records[:0]) // what was unplugged
			return
		case a := <-s.queue:
			group = append(group, a)
		case <-s.forgot:
		case <-retry.C:
		}
	gather:
		for len(group) < groupLength {
			select {
			case a := <-s.queue:
				group = append(group, a)
			default:
				break gather
			}
		}
		stored := s.store(j, group, records[:0])
		for _, a := range group {
			a.port.waiting.Store(false) // before the client hears: what it says next, such as RELEASE, it may say but once
		}
		if stored {
			if s.committed != nil && len(group) > 0 {
				s.committed()
			}
			s.deliver(group)
		} else {
			s.count.failed.Add(uint64(len(group)))
		}
		for _, a := range group {
			s.give(a)
		}
	}
}

// openJournal reads the leases of earlier runs, or is nil if it can't be done now.
func (s *Server) openJournal() *journal {
	j, leases, damage, err := openJournal(s.cfg.Dir)
	if err != nil {
		s.own.warn("dhcp: no client gets an address while the lease journal can't be opened", "error", err)
		return nil
	}
	if damage != "" {
		s.cfg.Logger.Error("dhcp: the lease journal is damaged; it is kept as "+damagedFile+", and clients get their addresses all the same", "damage", damage)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases = leases
	for tap := range s.ended {
		delete(leases, tap)
	}
	clear(s.ended)
	s.forgetStrangers()
	return j
}

// store makes the changes of a group, and those that Unplug left, and returns once they are on disk. Answers to ports that
// are gone by now it leaves without a frame. It is false if the disk did not take them: then nobody may be told.
func (s *Server) store(j *journal, group []*answer, records []record) bool {
	if j == nil {
		return false
	}
	now := time.Now().UnixMilli()
	s.mu.Lock()
	for _, l := range s.ended {
		records = append(records, record{kind: recordEnd, lease: l})
	}
	clear(s.ended)
	for _, a := range group {
		p := a.port
		if s.taps[p.tap.Name] != p {
			a.length = 0
			continue
		}
		l, had := s.leases[p.tap.Name]
		switch {
		case a.change == granted:
			if !had || l.until <= now {
				l = lease{tap: p.tap.Name, mac: p.mac, addr: p.addr, since: now}
			}
			l.until = now + a.lasts
			s.leases[l.tap] = l
			records = append(records, record{kind: recordLease, lease: l})
		case had:
			delete(s.leases, l.tap)
			records = append(records, record{kind: recordEnd, lease: l})
		}
	}
	full := !j.fits(len(records))
	var leases map[string]lease
	if full {
		leases = make(map[string]lease, len(s.leases))
		for tap, l := range s.leases {
			if l.until > now {
				leases[tap] = l
			}
		}
	}
	s.mu.Unlock()
	var err error
	switch {
	case full: // the new journal has the changes in it
		err = j.replace(leases, len(records))
	case len(records) > 0:
		err = j.write(records)
	}
	if err != nil {
		j.drop()
		s.own.warn("dhcp: no client gets an address while the lease journal can't be written", "error", err)
	}
	return err == nil
}

// deliver sends the answers of a group, those of one bridge together.
func (s *Server) deliver(group []*answer) {
	for len(group) > 0 {
		n := 1
		for n < len(group) && group[n].via == group[0].via {
			n++
		}
		frames := 0
		for _, a := range group[:n] {
			if a.length > 0 {
				frames++
			}
		}
		s.count.acks.Add(uint64(frames))
		if sent := group[0].via.send(group[:n]); sent < frames {
			s.count.dropped.Add(uint64(frames - sent))
		}
		group = group[n:]
	}
}

// take returns an answer to fill.
func (s *Server) take() *answer {
	select {
	case a := <-s.spare:
		return a
	default:
		return &answer{}
	}
}

// give takes an answer back.
func (s *Server) give(a *answer) {
	a.port, a.via = nil, nil
	select {
	case s.spare <- a:
	default:
	}
}

// enqueue hands an answer to the journal, and tells whether it took it: a client has one place in the queue.
func (s *Server) enqueue(a *answer, via *socket) bool {
	p := a.port
	if !p.waiting.CompareAndSwap(false, true) {
		s.count.dropped.Add(1)
		return false
	}
	a.via = via
	select {
	case s.queue <- a:
		return true
	default:
		p.waiting.Store(false)
		s.count.dropped.Add(1)
		return false
	}
}
