package iscsi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/disk"
)

// Server is a [Target] in this process. It is made by [NewServer] and has nothing in common with another one.
type Server struct {
	cfg   Config
	pools pools

	mu       sync.Mutex
	exports  map[string]*exported
	epochs   map[string]uint64 // the newest that was seen of each IQN
	sessions map[uint16]*conn
	lastTSIH uint16
	logins   int
}

var _ Target = (*Server)(nil)

// exported is an export with who uses it.
type exported struct {
	Export
	unit     *disk.Unit
	sessions map[*conn]struct{} // under the server's lock
	waiting  []*conn            // of what it has replaced: until all have ended nobody gets in
	pace     pace
}

// NewServer returns a server that serves nobody until [Server.Serve].
func NewServer(cfg Config) *Server {
	return &Server{cfg: cfg.withDefaults(), exports: map[string]*exported{}, epochs: map[string]uint64{}, sessions: map[uint16]*conn{}}
}

// Serve accepts initiators on a listener until ctx ends, and closes it. Then commands that were begun are ended and answered, for as long as the drain
// timeout lets them; Serve returns nil when every connection of the listener is closed and all its goroutines have ended. Any
// other end of the listener is an error. Several listeners can be served at once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	defer listener.Close()
	for pause := time.Duration(0); ; {
		nc, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case err != nil && errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of file descriptors, or the initiator has gone already
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.cfg.Log.Warn("iscsi: accepting failed", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		if !s.enter() {
			nc.Close()
			continue
		}
		group.Go(func() { s.handle(ctx, nc) })
	}
}

// enter counts a connection that begins to log in, and leave one that has ended doing so.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logins >= s.cfg.MaxLogins {
		return false
	}
	s.logins++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins--
}

