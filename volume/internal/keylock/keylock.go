// Package keylock has locks that are named by keys, such as the ids of volumes, and that wait no longer than a context.
package keylock

import (
	"context"
	"slices"
	"sync"
)

// Locks are one for each key. The zero value is ready to use, and a key that nobody holds takes no room.
type Locks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// TryLock takes a key if nobody holds it.
func (l *Locks) TryLock(key string) (unlock func(), ok bool) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	unlock, err := l.Lock(ended, key)
	return unlock, err == nil
}

// Lock waits for all keys, in one order for all callers, so that no two wait for each other. It fails with the error of a
// context that ends before it has them all, and holds none of them then. No key at all is had at once.
func (l *Locks) Lock(ctx context.Context, keys ...string) (unlock func(), err error) {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	var mine []string
	unlock = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, key := range mine {
			close(l.held[key])
			delete(l.held, key)
		}
	}
	for len(mine) < len(keys) {
		key := keys[len(mine)]
		l.mu.Lock()
		other, taken := l.held[key]
		if !taken {
			if l.held == nil {
				l.held = map[string]chan struct{}{}
			}
			l.held[key] = make(chan struct{})
			mine = append(mine, key)
		}
		l.mu.Unlock()
		if !taken {
			continue
		}
		select {
		case <-other:
		case <-ctx.Done():
			unlock()
			return nil, ctx.Err()
		}
	}
	return unlock, nil
}
