package statetest

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

func commitRows() []row {
	return []row{
		{
			name: "revisions",
			rule: "Commit returns the revision it got, which is above that of every batch before, and one above it if the log counts by itself",
			check: func(ctx context.Context, b *bench) error {
				for i := range 20 {
					rev, err := b.commit(ctx, set("a", fmt.Sprint(i)))
					if err == nil && rev != state.Revision(i+1) {
						err = fmt.Errorf("batch %d got revision %d", i+1, rev)
					}
					if err != nil {
						return err
					}
				}
				return b.holds(ctx, 20, map[string]cell{"a": {"19", 20}})
			},
		},
		{
			name: "all of a batch",
			rule: "changes that happen together or not at all",
			check: func(ctx context.Context, b *bench) error {
				live := b.follow(ctx, mirror{})
				defer live.stop()
				if err := live.reach(0); err != nil {
					return err
				}
				if _, err := b.commit(ctx, set("a", "1"), set("b", "1"), set("c", "1")); err != nil {
					return err
				}
				if _, err := b.commit(ctx, set("b", "2"), remove("a"), set("d", "2"), remove("none")); err != nil {
					return err
				}
				got, err := live.batch()
				if err == nil && len(got.Ops) != 3 {
					err = fmt.Errorf("batch 1 was yielded with %d operations, want 3", len(got.Ops))
				}
				if err != nil {
					return err
				}
				if err := live.reach(2); err != nil {
					return err
				}
				want := mirror{rev: 2, cells: map[string]cell{"b": {"2", 2}, "c": {"1", 1}, "d": {"2", 2}}}
				if err := live.differs(want); err != nil {
					return err
				}
				return b.holds(ctx, 2, want.cells)
			},
		},
		{
			name: "removing what is not there",
			rule: "removing an absent key is no error",
			check: func(ctx context.Context, b *bench) error {
				rev, err := b.commit(ctx, remove("a"))
				if err != nil || rev != 1 {
					return fmt.Errorf("got revision %d, error %v", rev, err)
				}
				return b.holds(ctx, 1, nil)
			},
		},
		{
			name: "any bytes",
			rule: "a key is a string and a value is bytes, whatever they are",
			check: func(ctx context.Context, b *bench) error {
				cells := map[string]cell{}
				var ops []state.Op
				for _, s := range []string{"/", "a/b", "ä", "\xff\xfe", strings.Repeat("k", 2000), " ", "A", "a"} {
					ops = append(ops, set(s, s+"\x00\x01"), set(s+"-empty", ""))
					cells[s], cells[s+"-empty"] = cell{s + "\x00\x01", 1}, cell{"", 1}
				}
				ops = append(ops, set("large", strings.Repeat("v", 300_000)))
				cells["large"] = cell{strings.Repeat("v", 300_000), 1}
				if _, err := b.commit(ctx, ops...); err != nil {
					return err
				}
				return b.holds(ctx, 1, cells)
			},
		},
		{
			name: "durable",
			rule: "The batch is durable before Commit returns",
			check: func(ctx context.Context, b *bench) error {
				if err := b.fill(ctx, 5); err != nil {
					return err
				}
				if _, err := b.commit(ctx, remove("own-3"), set("last", "6")); err != nil {
					return err
				}
				before, err := b.now(ctx)
				if err != nil {
					return err
				}
				for range 2 {
					durable, err := b.reopen(ctx)
					if err != nil || !durable {
						return err
					}
					if err := b.holds(ctx, 6, before.cells); err != nil {
						return fmt.Errorf("opened again: %w", err)
					}
				}
				rev, err := b.Log.Commit(ctx, state.Batch{Guards: []state.Guard{{Key: "shared", Rev: 5}}, Ops: []state.Op{set("shared", "7")}})
				if err == nil && rev != 7 {
					err = fmt.Errorf("the first commit after opening again got revision %d, want 7", rev)
				}
				return err
			},
		},
		{
			name: "in every later Follow",
			rule: "The batch is in every later Follow before Commit returns",
			check: func(ctx context.Context, b *bench) error {
				known := mirror{}
				for i := range 30 {
					if i > 0 {
						var err error
						if known, err = b.now(ctx); err != nil {
							return err
						}
					}
					rev, err := b.commit(ctx, set("a", fmt.Sprint(i)))
					if err != nil {
						return err
					}
					if err := b.holds(ctx, rev, map[string]cell{"a": {fmt.Sprint(i), rev}}); err != nil {
						return err
					}
					late := b.follow(ctx, known)
					_, err = late.batch()
					late.stop()
					if err == nil && late.rev != rev {
						err = fmt.Errorf("a follower from %d was given revision %d, want %d", known.rev, late.rev, rev)
					}
					if err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "invalid batches",
			rule: "A batch with no operations, an empty key, or two operations on one key is an invalid argument",
			check: func(ctx context.Context, b *bench) error {
				for what, bad := range map[string]state.Batch{
					"no operations":         {},
					"guards alone":          {Guards: []state.Guard{{Key: "a"}}},
					"an empty key":          {Ops: []state.Op{set("a", "1"), set("", "1")}},
					"an empty guard":        {Guards: []state.Guard{{}}, Ops: []state.Op{set("a", "1")}},
					"two on one key":        {Ops: []state.Op{set("a", "1"), set("a", "2")}},
					"two removals of a key": {Ops: []state.Op{remove("a"), remove("a")}},
				} {
					_, err := b.Log.Commit(ctx, bad)
					if err := class("Commit of a batch with "+what, err, errdefs.ErrInvalidArgument); err != nil {
						return err
					}
				}
				return b.holds(ctx, 0, nil)
			},
		},
		{
			name: "ended context",
			rule: "A context that ends before the append began leaves nothing behind",
			check: func(ctx context.Context, b *bench) error {
				ended, cancel := context.WithCancel(ctx)
				cancel()
				_, err := b.commit(ended, set("a", "1"))
				if err := class("Commit with an ended context", err, context.Canceled); err != nil {
					return err
				}
				return b.holds(ctx, 0, nil)
			},
		},
		{
			name: "slices of the caller",
			rule: "A log keeps not the slices it is handed",
			check: func(ctx context.Context, b *bench) error {
				live := b.follow(ctx, mirror{})
				defer live.stop()
				if err := live.reach(0); err != nil {
					return err
				}
				value := []byte("right")
				ops := []state.Op{{Key: "a", Value: value}, set("b", "right")}
				if _, err := b.commit(ctx, ops...); err != nil {
					return err
				}
				copy(value, "wrong")
				ops[1] = set("c", "wrong")
				if err := live.reach(1); err != nil {
					return err
				}
				want := map[string]cell{"a": {"right", 1}, "b": {"right", 1}}
				if err := live.differs(mirror{rev: 1, cells: want}); err != nil {
					return err
				}
				return b.holds(ctx, 1, want)
			},
		},
	}
}
