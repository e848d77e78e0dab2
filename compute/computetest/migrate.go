package computetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// MigrateEnv is an [Env] whose driver implements [compute.Migrator], and another one to which its machines can move, and back.
type MigrateEnv struct {
	Env
	To Env // required: its Driver, and its Patience

	// There returns a machine of Env as it is to be at the destination, where all that it names exists; Back the same of a machine there.
	// nil: as it is.
	There, Back func(compute.Machine) (compute.Machine, error)

	Nowhere string // an address at which there is no host; required
}

// TestMigrator runs the suite of [compute.Migrator], as [TestHypervisor] does that of a Hypervisor.
func TestMigrator(t *testing.T, open func(t *testing.T) MigrateEnv) {
	for _, r := range migrateRows() {
		t.Run(r.name, func(t *testing.T) {
			if err := r.run(t.Context(), open(t)); err != nil {
				t.Errorf("contract: %q\n%v", r.rule, err)
			}
		})
	}
}

// migrateRow checks one sentence of the contract.
type migrateRow struct {
	name  string
	rule  string // as it is in compute/migrator.go
	check func(ctx context.Context, e *migrateBench) error
}

// side is one of the two hosts.
type side struct {
	*bench
	compute.Migrator
	elsewhere func(compute.Machine) (compute.Machine, error) // a machine of this host on the other
}

// migrateBench is a MigrateEnv during one row.
type migrateBench struct {
	from, to side
	nowhere  string
}

func (r migrateRow) run(ctx context.Context, env MigrateEnv) error {
	from, ok := env.Driver.(compute.Migrator)
	to, too := env.To.Driver.(compute.Migrator)
	if !ok || !too || env.Nowhere == "" {
		return errors.New("MigrateEnv is not complete")
	}
	same := func(m compute.Machine) (compute.Machine, error) { return m, nil }
	if env.There == nil {
		env.There = same
	}
	if env.Back == nil {
		env.Back = same
	}
	return row{check: func(ctx context.Context, source *bench) error {
		return row{check: func(ctx context.Context, destination *bench) error {
			e := &migrateBench{side{source, from, env.There}, side{destination, to, env.Back}, env.Nowhere}
			err := r.check(ctx, e)
			destination.made = append(destination.made, source.made...)
			return err
		}}.run(ctx, env.To)
	}}.run(ctx, env.Env)
}

// prepared has a check begin with a machine whose guest has booted, as it is to be at the destination, and the address of that, which expects it.
func prepared(check func(ctx context.Context, e *migrateBench, there compute.Machine, address string) error) func(context.Context, *migrateBench) error {
	return func(ctx context.Context, e *migrateBench) error {
		m, err := e.from.ready(ctx)
		if err != nil {
			return err
		}
		there, address, err := expect(ctx, e.from, e.to, m)
		if err != nil {
			return err
		}
		return check(ctx, e, there, address)
	}
}

func expect(ctx context.Context, from, to side, m compute.Machine) (there compute.Machine, address string, err error) {
	if there, err = from.elsewhere(m); err != nil {
		return there, "", err
	}
	address, err = to.Prepare(ctx, there)
	if err != nil {
		err = fmt.Errorf("preparing: %w", err)
	}
	return there, address, err
}

