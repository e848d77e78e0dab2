package fakecompute

import (
	"context"
	"iter"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// maxPending is how many events wait for one slow consumer; then it is told to resync instead.
const maxPending = 1024

// stream is what one consumer of events has not seen yet of one connection.
type stream struct {
	pending []compute.PowerEvent
	news    chan struct{} // holds a token while pending is not empty
	lost    chan struct{} // closed with the connection
}

// Events implements [compute.Hypervisor].
func (h *Hypervisor) Events(ctx context.Context) iter.Seq[compute.PowerEvent] {
	return func(yield func(compute.PowerEvent) bool) {
		for ctx.Err() == nil {
			s, up := h.host.subscribe()
			if s == nil {
				select {
				case <-up:
				case <-ctx.Done():
				}
				continue
			}
			again := h.host.deliver(ctx, s, yield)
			h.host.unsubscribe(s)
			if !again {
				return
			}
		}
	}
}

// deliver yields what comes on s. It returns true when the connection is lost, and false when the consumer or ctx ended.
func (h *Host) deliver(ctx context.Context, s *stream, yield func(compute.PowerEvent) bool) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.lost:
			return true
		case <-s.news:
		}
		for _, e := range h.take(s) {
			if ctx.Err() != nil || !yield(e) {
				return false
			}
		}
	}
}

// subscribe returns a stream that begins with a Resync, or, without a connection, what to wait for.
func (h *Host) subscribe() (s *stream, up <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.lost:
		return nil, h.up
	default:
	}
	s = &stream{news: make(chan struct{}, 1), lost: h.lost}
	h.streams[s] = struct{}{}
	s.add(compute.PowerEvent{Resync: true})
	return s, nil
}

func (h *Host) unsubscribe(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
}

func (h *Host) take(s *stream) []compute.PowerEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := s.pending
	s.pending = nil
	return all
}

// tell hands e to all streams. It expects mu to be held.
func (h *Host) tell(e compute.PowerEvent) {
	for s := range h.streams {
		s.add(e)
	}
}

func (s *stream) add(e compute.PowerEvent) {
	if len(s.pending) == maxPending {
		s.pending = s.pending[:0]
		e = compute.PowerEvent{Resync: true}
	}
	s.pending = append(s.pending, e)
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// Disconnect loses the connection between the host and all its drivers: calls are Unavailable, those that hang too, and
// Events waits. Guests run on. Without a connection it does nothing.
func (h *Host) Disconnect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.lost:
	default:
		close(h.lost)
		h.up = make(chan struct{})
		clear(h.streams)
	}
}

// Connect makes the connection anew: Events yields a Resync. With a connection it does nothing.
func (h *Host) Connect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.lost:
		h.lost = make(chan struct{})
		close(h.up)
	default:
	}
}

// Restart is a hypervisor that restarts and leaves its guests alone: [Host.Disconnect], then [Host.Connect].
func (h *Host) Restart() {
	h.Disconnect()
	h.Connect()
}
