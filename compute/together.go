package compute

import (
	"context"
	"fmt"

	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// together makes one step of several, for those between which nothing needs to be recorded: it saves a transaction for
// each. They are done in order and undone in the opposite order. After a death all of them are done again, and what is
// undone is all of them, however far they had come; so each Do must be safe to repeat and each Undo safe where there was no
// Do. None may have a Then or a Back.
func (a *Agent) together(kind, name string, parts ...operation.Step[work]) operation.Step[work] {
	all := operation.Step[work]{Name: name}
	undoes := 0
	for _, p := range parts {
		if p.Then != nil || p.Back != nil {
			panic("compute: step " + p.Name + " has an effect in the store and can't be a part of another")
		}
		if p.Undo != nil {
			undoes++
		}
	}
	all.Do = func(ctx context.Context, w *work) error {
		for n, p := range parts {
			if err := a.between(n, kind, "do", p.Name); err != nil {
				return err
			}
			if err := p.Do(ctx, w); err != nil {
				return named(ctx, p.Name, err)
			}
		}
		return nil
	}
	if undoes == 0 {
		return all
	}
	all.Undo = func(ctx context.Context, w *work) error {
		for n := range parts {
			p := parts[len(parts)-1-n]
			if p.Undo == nil {
				continue
			}
			if err := a.between(n, kind, "undo", p.Name); err != nil {
				return err
			}
			if err := p.Undo(ctx, w); err != nil {
				return named(ctx, p.Name, err)
			}
		}
		return nil
	}
	return all
}

// between lets a test kill the agent between two parts of a step.
func (a *Agent) between(n int, kind, what, part string) error {
	if n == 0 || a.cfg.Hooks.Point == nil {
		return nil
	}
	return a.cfg.Hooks.Point(operation.Record{Kind: kind}, "between parts, before "+what+" "+part)
}

// named says which part failed; an error of the context stays what it is.
func named(ctx context.Context, part string, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%s: %w", part, err)
}
