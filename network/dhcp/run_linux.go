package dhcp

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Run answers until ctx ends, then returns nil once every goroutine of the server has ended. What keeps it from answering
// (the journal belongs to another server, a bridge does not exist) is logged and tried again. A server that runs already is
// FailedPrecondition.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return fmt.Errorf("dhcp: the server runs already: %w", errdefs.ErrFailedPrecondition)
	}
	s.running = true
	s.mu.Unlock()
	var journal, listeners sync.WaitGroup
	committing, stop := context.WithCancel(context.WithoutCancel(ctx))
	journal.Go(func() { s.commit(committing) })
	stops := map[string]func(){}
	for ctx.Err() == nil {
		s.mu.RLock()
		wanted := make(map[string]bool, len(s.bridges))
		for name, b := range s.bridges {
			wanted[name] = b.answers
		}
		s.mu.RUnlock()
		for name, end := range stops {
			if !wanted[name] {
				end()
				delete(stops, name)
			}
		}
		for name := range wanted {
			if wanted[name] && stops[name] == nil {
				listening, end := context.WithCancel(ctx)
				ended := make(chan struct{})
				stops[name] = func() { end(); <-ended }
				listeners.Go(func() {
					defer close(ended)
					s.listen(listening, name)
				})
			}
		}
		select {
		case <-ctx.Done():
		case <-s.changed:
		}
	}
	for _, end := range stops {
		end()
	}
	listeners.Wait()
	stop()
	journal.Wait()
	for len(s.queue) > 0 {
		a := <-s.queue
		a.port.waiting.Store(false)
		s.give(a)
	}
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	return nil
}

// Pauses before a bridge that is not there is tried again.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// listen answers on one bridge, whenever it exists, until ctx ends.
func (s *Server) listen(ctx context.Context, name string) {
	pause := firstPause
	for missing := false; ctx.Err() == nil; {
		sock, err := s.open(name)
		switch {
		case err == nil:
			if missing {
				s.cfg.Logger.Info("dhcp: the bridge is there", "bridge", name)
			}
			missing, pause = false, firstPause
			stop := context.AfterFunc(ctx, sock.close)
			err = s.serve(name, sock)
			stop()
			sock.close()
			if ctx.Err() == nil {
				s.cfg.Logger.Info("dhcp: the bridge went", "bridge", name, "error", err)
				missing = true
			}
		case !missing:
			missing = true
			level := s.cfg.Logger.Warn
			if errors.Is(err, unix.ENODEV) {
				level = s.cfg.Logger.Info
			}
			level("dhcp: can't listen yet", "bridge", name, "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause = min(2*pause, lastPause)
	}
}

// serve answers what comes in on a socket until it fails.
func (s *Server) serve(name string, sock *socket) error {
	var r request
	now := make([]*answer, 0, batchLength)
	for {
		n, err := sock.read()
		if err != nil {
			return err
		}
		now = s.batch(name, sock, n, &r, now[:0])
		if len(now) > 0 {
			if sent := sock.sendNow(now); sent < len(now) {
				s.count.dropped.Add(uint64(len(now) - sent))
			}
			for _, a := range now {
				s.give(a)
			}
		}
	}
}

// batch decides about the packets of one read. It returns the answers to send at once; those that change a lease go to
// the journal.
func (s *Server) batch(name string, sock *socket, n int, r *request, now []*answer) []*answer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.bridges[name]
	if b == nil {
		return now
	}
	r.second = time.Now().Unix()
	for i := range n {
		a := s.take()
		from, packet := sock.packet(i)
		switch {
		case !s.guarded(b, from, packet, r, a):
			s.give(a)
		case a.change == unchanged:
			now = append(now, a)
		case !s.enqueue(a, sock):
			s.give(a)
		}
	}
	return now
}

// guarded answers one packet, and outlives a mistake of ours in doing so: one guest must not end the node's DHCP.
func (s *Server) guarded(b *bridge, from hardware, packet []byte, r *request, a *answer) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			ok = false
			s.count.panicked.Add(1)
			s.own.warn("dhcp: a packet found a mistake in the server", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	return s.answer(b, from, packet, r, a)
}
