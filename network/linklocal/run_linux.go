package linklocal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// retry is how soon a bridge that can't be listened on is tried again.
const retry = 250 * time.Millisecond

// listening is a bridge that is listened on.
type listening struct {
	index int // of the interface: one that comes again has another
	stop  context.CancelFunc
	ended chan struct{}
}

func (l *listening) end() {
	l.stop()
	<-l.ended
}

func (l *listening) over() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// Run listens until ctx ends, then returns nil once every goroutine of the server has ended. What keeps it from listening (a bridge
// does not exist) is logged and tried again. A server that runs already is FailedPrecondition.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return fmt.Errorf("linklocal: the server runs already: %w", errdefs.ErrFailedPrecondition)
	}
	s.running = true
	s.mu.Unlock()
	var serving sync.WaitGroup
	have := map[string]*listening{}
	silent := map[string]bool{} // bridges whose absence has been logged
	for ctx.Err() == nil {
		s.mu.Lock()
		wanted := maps.Clone(s.bridges)
		s.mu.Unlock()
		for name, l := range have {
			if !wanted[name] {
				l.end()
				delete(have, name)
			}
		}
		var again <-chan time.Time
		for name := range wanted {
			err := s.ensure(ctx, name, have, &serving)
			switch {
			case err == nil:
				delete(silent, name)
				continue
			case !silent[name]:
				silent[name] = true
				level := s.cfg.Logger.Warn
				if errors.Is(err, unix.ENODEV) {
					level = s.cfg.Logger.Info
				}
				level("linklocal: can't listen yet", "bridge", name, "error", err)
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
		l.end()
	}
	serving.Wait()
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	return nil
}

// ensure makes the bridge one that is listened on, as it is now.
func (s *Server) ensure(ctx context.Context, name string, have map[string]*listening, serving *sync.WaitGroup) error {
	index, err := s.index(name)
	old := have[name]
	if old != nil && (err != nil || old.index != index || old.over()) {
		old.end()
		delete(have, name)
		old = nil
	}
	if err != nil || old != nil {
		return err
	}
	l, err := s.listen(ctx, name, index)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	one := &listening{index: index, stop: stop, ended: make(chan struct{})}
	have[name] = one
	serving.Go(func() {
		defer close(one.ended)
		defer stop()
		err := s.cfg.Serve(ctx, l)
		_ = l.Close()
		if ctx.Err() == nil {
			s.cfg.Logger.Warn("linklocal: a bridge is not served any more", "bridge", name, "error", err)
			signal(s.changed)
		}
	})
	return nil
}
