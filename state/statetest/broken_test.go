package statetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broken is a log with one fault.
type broken struct {
	state.Log
	commit func(ctx context.Context, b state.Batch) (state.Revision, error)
	follow func(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error]
	close  func() error
}

func (b broken) Commit(ctx context.Context, batch state.Batch) (state.Revision, error) {
	if b.commit == nil {
		return b.Log.Commit(ctx, batch)
	}
	return b.commit(ctx, batch)
}

func (b broken) Follow(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
	if b.follow == nil {
		return b.Log.Follow(ctx, from)
	}
	return b.follow(ctx, from)
}

func (b broken) Close() error {
	if b.close == nil {
		return b.Log.Close()
	}
	return b.close()
}

// onBatch changes what is yielded; n counts the batches of one follower.
func onBatch(log state.Log, change func(n int, b *state.Batch) (keep bool)) broken {
	return broken{Log: log, follow: func(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
		return func(yield func(state.Batch, error) bool) {
			n := 0
			for b, err := range log.Follow(ctx, from) {
				if err == nil && !change(n, &b) {
					n++
					continue
				}
				n++
				if !yield(b, err) {
					return
				}
			}
		}
	}}
}

// kept is what a log that reopens leaves: the same log in memory, with what a fault does at its close.
type kept struct {
	*memstate.Log
	shut bool
}

func (k *kept) Close() error { k.shut = true; return nil }

