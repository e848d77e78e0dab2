package statetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/dewpoint-cloud/dewpoint/state"
)

func concurrentRows() []row {
	return []row{
		{
			name: "many writers, many followers",
			rule: "All methods are safe for concurrent use; every follower sees every batch in one order",
			check: func(ctx context.Context, b *bench) error {
				const writers, each = 8, 25
				var work errs
				seen := make([]map[state.Revision]string, 4)
				for i := range seen {
					seen[i] = map[state.Revision]string{}
					work.goes(func() error {
						f := b.follow(ctx, mirror{})
						defer f.stop()
						for f.rev < writers*each || !f.known {
							got, err := f.batch()
							if err != nil {
								return err
							}
							if !got.Snapshot {
								seen[i][got.Rev] = got.Ops[0].Key + "=" + string(got.Ops[0].Value)
							}
						}
						return nil
					})
				}
				wrote := make([]map[state.Revision]string, writers)
				for w := range writers {
					wrote[w] = map[state.Revision]string{}
					work.goes(func() error {
						for i := range each {
							rev, err := b.commit(ctx, set(fmt.Sprint("w", w), fmt.Sprint(i)))
							if err != nil {
								return err
							}
							wrote[w][rev] = fmt.Sprintf("w%d=%d", w, i)
						}
						return nil
					})
				}
				if err := work.wait(); err != nil {
					return err
				}
				all := map[state.Revision]string{}
				for _, some := range wrote {
					for rev, what := range some {
						if all[rev] != "" {
							return fmt.Errorf("revision %d was given to %s and to %s", rev, all[rev], what)
						}
						all[rev] = what
					}
				}
				for _, some := range seen {
					for rev, what := range some {
						if all[rev] != what {
							return fmt.Errorf("revision %d was yielded as %s, Commit returned it for %s", rev, what, all[rev])
						}
					}
				}
				return nil
			},
		},
		{
			name: "linearizable",
			rule: "of concurrent commits under guards each is as if alone",
			check: func(ctx context.Context, b *bench) error {
				var h history
				var work errs
				for c := range 4 {
					rng := rand.New(rand.NewPCG(uint64(c), 1))
					work.goes(func() error {
						var saw [registers]state.Revision
						for range 30 {
							key := rng.IntN(registers)
							if rng.IntN(3) == 0 {
								done := h.begins(c, access{key: key, read: true})
								m, err := b.now(ctx)
								if err != nil {
									return err
								}
								saw[key] = m.cells[fmt.Sprint(key)].rev
								done(outcome{rev: saw[key], last: m.rev})
								continue
							}
							done := h.begins(c, access{key: key, guard: saw[key]})
							rev, err := b.Log.Commit(ctx, state.Batch{Guards: []state.Guard{{Key: fmt.Sprint(key), Rev: saw[key]}}, Ops: []state.Op{set(fmt.Sprint(key), "x")}})
							switch {
							case err == nil:
								saw[key] = rev
								done(outcome{rev: rev})
							case errors.Is(err, state.ErrConflict):
								done(outcome{conflict: true})
							default:
								return err
							}
						}
						return nil
					})
				}
				if err := work.wait(); err != nil {
					return err
				}
				return h.check(guardedRegisters())
			},
		},
		{
			name: "a counter below two stores",
			rule: "a Store decides on what is true, whoever else writes to the log",
			check: func(ctx context.Context, b *bench) error {
				var h history
				var work errs
				stores := make([]*state.Store, 2)
				for i := range stores {
					s, err := state.Open(ctx, state.Config{Log: b.Log, Schema: []state.Schema{counters}})
					if err != nil {
						return err
					}
					defer s.Close()
					defer context.AfterFunc(ctx, func() { _ = s.Close() })() // an Update does not end with its context
					stores[i] = s
				}
				for c := range 6 {
					work.goes(func() error {
						for range 15 {
							n := 0
							done := h.begins(c, access{})
							err := stores[c%2].Update(ctx, func(tx *state.Tx) error {
								old, _ := counters.Get(tx, "n")
								n = old.N + 1
								return counters.Put(tx, counter{"n", n})
							})
							if err != nil {
								return err
							}
							done(outcome{rev: state.Revision(n)})
						}
						return nil
					})
				}
				if err := work.wait(); err != nil {
					return err
				}
				return h.check(countingUp())
			},
		},
	}
}

type counter struct {
	ID string
	N  int
}

var counters = state.NewTable("counter", func(c counter) string { return c.ID })

// errs runs functions at once and joins their errors.
type errs struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	all []error
}

func (e *errs) goes(f func() error) {
	e.wg.Go(func() {
		err := f()
		e.mu.Lock()
		defer e.mu.Unlock()
		e.all = append(e.all, err)
	})
}

func (e *errs) wait() error {
	e.wg.Wait()
	return errors.Join(e.all...)
}

// access is what a client asked of a register.
type access struct {
	key   int
	read  bool
	guard state.Revision
}

// outcome is what it was told.
type outcome struct {
	rev      state.Revision // of the register
	last     state.Revision // of the log, if it was read
	conflict bool
}

// history is what clients did and when.
type history struct {
	mu  sync.Mutex
	ops []porcupine.Operation
}

// begins notes the begin of an operation; done its end.
func (h *history) begins(client int, in access) (done func(outcome)) {
	call := time.Now().UnixNano()
	return func(out outcome) {
		end := time.Now().UnixNano()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
	}
}

func (h *history) check(m porcupine.Model) error {
	switch porcupine.CheckOperationsTimeout(m, h.ops, patience) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("whether the history of %d operations is linearizable could not be found out in %v", len(h.ops), patience)
	}
	return fmt.Errorf("the history of %d operations is not linearizable", len(h.ops))
}

// registers is how many keys the clients share.
const registers = 3

// guardedRegisters is a log as its clients should see it: the last revision of each key, and of the log.
func guardedRegisters() porcupine.Model {
	type world struct {
		key  [registers]state.Revision
		last state.Revision
	}
	return porcupine.Model{
		Init: func() any { return world{} },
		Step: func(s, input, output any) (bool, any) {
			w, in, out := s.(world), input.(access), output.(outcome)
			switch {
			case in.read:
				return w.key[in.key] == out.rev && w.last == out.last, w
			case out.conflict:
				return w.key[in.key] != in.guard, w
			}
			ok := w.key[in.key] == in.guard && out.rev == w.last+1
			w.key[in.key], w.last = out.rev, out.rev
			return ok, w
		},
	}
}

// countingUp is a counter.
func countingUp() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return state.Revision(0) },
		Step: func(s, _, output any) (bool, any) {
			n := s.(state.Revision) + 1
			return output.(outcome).rev == n, n
		},
	}
}
