package computetest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

func eventRows() []row {
	return []row{
		{
			name: "the first event",
			rule: "After every (re)connection to the hypervisor, the first one included, it first yields one event with Resync set",
			check: func(ctx context.Context, e *bench) error {
				_, end, err := e.watch(ctx)
				if err != nil {
					return err
				}
				return end()
			},
		},
		{
			name: "events of calls",
			rule: "Events yields a change of power state soon after it happened, of every domain of the hypervisor; the last one of a domain that is destroyed is [PowerShutoff].",
			check: func(ctx context.Context, e *bench) error {
				events, end, err := e.watch(ctx)
				if err != nil {
					return err
				}
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.sees(events, m.ID, compute.PowerRunning) },
					func() error { return e.Driver.Pause(ctx, m.ID) },
					func() error { return e.sees(events, m.ID, compute.PowerPaused) },
					func() error { return e.Driver.Resume(ctx, m.ID) },
					func() error { return e.sees(events, m.ID, compute.PowerRunning) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.sees(events, m.ID, compute.PowerShutoff) },
					func() error { return e.Driver.Start(ctx, m.ID) },
					func() error { return e.sees(events, m.ID, compute.PowerRunning) },
					func() error { return e.Driver.Destroy(ctx, m.ID, m.Epoch) },
					func() error { return e.sees(events, m.ID, compute.PowerShutoff) },
					end,
				)
			},
		},
		{
			name:  "the event of a guest that powers off",
			rule:  "Events yields a change of power state soon after it happened, of every domain of the hypervisor; the last one of a domain that is destroyed is [PowerShutoff].",
			needs: func(e Env) bool { return e.PowerOff != nil },
			check: func(ctx context.Context, e *bench) error {
				events, end, err := e.watch(ctx)
				if err != nil {
					return err
				}
				m, err := e.ready(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.sees(events, m.ID, compute.PowerRunning) },
					func() error { return e.PowerOff(m.ID) },
					func() error { return e.sees(events, m.ID, compute.PowerShutoff) },
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
					end,
				)
			},
		},
		{
			name:  "the event of a crash",
			rule:  "A machine that crashed is shut off in all respects; only [Domain.Power] and the event tell the difference.",
			needs: func(e Env) bool { return e.Crash != nil },
			check: func(ctx context.Context, e *bench) error {
				events, end, err := e.watch(ctx)
				if err != nil {
					return err
				}
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Crash(m.ID) },
					func() error { return e.sees(events, m.ID, compute.PowerCrashed) },
					end,
				)
			},
		},
		{
			name:  "a hypervisor that restarts",
			rule:  "It ends when ctx ends, and without an error then; it reconnects by itself, with back-off, and never ends otherwise.",
			needs: func(e Env) bool { return e.Restart != nil },
			check: func(ctx context.Context, e *bench) error {
				events, end, err := e.watch(ctx)
				if err != nil {
					return err
				}
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				return all(
					e.Restart,
					func() error { return e.seesOneOf(events, compute.PowerEvent{Resync: true}) },
					func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { // the event, or the news that it may have been missed
						return e.seesOneOf(events, compute.PowerEvent{ID: m.ID, Power: compute.PowerShutoff}, compute.PowerEvent{Resync: true})
					},
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
					end,
				)
			},
		},
		{
			name: "a slow consumer",
			rule: "A consumer that is slow delays events but no other call",
			check: func(ctx context.Context, e *bench) error {
				slow, cancel := context.WithCancel(ctx)
				defer cancel()
				stuck, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
				go func() {
					defer close(ended)
					for range e.Driver.Events(slow) {
						close(stuck)
						<-release
						return
					}
				}()
				defer func() { close(release); <-ended }()
				select {
				case <-stuck:
				case <-time.After(e.Patience):
					return fmt.Errorf("no event within %v", e.Patience)
				}
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				short, stop := context.WithTimeout(ctx, 2*e.Patience)
				defer stop()
				for range 30 {
					if err := all(
						func() error { return e.Driver.Pause(short, m.ID) },
						func() error { return e.Driver.Resume(short, m.ID) },
					); err != nil {
						return err
					}
				}
				return nil
			},
		},
	}
}

// watch follows the events until ctx ends or end is called, which checks that they end. It returns after the first.
func (e *bench) watch(ctx context.Context) (events <-chan compute.PowerEvent, end func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	all, ended := make(chan compute.PowerEvent, 1000), make(chan struct{})
	go func() {
		defer close(ended)
		for event := range e.Driver.Events(ctx) {
			select {
			case all <- event:
			case <-ctx.Done():
			}
		}
	}()
	end = func() error {
		select {
		case <-ended:
			return fmt.Errorf("the events ended before their context")
		default:
		}
		cancel()
		select {
		case <-ended:
			return nil
		case <-time.After(e.Patience):
			return fmt.Errorf("the events did not end within %v of their context", e.Patience)
		}
	}
	select {
	case first := <-all:
		if first != (compute.PowerEvent{Resync: true}) {
			err = fmt.Errorf("the first event is %+v", first)
		}
	case <-time.After(e.Patience):
		err = fmt.Errorf("no event within %v", e.Patience)
	}
	if err != nil {
		cancel()
	}
	return all, end, err
}

func (e *bench) sees(events <-chan compute.PowerEvent, id string, want compute.PowerState) error {
	return e.seesOneOf(events, compute.PowerEvent{ID: id, Power: want})
}

// seesOneOf waits for an event and skips what comes before it.
func (e *bench) seesOneOf(events <-chan compute.PowerEvent, want ...compute.PowerEvent) error {
	patience := time.After(e.Patience)
	var seen []compute.PowerEvent
	for {
		select {
		case got := <-events:
			if slices.Contains(want, got) {
				return nil
			}
			seen = append(seen, got)
		case <-patience:
			return fmt.Errorf("none of the events %+v within %v, but %+v", want, e.Patience, seen)
		}
	}
}
