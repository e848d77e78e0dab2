package dewpoint

import (
	"context"
	"errors"
	"iter"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Event is a change of one record that callers know. Exactly one of the fields after Revision is set.
type Event struct {
	// Revision is that of the store by the change. What one transaction changed together has one revision; Last is set in
	// the last event of it that the watcher gets, from which it is safe to go on.
	Revision state.Revision
	Last     bool

	Instance *state.TableChange[compute.Instance]
	Image    *state.TableChange[image.Image]
	Network  *state.TableChange[network.Network]
	Port     *state.TableChange[network.Port]
	Volume   *state.TableChange[volume.Volume]
	Snapshot *state.TableChange[volume.Snapshot]

	// Resync says that changes may have been missed. Who keeps a picture of the records reads them again: all that changes
	// after Revision is told.
	Resync bool
}

// EventOptions say what [Services.Events] yields.
type EventOptions struct {
	AllProjects bool // for administrators

	// After goes on after the events of this revision. 0, and a revision that the store no longer remembers: the first event
	// is a Resync.
	After state.Revision
}

// Events yields every change of the records of the caller's project, and of those that belong to no project, in their order
// and without a gap, until ctx ends; then it ends without an error. A program that keeps the Revision of the last event
// that was Last, somewhere that outlives it, and begins with it as After, misses nothing while it is away: a store remembers
// some thousand revisions, and if that was not enough, says so by a Resync. So does a watcher that does not keep up; it
// holds up nobody. An error, such as PermissionDenied or a store that was closed, is the last thing that is yielded.
//
// A change that takes a record out of the project is told with that record as it was; see [state.TableChange].
func (s *Services) Events(ctx context.Context, o EventOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		action := "event:list"
		if o.AllProjects {
			action = "event:list:all"
		}
		caller, err := s.policy.Authorize(ctx, action, "")
		if err != nil {
			yield(Event{}, err)
			return
		}
		from, resync := o.After, o.After == 0
		for {
			if resync {
				from = s.Store.Revision()
				if !yield(Event{Revision: from, Last: true, Resync: true}, nil) {
					return
				}
			}
			resync = false
			for changes, err := range s.Store.Watch(ctx, from) {
				if errors.Is(err, state.ErrResync) {
					resync = true
					break
				}
				if err != nil {
					yield(Event{}, err)
					return
				}
				all := eventsOf(changes, caller, o.AllProjects)
				for n, e := range all {
					e.Revision, e.Last = changes.Rev, n == len(all)-1
					if ctx.Err() != nil || !yield(e, nil) {
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

// eventsOf returns what a revision changed of what the caller may see.
func eventsOf(changes state.Changes, caller auth.Caller, all bool) (events []Event) {
	mine := func(projects ...string) bool {
		for _, p := range projects {
			if all || p == "" || p == caller.ProjectID {
				return true
			}
		}
		return false
	}
	for c := range compute.Instances.Changes(changes) {
		if mine(projectsOf(c, func(i compute.Instance) string { return i.ProjectID })...) {
			events = append(events, Event{Instance: &c})
		}
	}
	for c := range image.Images.Changes(changes) {
		if mine(projectsOf(c, func(i image.Image) string { return i.ProjectID })...) {
			events = append(events, Event{Image: &c})
		}
	}
	for c := range network.Networks.Changes(changes) {
		if mine(projectsOf(c, func(n network.Network) string { return n.ProjectID })...) {
			events = append(events, Event{Network: &c})
		}
	}
	for c := range network.Ports.Changes(changes) {
		if mine(projectsOf(c, func(p network.Port) string { return p.ProjectID })...) {
			events = append(events, Event{Port: &c})
		}
	}
	for c := range volume.Volumes.Changes(changes) {
		if mine(projectsOf(c, func(v volume.Volume) string { return v.ProjectID })...) {
			events = append(events, Event{Volume: &c})
		}
	}
	for c := range volume.Snapshots.Changes(changes) {
		if mine(projectsOf(c, func(s volume.Snapshot) string { return s.ProjectID })...) {
			events = append(events, Event{Snapshot: &c})
		}
	}
	return events
}

// projectsOf returns whose a record was, and whose it is.
func projectsOf[T any](c state.TableChange[T], project func(T) string) (all []string) {
	for _, rec := range []*T{c.Old, c.New} {
		if rec != nil {
			all = append(all, project(*rec))
		}
	}
	return all
}
