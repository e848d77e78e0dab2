package image

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// flights lets callers who want the same thing at once share one attempt at it.
type flights struct {
	mu     sync.Mutex
	all    map[string]*flight
	wg     sync.WaitGroup
	closed bool
}

type flight struct {
	done    chan struct{}
	err     error // valid once done is closed
	waiting int
	cancel  context.CancelFunc
}

// do runs fn, or joins the attempt for key that is under way, and returns its error. A caller whose context ends
// leaves, and the last one to leave ends the context that fn was given.
func (fs *flights) do(ctx context.Context, key string, fn func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fs.mu.Lock()
	if fs.closed {
		fs.mu.Unlock()
		return fmt.Errorf("image cache is closed: %w", errdefs.ErrUnavailable)
	}
	f := fs.all[key]
	if f == nil {
		f = fs.start(ctx, key, fn)
	}
	f.waiting++
	fs.mu.Unlock()

	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.cancel()
		if fs.all[key] == f { // later callers begin anew: this one will fail
			delete(fs.all, key)
		}
	}
	return ctx.Err()
}

// start is called with mu held.
func (fs *flights) start(ctx context.Context, key string, fn func(ctx context.Context) error) *flight {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{done: make(chan struct{}), cancel: cancel}
	if fs.all == nil {
		fs.all = make(map[string]*flight)
	}
	fs.all[key] = f
	fs.wg.Go(func() {
		defer cancel()
		err := fn(own)
		fs.mu.Lock()
		defer fs.mu.Unlock()
		if fs.all[key] == f {
			delete(fs.all, key)
		}
		f.err = err
		close(f.done)
	})
	return f
}

// close ends all attempts, waits for them, and refuses new ones.
func (fs *flights) close() {
	fs.mu.Lock()
	fs.closed = true
	for _, f := range fs.all {
		f.cancel()
	}
	fs.mu.Unlock()
	fs.wg.Wait()
}
