package image

import (
	"context"
	"sync"
)

// keyLocks is a lock for each of any number of names.
type keyLocks struct {
	mu  sync.Mutex
	all map[string]*keyLock
}

type keyLock struct {
	held  chan struct{} // has room for the one holder
	users int           // holder and waiters
}

// lock waits until nobody else holds the lock of key, or ctx ends. The caller calls unlock once.
func (l *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	k := l.all[key]
	if k == nil {
		if l.all == nil {
			l.all = make(map[string]*keyLock)
		}
		k = &keyLock{held: make(chan struct{}, 1)}
		l.all[key] = k
	}
	k.users++
	l.mu.Unlock()

	select {
	case k.held <- struct{}{}:
		return func() { <-k.held; l.leave(key, k) }, nil
	case <-ctx.Done():
		l.leave(key, k)
		return nil, ctx.Err()
	}
}

func (l *keyLocks) leave(key string, k *keyLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.all, key)
	}
}