// faults are logs with one fault each, which remember so many batches.
func faults(history int) map[string]func() Subject {
	mem := func() *memstate.Log { return memstate.New(memstate.Config{History: history}) }
	simple := func(f func(log *memstate.Log) state.Log) func() Subject {
		return func() Subject { return Subject{Log: f(mem())} }
	}
	return map[string]func() Subject{
		"loses a batch": simple(func(log *memstate.Log) state.Log {
			var mu sync.Mutex
			n := 0
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				mu.Lock()
				defer mu.Unlock()
				if n++; n%11 == 0 && state.CheckBatch(b) == nil && len(b.Guards) == 0 {
					b.Ops = []state.Op{{Key: "nothing", Delete: true}}
				}
				return log.Commit(ctx, b)
			}}
		}),
		"skips a batch when it yields": simple(func(log *memstate.Log) state.Log {
			return onBatch(log, func(n int, b *state.Batch) bool { return b.Snapshot || n != 3 })
		}),
		"yields a batch twice": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, follow: func(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
				return func(yield func(state.Batch, error) bool) {
					for b, err := range log.Follow(ctx, from) {
						if !yield(b, err) || (err == nil && !b.Snapshot && b.Rev%5 == 0 && !yield(b, err)) {
							return
						}
					}
				}
			}}
		}),
		"ignores guards": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				if err := state.CheckBatch(b); err != nil {
					return 0, err
				}
				b.Guards = nil
				return log.Commit(ctx, b)
			}}
		}),
		"looks only at the first guard": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				if err := state.CheckBatch(b); err != nil {
					return 0, err
				}
				b.Guards = b.Guards[:min(1, len(b.Guards))]
				return log.Commit(ctx, b)
			}}
		}),
		"ignores guards that say must not exist": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				if err := state.CheckBatch(b); err != nil {
					return 0, err
				}
				var some []state.Guard
				for _, g := range b.Guards {
					if g.Rev != 0 {
						some = append(some, g)
					}
				}
				b.Guards = some
				return log.Commit(ctx, b)
			}}
		}),
		"checks guards, then waits, then commits": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				if err := state.CheckBatch(b); err != nil {
					return 0, err
				}
				for s := range log.Follow(ctx, 0) {
					have := map[string]state.Revision{}
					for _, op := range s.Ops {
						have[op.Key] = op.Rev
					}
					for _, g := range b.Guards {
						if have[g.Key] != g.Rev {
							return 0, state.ErrConflict
						}
					}
					break
				}
				time.Sleep(100 * time.Microsecond)
				b.Guards = nil
				return log.Commit(ctx, b)
			}}
		}),
		"a conflict takes a revision": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				rev, err := log.Commit(ctx, b)
				if errors.Is(err, state.ErrConflict) {
					_, _ = log.Commit(ctx, state.Batch{Ops: []state.Op{{Key: "conflict", Delete: true}}})
				}
				return rev, err
			}}
		}),
		"a conflict has the wrong class": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				rev, err := log.Commit(ctx, b)
				if errors.Is(err, state.ErrConflict) {
					err = errors.New("conflict")
				}
				return rev, err
			}}
		}),
		"Commit returns before Follow shows it": simple(func(log *memstate.Log) state.Log {
			turn := make(chan struct{}, 1)
			rev := state.Revision(0)
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				turn <- struct{}{}
				if len(b.Guards) > 0 || state.CheckBatch(b) != nil || ctx.Err() != nil {
					defer func() { <-turn }()
					got, err := log.Commit(ctx, b)
					rev = max(rev, got)
					return got, err
				}
				rev++
				b.Ops = append([]state.Op(nil), b.Ops...)
				for i := range b.Ops {
					b.Ops[i].Value = append([]byte(nil), b.Ops[i].Value...)
				}
				got := rev
				go func() {
					time.Sleep(time.Millisecond)
					_, _ = log.Commit(context.Background(), b)
					<-turn
				}()
				return got, nil
			}, close: func() error {
				turn <- struct{}{}
				defer func() { <-turn }()
				return log.Close()
			}}
		}),
		"a snapshot lacks a key": simple(func(log *memstate.Log) state.Log {
			return onBatch(log, func(_ int, b *state.Batch) bool {
				if b.Snapshot && len(b.Ops) > 1 {
					b.Ops = b.Ops[1:]
				}
				return true
			})
		}),
		"a snapshot has the revision of now everywhere": simple(func(log *memstate.Log) state.Log {
			return onBatch(log, func(_ int, b *state.Batch) bool {
				for i := range b.Ops {
					b.Ops[i].Rev = b.Rev
				}
				return true
			})
		}),
		"no snapshot when it is empty": simple(func(log *memstate.Log) state.Log {
			return onBatch(log, func(_ int, b *state.Batch) bool { return len(b.Ops) > 0 })
		}),
		"a batch is yielded in two halves": simple(func(log *memstate.Log) state.Log {
			return onBatch(log, func(_ int, b *state.Batch) bool {
				if !b.Snapshot && len(b.Ops) > 1 {
					b.Ops = b.Ops[:len(b.Ops)-1]
				}
				return true
			})
		}),
		"a follower that is behind skips to now without a snapshot": simple(func(log *memstate.Log) state.Log {
			return onBatch(log, func(n int, b *state.Batch) bool {
				if n > 0 {
					b.Snapshot = false
				}
				return true
			})
		}),
		"yields guards": simple(func(log *memstate.Log) state.Log {
			return onBatch(log, func(_ int, b *state.Batch) bool {
				b.Guards = []state.Guard{{Key: "a", Rev: 1}}
				return true
			})
		}),
		"yields what it keeps": simple(func(log *memstate.Log) state.Log {
			var mu sync.Mutex
			shared := map[state.Revision][]state.Op{}
			return onBatch(log, func(_ int, b *state.Batch) bool {
				mu.Lock()
				defer mu.Unlock()
				if b.Snapshot {
					return true
				}
				if shared[b.Rev] == nil {
					shared[b.Rev] = b.Ops
				}
				b.Ops = shared[b.Rev]
				return true
			})
		}),
		"keeps what it is handed": simple(func(log *memstate.Log) state.Log {
			var mu sync.Mutex
			handed := map[state.Revision][]state.Op{}
			l := onBatch(log, func(_ int, b *state.Batch) bool {
				mu.Lock()
				defer mu.Unlock()
				for i, op := range handed[b.Rev] {
					if !b.Snapshot {
						b.Ops[i].Value = op.Value
					}
				}
				return true
			})
			l.commit = func(ctx context.Context, b state.Batch) (state.Revision, error) {
				mu.Lock()
				defer mu.Unlock()
				rev, err := log.Commit(ctx, b)
				handed[rev] = b.Ops
				return rev, err
			}
			return l
		}),
		"takes invalid batches": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				seen := map[string]bool{}
				var some []state.Op
				for _, op := range b.Ops {
					if !seen[op.Key] {
						some = append(some, op)
					}
					seen[op.Key] = true
				}
				b.Ops = some
				return log.Commit(ctx, b)
			}}
		}),
		"commits after its context has ended": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
				rev, err := log.Commit(context.WithoutCancel(ctx), b)
				return rev, errors.Join(err, ctx.Err())
			}}
		}),
		"yields the end of the context as an error": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, follow: func(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
				return func(yield func(state.Batch, error) bool) {
					for b, err := range log.Follow(ctx, from) {
						if !yield(b, err) {
							return
						}
					}
					if ctx.Err() != nil {
						yield(state.Batch{}, ctx.Err())
					}
				}
			}}
		}),
		"waits for the future": simple(func(log *memstate.Log) state.Log {
			return broken{Log: log, follow: func(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
				return func(yield func(state.Batch, error) bool) {
					for b, err := range log.Follow(ctx, from) {
						if err != nil && !errors.Is(err, state.ErrClosed) {
							<-ctx.Done()
							return
						}
						if !yield(b, err) {
							return
						}
					}
				}
			}}
		}),
		"a slow follower holds up Commit": simple(func(log *memstate.Log) state.Log {
			var mu sync.RWMutex
			return broken{Log: log,
				commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
					for !mu.TryLock() {
						if ctx.Err() != nil {
							return 0, ctx.Err()
						}
						time.Sleep(time.Millisecond)
					}
					defer mu.Unlock()
					return log.Commit(ctx, b)
				},
				follow: func(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
					return func(yield func(state.Batch, error) bool) {
						mu.RLock()
						defer mu.RUnlock()
						for b, err := range log.Follow(ctx, from) {
							if !yield(b, err) {
								return
							}
						}
					}
				}}
		}),
		"commits after Close": func() Subject {
			log := mem()
			return Subject{Log: broken{Log: log, close: func() error { return nil }}}
		},
		"a second close is an error": func() Subject {
			log, n := mem(), 0
			return Subject{Log: broken{Log: log, close: func() error {
				_ = log.Close()
				if n++; n == 2 {
					return errors.New("closed twice")
				}
				return nil
			}}}
		},
		"loses its last batch when it is opened again": func() Subject {
			open := func(log *memstate.Log) state.Log { return &kept{Log: log} }
			first := mem()
			return Subject{Log: open(first), Reopen: func() (state.Log, error) {
				next := mem()
				var all []state.Op
				for b := range first.Follow(context.Background(), 0) {
					all = b.Ops
					for range b.Rev - 1 {
						if _, err := next.Commit(context.Background(), state.Batch{Ops: all}); err != nil {
							return nil, err
						}
					}
					break
				}
				return open(next), nil
			}}
		},
		"begins again at revision 1 when it is opened again": func() Subject {
			first := mem()
			return Subject{Log: &kept{Log: first}, Reopen: func() (state.Log, error) {
				next := mem()
				for b := range first.Follow(context.Background(), 0) {
					if len(b.Ops) > 0 {
						_, _ = next.Commit(context.Background(), state.Batch{Ops: b.Ops})
					}
					break
				}
				return next, nil
			}}
		},
	}
}

// The suite finds what logs get wrong.
func TestBrokenLogsAreFound(t *testing.T) {
	for name, fault := range faults(8) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := func(string) (Subject, error) { return fault(), nil }
			var found []string
			for _, r := range rows() {
				if err := run(open, r, 100*time.Millisecond); err != nil {
					found = append(found, fmt.Sprintf("%s: %v", r.name, err))
				}
			}
			require.NotEmpty(t, found)
			t.Log(found)
		})
	}
}

// The model alone finds what differs from a map with a history.
func TestTheModelFindsBrokenLogs(t *testing.T) {
	for _, name := range []string{"ignores guards", "looks only at the first guard", "ignores guards that say must not exist", "a conflict takes a revision",
		"a snapshot lacks a key", "a snapshot has the revision of now everywhere", "skips a batch when it yields", "a batch is yielded in two halves"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fault := faults(8)[name]
			for seed := range 200 {
				p := plans.Example(seed)
				if run(func(string) (Subject, error) { return fault(), nil }, p.row(), 100*time.Millisecond) != nil {
					return
				}
			}
			t.Fatal("no plan found it")
		})
	}
}
