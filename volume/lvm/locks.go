package lvm

import (
	"context"
	"slices"
	"sync"
)

// locks are one for each id.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for all ids, in one order for all callers.
func (l *locks) lock(ctx context.Context, ids []string) (unlock func(), err error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	var mine []string
	unlock = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, id := range mine {
			close(l.held[id])
			delete(l.held, id)
		}
	}
	for len(mine) < len(ids) {
		id := ids[len(mine)]
		l.mu.Lock()
		other, taken := l.held[id]
		if !taken {
			l.held[id] = make(chan struct{})
			mine = append(mine, id)
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
