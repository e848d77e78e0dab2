package dewpointtest

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// line is a process's line to the shared bus, on which messages get lost, come twice, late and out of order.
type line struct {
	queue.Bus
	life *life
}

var errCut = fmt.Errorf("dewpointtest: the bus can't be reached: %w", errdefs.ErrUnavailable)

// send passes what every sending passes. lost says that the message is on its way to nowhere.
func (b *line) send() (lost bool, late time.Duration, times int, err error) {
	f := &b.life.proc.sim.cfg.Faults
	if err := b.life.await(); err != nil {
		return false, 0, 0, err
	}
	if _, cut := b.life.proc.connection(); cut {
		return false, 0, 0, errCut
	}
	times = 1
	if b.life.meets(f.Lose) {
		return true, 0, 0, nil
	}
	if b.life.meets(f.Double) {
		times = 2
	}
	if b.life.meets(f.Delay) {
		late = b.life.some(10 * time.Second)
	}
	return false, late, times, nil
}

// Cast implements [queue.Bus].
func (b *line) Cast(ctx context.Context, m queue.Message) error { return b.oneWay(ctx, m, b.Bus.Cast) }

// Fanout implements [queue.Bus].
func (b *line) Fanout(ctx context.Context, m queue.Message) error {
	return b.oneWay(ctx, m, b.Bus.Fanout)
}

func (b *line) oneWay(ctx context.Context, m queue.Message, send func(context.Context, queue.Message) error) error {
	lost, late, times, err := b.send()
	if err != nil || lost {
		return err
	}
	for range times {
		if late > 0 {
			b.life.proc.sim.later(late, func(ctx context.Context) { _ = send(ctx, m) })
		} else {
			err = send(ctx, m)
		}
	}
	if err != nil {
		return err
	}
	return b.life.await()
}

// Call implements [queue.Bus].
func (b *line) Call(ctx context.Context, m queue.Message) ([]byte, error) {
	ctx, stop := b.life.within(ctx)
	defer stop()
	if _, bounded := ctx.Deadline(); !bounded {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, time.Minute)
		defer end()
	}
	never := func() ([]byte, error) {
		<-ctx.Done()
		if err := b.life.await(); err != nil {
			return nil, err
		}
		return nil, ctx.Err()
	}
	lost, late, times, err := b.send()
	if err != nil {
		return nil, err
	}
	if lost {
		return never()
	}
	if late > 0 && b.life.sleep(ctx, late) != nil {
		return never()
	}
	if times == 2 {
		_ = b.Bus.Cast(ctx, m)
	}
	answer, err := b.Bus.Call(ctx, m)
	if _, cut := b.life.proc.connection(); cut || b.life.meets(b.life.proc.sim.cfg.Faults.Lose) {
		return never()
	}
	if dead := b.life.await(); dead != nil {
		return nil, dead
	}
	return answer, err
}

// CallAsync implements [queue.Bus].
func (b *line) CallAsync(ctx context.Context, m queue.Message, done func([]byte, error)) error {
	if err := b.life.await(); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	b.life.proc.sim.all.Go(func() { done(b.Call(ctx, m)) })
	return nil
}

// Serve implements [queue.Bus]. A process that is dead or cut off hears nothing.
func (b *line) Serve(topic string, h queue.Handler) (stop func(), err error) {
	if err := b.life.await(); err != nil {
		return nil, err
	}
	return b.Bus.Serve(topic, func(ctx context.Context, m queue.Message) ([]byte, error) {
		dead := b.life.await()
		if _, cut := b.life.proc.connection(); dead != nil || cut {
			if m.ReplyTo == "" {
				return nil, errCut
			}
			select { // there is no answer, not even that there is none
			case <-ctx.Done():
			case <-b.life.ctx.Done():
			}
			return nil, errCut
		}
		return h(ctx, m)
	})
}

// Close implements [queue.Bus]: the bus is everybody's, and stays open.
func (b *line) Close() error { return nil }
