package statetest

import (
	"context"
	"errors"
	"fmt"

	"pgregory.net/rapid"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// plan is a random use of a log.
type plan []step

// step is one commit, read or reopening of a plan.
type step struct {
	Keys   []int // what is written: a key, negative for its removal
	Guards []int // what is guarded: a key, negative if the guard shall be wrong
	Read   bool  // a follower that lags behind reads up to now
	Reopen bool
}

const modelKeys = 5

var plans = rapid.Custom(func(t *rapid.T) plan {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		key := rapid.IntRange(1, modelKeys)
		sign := rapid.SampledFrom([]int{1, 1, 1, -1})
		signed := rapid.Custom(func(t *rapid.T) int { return key.Draw(t, "key") * sign.Draw(t, "sign") })
		abs := func(k int) int { return max(k, -k) }
		return step{
			Keys:   rapid.SliceOfNDistinct(signed, 1, 4, abs).Draw(t, "keys"),
			Guards: rapid.SliceOfNDistinct(signed, 0, 3, abs).Draw(t, "guards"),
			Read:   rapid.IntRange(0, 7).Draw(t, "read") == 0,
			Reopen: rapid.IntRange(0, 15).Draw(t, "reopen") == 0,
		}
	}), 1, 40).Draw(t, "steps")
})

// row is the plan as a row of the suite.
func (p plan) row() row {
	return row{name: "model", rule: "a log is a map with a history", check: func(ctx context.Context, b *bench) error {
		states := []mirror{{cells: map[string]cell{}}} // by revision
		lagging := b.follow(ctx, mirror{})
		defer func() { lagging.stop() }()
		for i, s := range p {
			next, err := s.commit(ctx, b, states[len(states)-1])
			if err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
			if next != nil {
				states = append(states, *next)
			}
			last := states[len(states)-1]
			if s.Read {
				if err := lagging.reach(last.rev); err != nil {
					return fmt.Errorf("step %d: %w", i, err)
				}
				if err := lagging.differs(last); err != nil {
					return fmt.Errorf("step %d: the lagging follower: %w", i, err)
				}
			}
			if s.Reopen {
				lagging.stop()
				if _, err := b.reopen(ctx); err != nil {
					return err
				}
				lagging = b.follow(ctx, lagging.mirror)
			}
		}
		last := states[len(states)-1]
		for _, from := range states {
			f := b.follow(ctx, from)
			err := f.reach(last.rev)
			f.stop()
			if err == nil {
				err = f.differs(last)
			}
			if err != nil {
				return fmt.Errorf("a follower from revision %d: %w", from.rev, err)
			}
		}
		return nil
	}}
}

// commit does one step's commit and returns the state after it, nil if it was to be refused and was.
func (s step) commit(ctx context.Context, b *bench, now mirror) (*mirror, error) {
	next := now.clone()
	next.rev++
	var batch state.Batch
	for i, k := range s.Keys {
		key := fmt.Sprint("k", max(k, -k))
		if k < 0 {
			batch.Ops = append(batch.Ops, remove(key))
			delete(next.cells, key)
			continue
		}
		value := fmt.Sprint(next.rev, "/", i)
		batch.Ops = append(batch.Ops, set(key, value))
		next.cells[key] = cell{value, next.rev}
	}
	conflict := false
	for i, k := range s.Guards {
		g := state.Guard{Key: fmt.Sprint("k", max(k, -k))}
		g.Rev = now.cells[g.Key].rev
		switch {
		case k < 0 && g.Rev > 0 && i%2 == 0:
			g.Rev, conflict = 0, true
		case k < 0:
			g.Rev, conflict = g.Rev+1, true
		}
		batch.Guards = append(batch.Guards, g)
	}
	rev, err := b.Log.Commit(ctx, batch)
	switch {
	case conflict && errors.Is(err, state.ErrConflict):
		return nil, nil
	case conflict:
		return nil, fmt.Errorf("commit under wrong guards returned revision %d, error %v", rev, err)
	case err != nil:
		return nil, err
	case rev != next.rev:
		return nil, fmt.Errorf("commit returned revision %d, want %d", rev, next.rev)
	}
	return &next, nil
}
