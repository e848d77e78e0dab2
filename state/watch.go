package state

import (
	"context"
	"iter"
)

// Changes is what one revision changed; the records are read from it with [Table.Changes].
type Changes struct {
	Rev  Revision
	list []change
}

// Watch yields the changes of every revision after from, in order and without a gap. It ends when ctx ends, without an
// error; when the watcher falls more than [Config].History revisions behind, or asks for a revision that far back, it
// yields [ErrResync] and ends: the watcher must then read the whole state again, as [Store.ViewAndWatch] does. A slow
// watcher holds up nobody.
func (s *Store) Watch(ctx context.Context, from Revision) iter.Seq2[Changes, error] {
	return func(yield func(Changes, error) bool) {
		for ch, err := range s.feed.From(ctx, uint64(from)) {
			if err != nil {
				yield(Changes{}, s.watchError(err))
				return
			}
			if !yield(ch, nil) {
				return
			}
		}
	}
}

// ViewAndWatch runs fn on the state as it is now and yields every change after it, without a gap between the two. When
// the watcher falls too far behind, fn is run again on the state as it is then, instead of an error; fn must
// therefore replace what an earlier run made. It ends when ctx ends, or with the first error of fn or of the store.
func (s *Store) ViewAndWatch(ctx context.Context, fn func(v *View) error) iter.Seq2[Changes, error] {
	return func(yield func(Changes, error) bool) {
		for {
			var from Revision
			if err := s.View(func(v *View) error { from = v.Revision(); return fn(v) }); err != nil {
				yield(Changes{}, err)
				return
			}
			resync := false
			for ch, err := range s.Watch(ctx, from) {
				if err == ErrResync {
					resync = true
					break
				}
				if !yield(ch, err) || err != nil {
					return
				}
			}
			if !resync {
				return
			}
		}
	}
}

// Await returns when until says true of the record with this key, which is handed over as it is at the call and after
// every change; found is false while there is none. It ends early with ctx's error, with until's, or when the store
// is closed. Waiting costs nothing while the record does not change.
func (t *Table[T]) Await(ctx context.Context, s *Store, key string, until func(rec T, found bool) (bool, error)) error {
	for {
		rows := s.db.Txn(false)
		changed, obj, err := rows.FirstWatch(t.name, "id", key)
		rows.Abort()
		if err != nil {
			return err
		}
		var rec T
		if obj != nil {
			rec = t.clone(obj.(*entry).val.(T))
		}
		if done, err := until(rec, obj != nil); done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return s.ended()
		}
	}
}
