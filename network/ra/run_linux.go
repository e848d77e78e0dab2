package ra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/internal/netns"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// retry is how soon a bridge that can't be served is tried again: it does not exist, or has no link-local address yet.
const retry = 250 * time.Millisecond

// serving is a bridge that is served.
type serving struct {
	bridge network.Bridge
	link   net.Interface
	stop   context.CancelCauseFunc
	ended  chan struct{}
}

// errReplaced is why a bridge is not served as it was: it is, as something else.
var errReplaced = errors.New("it is served anew")

// end ends serving a bridge; why is nil if it is served no more.
func (l *serving) end(why error) {
	l.stop(why)
	<-l.ended
}

func (l *serving) over() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// Run advertises until ctx ends, then returns nil once every goroutine of the server has ended. What keeps it from it (a bridge does
// not exist) is logged and tried again. A server that runs already is FailedPrecondition.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return fmt.Errorf("ra: the server runs already: %w", errdefs.ErrFailedPrecondition)
	}
	s.running = true
	s.mu.Unlock()
	var all sync.WaitGroup
	have := map[string]*serving{}
	silent := map[string]bool{} // bridges whose absence has been logged
	for ctx.Err() == nil {
		s.mu.Lock()
		wanted := maps.Clone(s.bridges)
		s.mu.Unlock()
		for name, l := range have {
			if _, ok := wanted[name]; !ok {
				l.end(nil)
				delete(have, name)
			}
		}
		var again <-chan time.Time
		for name, b := range wanted {
			err := s.ensure(ctx, b, have, &all)
			switch {
			case err == nil:
				delete(silent, name)
				continue
			case !silent[name]:
				silent[name] = true
				s.cfg.Logger.Info("ra: can't advertise yet", "bridge", name, "error", err)
			}
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-again:
		}
	}
	for _, l := range have {
		l.end(nil)
	}
	all.Wait()
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	return nil
}

// ensure makes the bridge one that is served, as it is now.
func (s *Server) ensure(ctx context.Context, b network.Bridge, have map[string]*serving, all *sync.WaitGroup) error {
	link, err := s.link(b.Name)
	old := have[b.Name]
	if old != nil && (err != nil || old.link.Index != link.Index || old.link.HardwareAddr.String() != link.HardwareAddr.String() ||
		!same(old.bridge, b) || old.over()) {
		old.end(errReplaced)
		delete(have, b.Name)
		old = nil
	}
	if err != nil || old != nil {
		return err
	}
	sockets, err := s.open(link)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	one := &serving{bridge: b, link: *link, stop: stop, ended: make(chan struct{})}
	have[b.Name] = one
	all.Go(func() {
		defer close(one.ended)
		defer stop(nil)
		err := s.serve(ctx, b, link, sockets)
		if ctx.Err() == nil {
			s.cfg.Logger.Warn("ra: a bridge is not served any more", "bridge", b.Name, "error", err)
			signal(s.changed)
		}
	})
	return nil
}

// link returns the interface of a bridge.
func (s *Server) link(name string) (link *net.Interface, err error) {
	err = netns.Do(s.cfg.NetNS, func() error {
		link, err = net.InterfaceByName(name)
		return err
	})
	if err == nil && len(link.HardwareAddr) != 6 {
		err = errors.New("it has no Ethernet address")
	}
	return link, err
}
