package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
)

// late are the changes that libvirtd still works on after their callers have gone, by machine. The next change of the same
// machine waits for them. Otherwise a Destroy could find nothing, return, and the definition that a Create before it
// had asked for would come true afterwards.
type late struct {
	mu    sync.Mutex
	calls map[string][]<-chan struct{} // each is closed when the call has ended
}

func (l *late) add(id string, ended <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls == nil {
		l.calls = map[string][]<-chan struct{}{}
	}
	l.calls[id] = append(l.calls[id], ended)
}

// wait returns when no earlier change of the machine is under way.
func (l *late) wait(ctx context.Context, id string) error {
	for {
		l.mu.Lock()
		calls := l.calls[id]
		if len(calls) == 0 {
			l.mu.Unlock()
			return nil
		}
		first := calls[0]
		select {
		case <-first:
			if l.calls[id] = calls[1:]; len(calls) == 1 {
				delete(l.calls, id)
			}
			l.mu.Unlock()
			continue
		default:
		}
		l.mu.Unlock()
		select {
		case <-first:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// busy tells whether an earlier change of the machine is under way.
func (l *late) busy(id string) bool {
	l.forget(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.calls[id]) > 0
}

// forget drops what has ended and nobody waited for.
func (l *late) forget(id string) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = l.wait(ended, id)
}

// errStopped is returned by a change that stops between two calls, as its caller has gone.
var errStopped = errors.New("libvirt: stopped")

// change runs f on a connection of its own, as [Hypervisor.do] does, but for calls that change the machine with this id: when
// ctx ends, it returns at once, and f is given until the driver's timeout to learn what came of its call. f gets ctx to
// look whether it is still wanted before it goes on.
func (h *Hypervisor) change(ctx context.Context, id string, f func(context.Context, wire) error) error {
	if u, err := uuid.Parse(id); err == nil {
		id = u.String() // one name for one machine
	}
	limited, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	err := h.late.wait(limited, id)
	var c *conn
	if err == nil {
		c, err = h.pool.acquire(limited)
	}
	if err != nil {
		return h.verdict(ctx, limited, err)
	}
	own, end := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.Timeout)
	result, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer end()
		err := h.pool.use(own, c, func(w wire) error { return f(ctx, w) })
		if err != nil {
			err = h.verdict(ctx, own, err)
		}
		result <- err
		close(ended)
		h.late.forget(id)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	h.late.add(id, ended)
	select {
	case err := <-result:
		h.late.forget(id)
		return err
	default:
		return ctx.Err()
	}
}

// verdict gives an error of a call its class. limited is the context that the call had, ctx the caller's.
func (h *Hypervisor) verdict(ctx, limited context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return fmt.Errorf("libvirt: no answer within %v: %w", h.cfg.Timeout, errdefs.ErrUnavailable)
	}
	return translate(err)
}
