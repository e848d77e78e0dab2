package compute

import (
	"context"
	"errors"
	"iter"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Event is a change of an instance.
type Event struct {
	Revision state.Revision // of the store, by the change

	// Instance is the instance after the change; if Gone is set, as it was at the last.
	Instance Instance
	Gone     bool // it is terminated, and all that it had is given back

	// Resync says that changes may have been missed; Instance is zero. Who keeps a picture of the instances lists them again:
	// all that changes after Revision is told.
	Resync bool
}

// WatchOptions say what to watch.
type WatchOptions struct {
	AllProjects bool // for administrators

	// After goes on after the event of this revision. 0, and a revision that the store no longer remembers: the first event
	// is a Resync.
	After state.Revision
}

// Watch yields every change of the caller's instances, in their order and without a gap, until ctx ends; then it ends without an
// error. One that does not keep up is told to resync and goes on. It holds up nobody, and costs nothing while nothing
// changes. An error, such as PermissionDenied or a store that was closed, is the last thing it yields.
func (s *Service) Watch(ctx context.Context, o WatchOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		action := "compute:list"
		if o.AllProjects {
			action = "compute:list:all"
		}
		caller, err := s.cfg.Policy.Authorize(ctx, action, "")
		if err != nil {
			yield(Event{}, err)
			return
		}
		from, resync := o.After, o.After == 0
		for {
			if resync {
				from = s.cfg.Store.Revision()
				if !yield(Event{Revision: from, Resync: true}, nil) {
					return
				}
			}
			resync = false
			for changes, err := range s.cfg.Store.Watch(ctx, from) {
				if errors.Is(err, state.ErrResync) {
					resync = true
					break
				}
				if err != nil {
					yield(Event{}, err)
					return
				}
				if ctx.Err() != nil {
					return
				}
				for c := range Instances.Changes(changes) {
					e := Event{Revision: changes.Rev, Gone: c.New == nil}
					if e.Gone {
						e.Instance = *c.Old
					} else {
						e.Instance = *c.New
					}
					if (o.AllProjects || e.Instance.ProjectID == caller.ProjectID) && !yield(e, nil) {
						return
					}
				}
			}
			if !resync {
				return
			}
		}
	}
}
