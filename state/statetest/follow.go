package statetest

import (
	"context"
	"fmt"

	"github.com/dewpoint-cloud/dewpoint/state"
)

func followRows() []row {
	return []row{
		{
			name: "an empty log",
			rule: "With from 0, the first batch is a snapshot, also when the log is empty",
			check: func(ctx context.Context, b *bench) error {
				return b.holds(ctx, 0, nil)
			},
		},
		{
			name: "snapshot, then batches",
			rule: "Follow yields the state, then every later batch, in order, without a gap",
			check: func(ctx context.Context, b *bench) error {
				if err := b.fill(ctx, 3); err != nil {
					return err
				}
				f := b.follow(ctx, mirror{})
				defer f.stop()
				first, err := f.batch()
				if err == nil && (!first.Snapshot || first.Rev != 3 || len(first.Ops) != 4) {
					err = fmt.Errorf("the first batch is revision %d with %d operations, snapshot %v", first.Rev, len(first.Ops), first.Snapshot)
				}
				if err != nil {
					return err
				}
				for i := range 40 { // one by one, so that it never falls behind
					rev, err := b.commit(ctx, set("a", fmt.Sprint(i)))
					if err != nil {
						return err
					}
					got, err := f.batch()
					if err == nil && (got.Snapshot || got.Rev != rev) {
						err = fmt.Errorf("after revision %d came revision %d, snapshot %v", rev-1, got.Rev, got.Snapshot)
					}
					if err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "from a revision",
			rule: "With a revision the log still remembers, it is the batch after from; with one it has forgotten, it is a snapshot again",
			check: func(ctx context.Context, b *bench) error {
				states := []mirror{{}}
				f := b.follow(ctx, mirror{})
				defer f.stop()
				if err := f.reach(0); err != nil {
					return err
				}
				for i := range 60 {
					rev, err := b.commit(ctx, set("a", fmt.Sprint(i)), set(fmt.Sprint("k", i%7), "x"), remove(fmt.Sprint("k", (i+3)%7)))
					if err != nil {
						return err
					}
					if err := f.reach(rev); err != nil {
						return err
					}
					states = append(states, f.clone())
				}
				last := states[len(states)-1]
				for _, from := range states[:len(states)-1] {
					late := b.follow(ctx, from)
					err := late.reach(last.rev)
					late.stop()
					if err == nil {
						err = late.differs(last)
					}
					if err != nil {
						return fmt.Errorf("from revision %d: %w", from.rev, err)
					}
				}
				// From the last there is nothing yet, and then the next.
				late := b.follow(ctx, last)
				defer late.stop()
				rev, err := b.commit(ctx, set("a", "next"))
				if err != nil {
					return err
				}
				got, err := late.batch()
				if err == nil && (got.Snapshot || got.Rev != rev || len(got.Ops) != 1) {
					err = fmt.Errorf("from revision %d came revision %d with %d operations, snapshot %v", last.rev, got.Rev, len(got.Ops), got.Snapshot)
				}
				return err
			},
		},
		{
			name: "across a reopen",
			rule: "so that a follower never has to tell the cases apart",
			check: func(ctx context.Context, b *bench) error {
				if err := b.fill(ctx, 12); err != nil {
					return err
				}
				from, err := b.now(ctx)
				if err != nil {
					return err
				}
				if err := b.fill(ctx, 3); err != nil {
					return err
				}
				if durable, err := b.reopen(ctx); err != nil || !durable {
					return err
				}
				want, err := b.now(ctx)
				if err != nil {
					return err
				}
				f := b.follow(ctx, from)
				defer f.stop()
				if err := f.reach(15); err != nil {
					return err
				}
				if err := f.differs(want); err != nil {
					return err
				}
				if _, err := b.commit(ctx, set("a", "16")); err != nil {
					return err
				}
				return f.reach(16)
			},
		},
		{
			name: "the future",
			rule: "A revision from the future is an error",
			check: func(ctx context.Context, b *bench) error {
				if err := b.fill(ctx, 2); err != nil {
					return err
				}
				for _, from := range []state.Revision{3, 1000} {
					f := b.follow(ctx, mirror{rev: from})
					got, err, ok := f.next()
					if ok && err != nil {
						_, _, ok = f.next()
						if ok {
							err = nil
						}
					}
					f.stop()
					if err == nil {
						return fmt.Errorf("from revision %d came revision %d, or no end after an error", from, got.Rev)
					}
				}
				return nil
			},
		},
		{
			name: "a slow follower",
			rule: "A follower that is slow never holds up Commit; if it falls too far behind, its next batch is a snapshot",
			check: func(ctx context.Context, b *bench) error {
				slow, slower := b.follow(ctx, mirror{}), b.follow(ctx, mirror{})
				defer slow.stop()
				defer slower.stop()
				for _, f := range []*follower{slow, slower} {
					if err := f.reach(0); err != nil {
						return err
					}
				}
				if err := b.fill(ctx, 50); err != nil {
					return err
				}
				if _, err := b.commit(ctx, remove("own-7")); err != nil {
					return err
				}
				if _, err := slow.batch(); err != nil {
					return err
				}
				if err := b.fill(ctx, 50); err != nil {
					return err
				}
				want, err := b.now(ctx)
				if err != nil {
					return err
				}
				for _, f := range []*follower{slow, slower} {
					if err := f.reach(want.rev); err != nil {
						return err
					}
					if err := f.differs(want); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "what is yielded belongs to the follower",
			rule: "A log keeps not the slices it yields",
			check: func(ctx context.Context, b *bench) error {
				spoiler, f := b.follow(ctx, mirror{}), b.follow(ctx, mirror{})
				defer spoiler.stop()
				defer f.stop()
				spoil := func() error {
					got, err := spoiler.batch()
					for i := range got.Ops {
						got.Ops[i] = set("spoilt", "x")
					}
					return err
				}
				if _, err := b.commit(ctx, set("a", "1"), set("b", "1")); err != nil {
					return err
				}
				if err := spoil(); err != nil {
					return err
				}
				if err := f.reach(1); err != nil {
					return err
				}
				if _, err := b.commit(ctx, set("a", "2"), set("b", "2")); err != nil {
					return err
				}
				if err := spoil(); err != nil {
					return err
				}
				if err := f.reach(2); err != nil {
					return err
				}
				want := map[string]cell{"a": {"2", 2}, "b": {"2", 2}}
				if err := f.differs(mirror{rev: 2, cells: want}); err != nil {
					return err
				}
				return b.holds(ctx, 2, want)
			},
		},
		{
			name: "the end of a context",
			rule: "the sequence ends only when ctx ends, when the consumer stops, or after yielding one error",
			check: func(ctx context.Context, b *bench) error {
				ended, cancel := context.WithCancel(ctx)
				defer cancel()
				f := b.follow(ended, mirror{})
				defer f.stop()
				if err := f.reach(0); err != nil {
					return err
				}
				var work errs
				work.goes(func() error {
					defer cancel()
					_, err := b.commit(ctx, set("a", "1"))
					return err
				})
				defer work.wg.Wait()
				for {
					got, err, ok := f.next()
					switch {
					case !ok && ended.Err() == nil:
						return fmt.Errorf("it ended before its context")
					case !ok:
						return work.wait()
					case err != nil:
						return fmt.Errorf("the end of the context was yielded as an error: %w", err)
					case got.Rev > 1:
						return fmt.Errorf("revision %d was yielded, only 1 was committed", got.Rev)
					}
				}
			},
		},
	}
}
