package dewpointtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// life is one life of a process, from its start to its death. All that the process does to the world outside it, to the log,
// the bus and the host's drivers, goes through its life, so that nothing is done any more from the instant of a kill.
type life struct {
	proc *process
	ctx  context.Context
	end  context.CancelCauseFunc

	mu   sync.Mutex
	dead bool
	fuse int        // awaits that are left to it; 0: no kill is set
	dice *rand.Rand // which of its awaits meet a fault
}

var errKilled = fmt.Errorf("dewpointtest: the process was killed: %w", errdefs.ErrUnavailable)

// await is passed before and after everything that the process waits for. It is where a kill that was set strikes, and an
// error for a process that is dead.
func (l *life) await() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fuse > 0 {
		if l.fuse--; l.fuse == 0 {
			l.dead = true
			l.end(errKilled)
		}
	}
	if l.dead {
		return errKilled
	}
	return nil
}

func (l *life) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	l.end(errKilled)
}

// killAt sets a kill at the n-th await from now.
func (l *life) killAt(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fuse = n
}

// meets tells whether a fault of this probability strikes here.
func (l *life) meets(p float64) bool {
	if p <= 0 || !l.proc.sim.stormy.Load() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dice.Float64() < p
}

// some returns a time of up to most.
func (l *life) some(most time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.dice.Int64N(int64(most) + 1))
}

// sleep waits, unless ctx or the life ends before.
func (l *life) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ctx.Done():
		return errKilled
	}
}

// reach waits while the process is cut off from the others.
func (l *life) reach(ctx context.Context) error {
	for {
		whole, cut := l.proc.connection()
		if !cut {
			return nil
		}
		select {
		case <-whole:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ctx.Done():
			return errKilled
		}
	}
}

// within returns a context that ends with ctx and with the life.
func (l *life) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(l.ctx, cancel)
	return ctx, func() { unhook(); cancel() }
}
