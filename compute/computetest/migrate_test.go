package computetest

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
)

func fakeMigrateEnv() (MigrateEnv, *fakecompute.Hypervisor, *fakecompute.Hypervisor) {
	from, to := fakecompute.New(fakecompute.Config{}), fakecompute.New(fakecompute.Config{})
	fakecompute.Connected(from.Host(), to.Host())
	return MigrateEnv{Env: fakeEnv(from), To: fakeEnv(to), Nowhere: "nowhere"}, from, to
}

func TestFakeMigrator(t *testing.T) {
	TestMigrator(t, func(t *testing.T) MigrateEnv { env, _, _ := fakeMigrateEnv(); return env })
}

// brokenMigrator is the fake with a method in its place.
type brokenMigrator struct {
	*fakecompute.Hypervisor
	prepare func(ctx context.Context, m compute.Machine) (string, error)
	migrate func(ctx context.Context, m compute.Machine, address string) error
	abort   func(ctx context.Context, id string) (bool, error)
}

func (b *brokenMigrator) Prepare(ctx context.Context, m compute.Machine) (string, error) {
	return b.prepare(ctx, m)
}

func (b *brokenMigrator) Migrate(ctx context.Context, m compute.Machine, address string) error {
	return b.migrate(ctx, m, address)
}

func (b *brokenMigrator) Abort(ctx context.Context, id string) (bool, error) { return b.abort(ctx, id) }

func TestSuiteFindsBrokenMigrators(t *testing.T) {
	rows, found := map[string]migrateRow{}, map[string]bool{}
	for _, r := range migrateRows() {
		rows[r.name] = r
	}
	for name, c := range map[string]struct {
		rows  []string
		spoil func(from, to *brokenMigrator)
	}{
		"it boots what it expects": {[]string{"prepare"}, func(_, to *brokenMigrator) {
			to.prepare = func(ctx context.Context, m compute.Machine) (string, error) {
				address, _ := to.Hypervisor.Prepare(ctx, m)
				return address, to.Create(ctx, m)
			}
		}},
		"it expects anything": {[]string{"prepare what is bad", "a migration of an unknown machine"}, func(_, to *brokenMigrator) {
			to.prepare = func(context.Context, compute.Machine) (string, error) { return "x", nil }
		}},
		"it expects a machine once": {[]string{"prepare again"}, func(_, to *brokenMigrator) {
			seen := false
			to.prepare = func(ctx context.Context, m compute.Machine) (string, error) {
				if seen {
					return "", errdefs.ErrAlreadyExists
				}
				seen = true
				return to.Hypervisor.Prepare(ctx, m)
			}
		}},
		"it does not migrate": {[]string{"migrate", "migrate again", "migrate to nowhere", "abort without one", "abort one"},
			func(from, _ *brokenMigrator) {
				from.migrate = func(ctx context.Context, _ compute.Machine, _ string) error { return ctx.Err() }
			}},
		"it sends nothing back": {[]string{"migrate back"}, func(_, to *brokenMigrator) {
			to.migrate = func(ctx context.Context, _ compute.Machine, _ string) error { return ctx.Err() }
		}},
		"what arrives runs at once": {[]string{"migrate", "migrate again"}, func(from, to *brokenMigrator) {
			from.migrate = func(ctx context.Context, m compute.Machine, address string) error {
				if err := from.Hypervisor.Migrate(ctx, m, address); err != nil {
					return err
				}
				return to.Resume(ctx, m.ID)
			}
		}},
		"what arrives boots": {[]string{"migrate"}, func(from, to *brokenMigrator) {
			from.migrate = func(ctx context.Context, m compute.Machine, address string) error {
				if err := from.Hypervisor.Migrate(ctx, m, address); err != nil {
					return err
				}
				for _, step := range []error{to.Destroy(ctx, m.ID, m.Epoch), to.Create(ctx, m), to.Pause(ctx, m.ID)} {
					if step != nil {
						return step
					}
				}
				return nil
			}
		}},
		"it migrates what is paused": {[]string{"migrate what does not run"}, func(from, _ *brokenMigrator) {
			from.migrate = func(ctx context.Context, m compute.Machine, address string) error {
				_ = from.Resume(ctx, m.ID)
				return from.Hypervisor.Migrate(ctx, m, address)
			}
		}},
		"it forgets that it has left": {[]string{"migrate again", "abort without one"}, func(from, _ *brokenMigrator) {
			from.migrate = func(ctx context.Context, m compute.Machine, address string) error {
				if err := from.Hypervisor.Migrate(ctx, m, address); err != nil {
					return err
				}
				return from.Destroy(ctx, m.ID, m.Epoch)
			}
		}},
		"a failure halts the machine": {[]string{"migrate to nowhere"}, func(from, _ *brokenMigrator) {
			from.migrate = func(ctx context.Context, m compute.Machine, address string) error {
				err := from.Hypervisor.Migrate(ctx, m, address)
				if err != nil {
					_ = from.Pause(ctx, m.ID)
				}
				return err
			}
		}},
		"it can't say whether it has left": {[]string{"abort without one", "abort one"}, func(from, _ *brokenMigrator) {
			from.abort = func(ctx context.Context, id string) (bool, error) { return false, ctx.Err() }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, row := range c.rows {
				found[row] = true
				env, from, to := fakeMigrateEnv()
				source := &brokenMigrator{from, from.Prepare, from.Migrate, from.Abort}
				destination := &brokenMigrator{to, to.Prepare, to.Migrate, to.Abort}
				c.spoil(source, destination)
				env.Driver, env.To.Driver = source, destination
				require.Error(t, rows[row].run(t.Context(), env), "row %q does not find it", row)
			}
		})
	}
	for name := range rows {
		require.True(t, found[name], "no broken driver shows that the row %q finds anything", name)
	}
	require.Error(t, rows["migrate"].run(t.Context(), MigrateEnv{}))
}

func TestRulesOfMigratorsAreInTheContract(t *testing.T) {
	source, err := os.ReadFile("../migrator.go")
	require.NoError(t, err)
	contract := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), " ")), " ")
	for _, r := range migrateRows() {
		require.Contains(t, contract, strings.Join(strings.Fields(r.rule), " "), r.name)
	}
}