// Export makes a volume available; see [Target].
func (s *Server) Export(ctx context.Context, export Export) error {
	if err := export.validate(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	export.Initiators = append([]Initiator(nil), export.Initiators...)
	e := &exported{Export: export, sessions: map[*conn]struct{}{}}
	unit, err := disk.New(disk.Config{Store: export.Store, Target: export.IQN, ID: export.Volume, ReadOnly: export.ReadOnly})
	if err != nil {
		return fmt.Errorf("export %s: %w", export.IQN, err)
	}
	e.unit = unit

	s.mu.Lock()
	if newest, ok := s.epochs[export.IQN]; ok && export.Epoch < newest {
		s.mu.Unlock()
		return fmt.Errorf("export %s: epoch %d is over, there has been %d: %w", export.IQN, export.Epoch, newest, errdefs.ErrFailedPrecondition)
	}
	old := s.exports[export.IQN]
	switch {
	case old != nil && old.Epoch == export.Epoch && !old.same(export):
		s.mu.Unlock()
		return fmt.Errorf("export %s: epoch %d has other contents: %w", export.IQN, export.Epoch, errdefs.ErrAlreadyExists)
	case old != nil && old.Epoch == export.Epoch:
		e = old
		e.Initiators = export.Initiators
		e.waiting = s.evict(e, func(c *conn) bool { return e.entry(c.initiator) == nil })
	default:
		if old != nil {
			e.waiting = s.evict(old, func(*conn) bool { return true })
		}
		s.exports[export.IQN] = e
		s.epochs[export.IQN] = export.Epoch
	}
	waiting := e.waiting
	s.mu.Unlock()
	return wait(ctx, waiting)
}

// same tells whether an export has the contents of another, and the same to say of whoever may use both.
func (e *exported) same(other Export) bool {
	for _, i := range other.Initiators {
		if entry := e.entry(i.IQN); entry != nil && *entry != i {
			return false
		}
	}
	return e.IQN == other.IQN && e.LUN == other.LUN && e.Volume == other.Volume && e.Store == other.Store && e.ReadOnly == other.ReadOnly
}

// entry returns what an export says of an initiator, nil if it is not for it.
func (e *exported) entry(initiator string) *Initiator {
	for _, i := range e.Initiators {
		if i.IQN == initiator {
			return &i
		}
	}
	return nil
}

// evict begins to end those sessions of an export and returns all to wait for. The server is locked.
func (s *Server) evict(e *exported, those func(*conn) bool) []*conn {
	waiting := e.waiting
	for c := range e.sessions {
		if those(c) {
			c.kill("it may not use its export any more")
			waiting = append(waiting, c)
		}
	}
	return waiting
}

// wait returns when connections have ended with all that they had begun.
func wait(ctx context.Context, conns []*conn) error {
	for _, c := range conns {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ready tells whether all that an export has replaced has ended. The server is locked.
func (e *exported) ready() bool {
	for len(e.waiting) > 0 {
		select {
		case <-e.waiting[0].done:
			e.waiting = e.waiting[1:]
		default:
			return false
		}
	}
	return true
}

// Unexport ends an export; see [Target]. Repeated after its context has ended, it waits for what is left.
func (s *Server) Unexport(ctx context.Context, iqn string, epoch uint64) error {
	s.mu.Lock()
	e := s.exports[iqn]
	if e == nil {
		s.mu.Unlock()
		return nil
	}
	if epoch < e.Epoch {
		s.mu.Unlock()
		return fmt.Errorf("unexport %s: epoch %d is over, there is %d: %w", iqn, epoch, e.Epoch, errdefs.ErrFailedPrecondition)
	}
	e.Initiators = nil // nobody gets in any more
	e.waiting = s.evict(e, func(*conn) bool { return true })
	waiting := e.waiting
	s.mu.Unlock()
	if err := wait(ctx, waiting); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exports[iqn] == e {
		delete(s.exports, iqn)
	}
	return nil
}

// Sessions returns who is logged in; see [Target].
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Session
	for _, c := range s.sessions {
		if c.export != nil {
			all = append(all, Session{IQN: c.export.IQN, Epoch: c.export.Epoch, Initiator: c.initiator, ISID: c.isid, TSIH: c.tsih,
				Address: c.nc.RemoteAddr().String(), Since: c.since})
		}
	}
	return all
}

// Resized looks at the size of an export's store again; see [Target].
func (s *Server) Resized(iqn string) error {
	s.mu.Lock()
	e := s.exports[iqn]
	s.mu.Unlock()
	if e == nil {
		return fmt.Errorf("export %s: %w", iqn, errdefs.ErrNotFound)
	}
	if err := e.unit.Resized(); err != nil {
		return fmt.Errorf("export %s: %w", iqn, err)
	}
	return nil
}

// Hold has the writes to an export wait; see [Target].
func (s *Server) Hold(ctx context.Context, iqn string) (release func(), err error) {
	s.mu.Lock()
	e := s.exports[iqn]
	s.mu.Unlock()
	if e == nil {
		return nil, fmt.Errorf("export %s: %w", iqn, errdefs.ErrNotFound)
	}
	return e.unit.Hold(ctx)
}

// find returns an export and what it says of an initiator, nil if the one is not for the other.
func (s *Server) find(target, initiator string) (*exported, *Initiator) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.exports[target]
	if e == nil {
		return nil, nil
	}
	if entry := e.entry(initiator); entry != nil {
		return e, entry
	}
	return nil, nil
}

// offered returns all exports that are for an initiator, by their IQNs, with what each says of it.
func (s *Server) offered(initiator string) map[string]Initiator {
	s.mu.Lock()
	defer s.mu.Unlock()
	offers := map[string]Initiator{}
	for iqn, e := range s.exports {
		for _, i := range e.Initiators {
			if i.IQN == initiator {
				offers[iqn] = i
			}
		}
	}
	return offers
}

// admit makes a connection that has logged in a session, and returns the status for its last response. A session that the
// initiator's port had before is ended first, RFC 7143 section 6.3.5.
func (s *Server) admit(ctx context.Context, c *conn) uint16 {
	for {
		s.mu.Lock()
		if len(s.sessions) >= s.cfg.MaxSessions {
			s.mu.Unlock()
			return statusOutOfResources
		}
		var older *conn
		if e := c.export; e != nil {
			if s.exports[e.IQN] != e || e.entry(c.initiator) == nil {
				s.mu.Unlock()
				return statusNotFound
			}
			if !e.ready() {
				s.mu.Unlock()
				return statusUnavailable
			}
			for other := range e.sessions {
				if other.initiator == c.initiator && other.isid == c.isid {
					older = other
				}
			}
		}
		if older == nil {
			for {
				s.lastTSIH++
				if _, taken := s.sessions[s.lastTSIH]; !taken && s.lastTSIH != 0 {
					break
				}
			}
			c.tsih, c.since = s.lastTSIH, time.Now()
			s.sessions[c.tsih] = c
			if c.export != nil {
				c.export.sessions[c] = struct{}{}
			}
			s.mu.Unlock()
			return statusSuccess
		}
		s.mu.Unlock()
		older.kill("the initiator has logged in again")
		if wait(ctx, []*conn{older}) != nil {
			return statusUnavailable
		}
	}
}

// retire forgets a session.
func (s *Server) retire(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, c.tsih)
	if c.export != nil {
		delete(c.export.sessions, c)
	}
}
