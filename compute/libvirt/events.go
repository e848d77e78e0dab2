package libvirt

import (
	"context"
	"iter"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

const (
	maxPending = 4096 // events that wait for a slow consumer; then it gets a Resync instead
	firstWait  = 50 * time.Millisecond
	longWait   = 5 * time.Second

	// settle is how long after a connection a second Resync comes. A libvirtd that has just started is still taking up
	// its guests; what ends meanwhile ends without an event (seen with libvirt 9.0).
	settle = 5 * time.Second
)

// Events implements [compute.Hypervisor].
func (h *Hypervisor) Events(ctx context.Context) iter.Seq[compute.PowerEvent] {
	return func(yield func(compute.PowerEvent) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(h.pool.ended, cancel)()
		wait := firstWait
		for ctx.Err() == nil {
			began := time.Now()
			again, err := h.stream(ctx, yield)
			if !again {
				return
			}
			if time.Since(began) > longWait {
				wait = firstWait
			}
			if ctx.Err() == nil {
				h.cfg.Logger.Warn("libvirt: the stream of events broke", "error", err, "again in", wait)
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, longWait)
		}
	}
}

// stream yields the events of one connection. again is false when the consumer wants no more.
func (h *Hypervisor) stream(ctx context.Context, yield func(compute.PowerEvent) bool) (again bool, err error) {
	c, err := h.pool.dial(ctx)
	if err != nil {
		return true, err
	}
	defer c.hangUp()
	defer context.AfterFunc(ctx, c.hangUp)()
	// Subscribed first and told to list afterwards: what happens in between comes twice rather than never.
	// The subscription has an end of its own: one that is made just as the connection closes does not end with it.
	subscribed, unsubscribe := context.WithCancel(context.Background())
	defer unsubscribe()
	messages, err := c.LifecycleEvents(subscribed)
	if err != nil {
		return true, err
	}
	q := &queue{news: make(chan struct{}, 1)}
	q.add(compute.PowerEvent{Resync: true})
	drained := make(chan struct{})
	go func() { // messages must be drained until its end, whatever the consumer does
		defer close(drained)
		for m := range messages {
			p := powerAfter(m.Event, m.Detail)
			if p == compute.PowerCrashed {
				p = afterCrash(c, m.Dom)
			}
			if p != compute.PowerUnknown {
				q.add(compute.PowerEvent{ID: idOf(m.Dom), Power: p})
			}
		}
	}()
	defer func() { c.hangUp(); unsubscribe(); <-drained }()
	settled := time.AfterFunc(settle, func() { q.add(compute.PowerEvent{Resync: true}) })
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-drained:
			return true, errLost
		case <-c.lost:
			return true, errLost
		case <-q.news:
		}
		for _, e := range q.take() {
			if ctx.Err() != nil {
				return true, ctx.Err()
			}
			if !yield(e) {
				return false, nil
			}
		}
	}
}

// powerAfter translates a lifecycle event (virDomainEventType). What changes no power state is PowerUnknown.
func powerAfter(event, detail int32) compute.PowerState {
	switch golibvirt.DomainEventType(event) {
	case golibvirt.DomainEventStarted, golibvirt.DomainEventResumed:
		return compute.PowerRunning
	case golibvirt.DomainEventSuspended, golibvirt.DomainEventPmsuspended:
		return compute.PowerPaused
	case golibvirt.DomainEventStopped:
		switch golibvirt.DomainEventStoppedDetailType(detail) {
		case golibvirt.DomainEventStoppedCrashed, golibvirt.DomainEventStoppedFailed:
			return compute.PowerCrashed
		}
		return compute.PowerShutoff
	case golibvirt.DomainEventCrashed:
		return compute.PowerCrashed
	}
	return compute.PowerUnknown
}

// afterCrash tells a QEMU that died from one that never came up: the event is the same, the reason for the state is not.
func afterCrash(w wire, d golibvirt.Domain) compute.PowerState {
	if now, err := powerOf(w, d); err == nil && now == compute.PowerCrashed {
		return now
	}
	return compute.PowerShutoff
}

// queue is what the consumer has not seen yet.
type queue struct {
	mu      sync.Mutex
	pending []compute.PowerEvent
	news    chan struct{} // holds a token while pending is not empty
}

func (q *queue) add(e compute.PowerEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) == maxPending {
		q.pending, e = q.pending[:0], compute.PowerEvent{Resync: true}
	}
	q.pending = append(q.pending, e)
	select {
	case q.news <- struct{}{}:
	default:
	}
}

func (q *queue) take() []compute.PowerEvent {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.pending
	q.pending = nil
	return all
}