// are checks what a machine does on the two hosts.
func (e *migrateBench) are(ctx context.Context, id string, here, there compute.PowerState) error {
	return errors.Join(named("here", e.from.is(ctx, id, here)), named("there", e.to.is(ctx, id, there)))
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// goesOn checks that a guest is there to be asked, and that it has not booted on this host.
func (s side) goesOn(ctx context.Context, id string) error {
	out, err := s.Driver.Console(ctx, id, 64<<10)
	if err == nil && s.Banner != "" && strings.Contains(string(out), s.Banner) {
		err = fmt.Errorf("the guest has booted here: %q", out)
	}
	if err != nil {
		return err
	}
	return s.answers(ctx, id)
}

// answers checks that a guest powers off when it is asked to.
func (s side) answers(ctx context.Context, id string) error {
	begun, grace := time.Now(), 3*s.Patience
	err := s.Driver.Stop(ctx, id, grace)
	if err == nil && s.Banner != "" && time.Since(begun) >= grace {
		err = errors.New("the guest does not answer")
	}
	return err
}

func migrateRows() []migrateRow {
	return []migrateRow{
		{
			name: "prepare",
			rule: "It makes no domain that runs.",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, _ string) error {
				if d, err := e.to.domain(ctx, there.ID); err != nil || d.Power == compute.PowerRunning {
					return fmt.Errorf("there is %+v: %w", d, err)
				}
				return e.from.is(ctx, there.ID, compute.PowerRunning)
			}),
		},
		{
			name: "prepare what is bad",
			rule: "What [Machine.Validate] refuses is InvalidArgument,",
			check: func(ctx context.Context, e *migrateBench) error {
				m, err := e.from.machine()
				if err != nil {
					return err
				}
				m.VCPUs = 0
				_, err = e.to.Prepare(ctx, m)
				return class("without processors", err, errdefs.ErrInvalidArgument)
			},
		},
		{
			name: "prepare again",
			rule: "Prepare is idempotent. What it leaves, Create and Destroy of the machine remove.",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, address string) error {
				again, err := e.to.Prepare(ctx, there)
				if err != nil || again != address {
					return fmt.Errorf("prepared at %q, again at %q: %w", address, again, err)
				}
				return all(
					func() error { return e.to.Driver.Destroy(ctx, there.ID, there.Epoch) },
					func() error { return e.are(ctx, there.ID, compute.PowerRunning, compute.PowerUnknown) },
					func() error { _, err := e.to.Prepare(ctx, there); return err },
					func() error { return e.from.Migrate(ctx, there, address) },
					func() error { return e.to.Driver.Create(ctx, there) },
				)
			}),
		},
		{
			name: "migrate",
			rule: "When it returns nil, the machine is shut off here, and is at the destination, complete and paused: a Create there has it go on where it was.",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, address string) error {
				return all(
					func() error { return e.from.Migrate(ctx, there, address) },
					func() error { return e.are(ctx, there.ID, compute.PowerShutoff, compute.PowerPaused) },
					func() error { return e.to.Driver.Create(ctx, there) },
					func() error { return e.are(ctx, there.ID, compute.PowerShutoff, compute.PowerRunning) },
					func() error {
						d, err := e.to.domain(ctx, there.ID)
						if err == nil && (d.Epoch != there.Epoch || !d.Ours) {
							err = fmt.Errorf("it is %+v, want epoch %d", d, there.Epoch)
						}
						return err
					},
					func() error { return e.to.goesOn(ctx, there.ID) },
				)
			}),
		},
		{
			name: "migrate back",
			rule: "Migrate hands the running machine with m's id to the host with an address, whose Prepare was given m;",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, address string) error {
				if err := all(
					func() error { return e.from.Migrate(ctx, there, address) },
					func() error { return e.from.Driver.Destroy(ctx, there.ID, there.Epoch) },
					func() error { return e.to.Driver.Create(ctx, there) },
				); err != nil {
					return err
				}
				here, address, err := expect(ctx, e.to, e.from, there)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.to.Migrate(ctx, here, address) },
					func() error { return e.are(ctx, there.ID, compute.PowerPaused, compute.PowerShutoff) },
					func() error { return e.from.Driver.Create(ctx, here) },
					func() error { return e.from.is(ctx, here.ID, compute.PowerRunning) },
				)
			}),
		},
		{
			name: "migrate again",
			rule: "A machine that has left already is success.",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, address string) error {
				return all(
					func() error { return e.from.Migrate(ctx, there, address) },
					func() error { return e.from.Migrate(ctx, there, address) },
					func() error { return e.are(ctx, there.ID, compute.PowerShutoff, compute.PowerPaused) },
				)
			}),
		},
		{
			name: "migrate what does not run",
			rule: "One that is shut off for another reason, or paused, is FailedPrecondition.",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, address string) error {
				return all(
					func() error { return e.from.Driver.Pause(ctx, there.ID) },
					func() error {
						return class("a paused one", e.from.Migrate(ctx, there, address), errdefs.ErrFailedPrecondition)
					},
					func() error { return e.are(ctx, there.ID, compute.PowerPaused, compute.PowerUnknown) },
					func() error { return e.from.Driver.Stop(ctx, there.ID, 0) },
					func() error {
						return class("one that is off", e.from.Migrate(ctx, there, address), errdefs.ErrFailedPrecondition)
					},
					func() error { return e.are(ctx, there.ID, compute.PowerShutoff, compute.PowerUnknown) },
				)
			}),
		},
		{
			name: "migrate to nowhere",
			rule: "When it returns another error than its context's, the machine runs here as before, and nothing of it runs at the destination.",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, _ string) error {
				if e.from.Migrate(ctx, there, e.nowhere) == nil {
					return errors.New("it has migrated to nowhere")
				}
				return all(
					func() error { return e.are(ctx, there.ID, compute.PowerRunning, compute.PowerUnknown) },
					func() error { return e.from.Driver.Stop(ctx, there.ID, 0) },
				)
			}),
		},
		{
			name: "abort without one",
			rule: "Without one it changes nothing, and left tells of the last one. An unknown machine has not left: it is success.",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, address string) error {
				left := func(id string, want bool) func() error {
					return func() error {
						if got, err := e.from.Abort(ctx, id); err != nil || got != want {
							return fmt.Errorf("left is %v, want %v: %w", got, want, err)
						}
						return nil
					}
				}
				unknown, err := e.from.machine()
				if err != nil {
					return err
				}
				return all(
					left(unknown.ID, false),
					left(there.ID, false),
					func() error { return e.are(ctx, there.ID, compute.PowerRunning, compute.PowerUnknown) },
					func() error { return e.from.Migrate(ctx, there, address) },
					left(there.ID, true), left(there.ID, true),
					func() error { return e.are(ctx, there.ID, compute.PowerShutoff, compute.PowerPaused) },
				)
			}),
		},
		{
			name: "abort one",
			rule: "Abort ends a Migrate of the machine, whoever began it, and returns when it has ended: either left is true, and the machine is at the destination as after a Migrate that succeeded, or it is here, and runs if it did before.",
			check: prepared(func(ctx context.Context, e *migrateBench, there compute.Machine, address string) error {
				for begin := range 4 {
					limited, cancel := context.WithCancel(ctx)
					migrated := make(chan error, 1)
					go func() { migrated <- e.from.Migrate(limited, there, address) }()
					wait := time.Duration(begin) * e.from.Patience / 100 // the moment is what differs
					select {
					case <-time.After(wait):
					case err := <-migrated:
						migrated <- err
					}
					if begin%2 == 1 { // nobody waits for it any more
						cancel()
						migrated <- <-migrated
					}
					left, err := e.from.Abort(ctx, there.ID)
					cancel()
					if err := <-migrated; err == nil && !left {
						return errors.New("it has migrated, and not left")
					}
					if err != nil {
						return err
					}
					if left {
						return e.are(ctx, there.ID, compute.PowerShutoff, compute.PowerPaused)
					}
					if err := e.from.is(ctx, there.ID, compute.PowerRunning); err != nil {
						return err
					}
					if d, err := e.to.domain(ctx, there.ID); err != nil || d.Power == compute.PowerRunning {
						return fmt.Errorf("there is %+v at the destination: %w", d, err)
					}
				}
				return e.from.answers(ctx, there.ID)
			}),
		},
		{
			name: "a migration of an unknown machine",
			rule: "The rules for all methods of a Hypervisor are those of these methods too.",
			check: func(ctx context.Context, e *migrateBench) error {
				m, err := e.from.machine()
				if err != nil {
					return err
				}
				ended, cancel := context.WithCancel(ctx)
				cancel()
				_, prepare := e.to.Prepare(ended, m)
				_, abort := e.from.Abort(ended, m.ID)
				for _, err := range []error{e.from.Migrate(ended, m, e.nowhere), prepare, abort} {
					if err != context.Canceled {
						return fmt.Errorf("a context that ended: %w", err)
					}
				}
				return class("Migrate", e.from.Migrate(ctx, m, e.nowhere), errdefs.ErrNotFound)
			},
		},
	}
}
