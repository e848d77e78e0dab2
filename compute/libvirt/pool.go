package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	golibvirt "github.com/digitalocean/go-libvirt"
)

// pool keeps connections for calls, one call on one connection at a time.
type pool struct {
	dial  func(context.Context) (*conn, error)
	slots chan struct{}   // one token for each call under way
	ended context.Context // ends with the pool
	end   context.CancelFunc

	mu   sync.Mutex
	idle []*conn // last in, first out: the rest may rest
}

func newPool(size int, dial func(context.Context) (*conn, error)) *pool {
	ended, end := context.WithCancel(context.Background())
	return &pool{dial: dial, slots: make(chan struct{}, size), ended: ended, end: end}
}

var (
	errClosed = fmt.Errorf("libvirt: the driver was closed: %w", errdefs.ErrUnavailable)
	errLost   = fmt.Errorf("libvirt: the connection was lost, and whether the call had its effect is not known: %w", errdefs.ErrUnavailable)
)

// acquire waits until a call may begin, and returns a connection for it. What acquire returned, use gives back.
func (p *pool) acquire(ctx context.Context) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if p.ended.Err() != nil {
		return nil, errClosed
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.ended.Done():
		return nil, errClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ended, cancel)()
	c, err := p.take(ctx)
	if err == nil && p.ended.Err() != nil {
		c.hangUp()
		err = errClosed
	}
	if err != nil {
		<-p.slots
		if p.ended.Err() != nil {
			return nil, errClosed
		}
		return nil, err
	}
	return c, nil
}

// use calls f with a connection. When ctx ends, or the pool, the connection is closed, so that f ends soon, and use returns
// when it has. f's error is returned as it is, if it is libvirt's or has a class.
func (p *pool) use(ctx context.Context, c *conn, f func(wire) error) error {
	defer func() { <-p.slots }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ended, cancel)()
	stop := context.AfterFunc(ctx, c.hangUp)
	err := f(c.wire)
	if !stop() {
		// The connection is closed, or about to be. What f achieved is done all the same.
		if err != nil && p.ended.Err() != nil {
			return errClosed
		}
		return err
	}
	if err != nil && !answered(err) {
		c.hangUp()
		return fmt.Errorf("%w: %w", errLost, err)
	}
	p.put(c)
	return err
}

// answered tells whether err is something that libvirtd said, or that we made of it.
func answered(err error) bool {
	var e golibvirt.Error
	return errors.As(err, &e) || errors.Is(err, golibvirt.ErrUnsupported) || errors.Is(err, errStopped) || classed(err)
}

func (p *pool) take(ctx context.Context) (*conn, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		select {
		case <-c.lost:
		default:
			return c, nil
		}
	}
	c, err := p.dial(ctx)
	if err != nil {
		if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
			<-ctx.Done() // the socket's own clock is a little ahead of the context's
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("libvirt: connecting: %w: %w", err, errdefs.ErrUnavailable)
	}
	return c, nil
}

func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended.Err() != nil {
		c.hangUp()
		return
	}
	p.idle = append(p.idle, c)
}

// close ends the pool. It may be called more than once.
func (p *pool) close() {
	p.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.hangUp()
	}
	p.idle = nil
}
