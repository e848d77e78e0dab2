package statetest

import (
	"context"
	"fmt"

	"github.com/dewpoint-cloud/dewpoint/state"
)

func guardRows() []row {
	return []row{
		{
			name: "guards that hold",
			rule: "Commit appends b when every guard in it still holds",
			check: func(ctx context.Context, b *bench) error {
				for i, batch := range []state.Batch{
					{Guards: []state.Guard{{Key: "a"}, {Key: "b"}}, Ops: []state.Op{set("a", "1")}},
					{Guards: []state.Guard{{Key: "a", Rev: 1}, {Key: "b"}}, Ops: []state.Op{set("b", "2")}},
					{Guards: []state.Guard{{Key: "a", Rev: 1}, {Key: "b", Rev: 2}}, Ops: []state.Op{set("b", "3"), remove("a")}},
					{Guards: []state.Guard{{Key: "a"}, {Key: "b", Rev: 3}}, Ops: []state.Op{set("a", "4")}},
					{Guards: []state.Guard{{Key: "a", Rev: 4}, {Key: "a", Rev: 4}}, Ops: []state.Op{set("c", "5")}},
				} {
					rev, err := b.Log.Commit(ctx, batch)
					if err == nil && rev != state.Revision(i+1) {
						err = fmt.Errorf("it got revision %d", rev)
					}
					if err != nil {
						return fmt.Errorf("batch %d: %w", i+1, err)
					}
				}
				return b.holds(ctx, 5, map[string]cell{"a": {"4", 4}, "b": {"3", 3}, "c": {"5", 5}})
			},
		},
		{
			name: "guards that no longer hold",
			rule: "A guard that no longer holds is ErrConflict, and nothing was written",
			check: func(ctx context.Context, b *bench) error {
				for _, op := range []state.Op{set("a", "1"), set("b", "2"), set("a", "3"), remove("b"), set("c", "5")} {
					if _, err := b.commit(ctx, op); err != nil {
						return err
					}
				}
				for _, g := range []state.Guard{{Key: "a"}, {Key: "a", Rev: 1}, {Key: "a", Rev: 2}, {Key: "a", Rev: 4}, {Key: "b", Rev: 2}, {Key: "b", Rev: 4},
					{Key: "none", Rev: 1}, {Key: "c", Rev: 6}, {Key: "c", Rev: 1 << 40}} {
					for _, guards := range [][]state.Guard{{g}, {g, {Key: "c", Rev: 5}}, {{Key: "c", Rev: 5}, {Key: "none2"}, g}} {
						_, err := b.Log.Commit(ctx, state.Batch{Guards: guards, Ops: []state.Op{set("a", "wrong"), set("d", "wrong")}})
						if err := class(fmt.Sprintf("Commit under %v", guards), err, state.ErrConflict); err != nil {
							return err
						}
					}
				}
				if err := b.holds(ctx, 5, map[string]cell{"a": {"3", 3}, "c": {"5", 5}}); err != nil {
					return err
				}
				rev, err := b.commit(ctx, set("e", "6"))
				if err == nil && rev != 6 {
					err = fmt.Errorf("a conflict took a revision: the next batch got %d, want 6", rev)
				}
				return err
			},
		},
	}
}
