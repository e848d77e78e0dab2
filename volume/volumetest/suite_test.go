package volumetest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fake(t *testing.T) (*fakevolume.Driver, Env) {
	dir := t.TempDir()
	d, err := fakevolume.New(fakevolume.Config{Dir: dir, TotalGiB: 16})
	require.NoError(t, err)
	fault := func(f fakevolume.Fault) func() (func(), error) {
		return func() (func(), error) { return d.Inject(f).Remove, nil }
	}
	return d, Env{
		Driver: d,
		Foreign: func() (func(), error) {
			path := filepath.Join(dir, "theirs")
			return func() { _ = os.Remove(path) }, os.WriteFile(path, nil, 0o600)
		},
		Hang: fault(fakevolume.Fault{Hang: true}),
		Down: fault(fakevolume.Fault{Err: errdefs.ErrUnavailable}),
	}
}

func TestFake(t *testing.T) {
	TestDriver(t, func(t *testing.T) Env { _, env := fake(t); return env })
}

// TestOneStore runs all rows over one store, with nothing that is optional, and finds it empty then.
func TestOneStore(t *testing.T) {
	d, _ := fake(t)
	TestDriver(t, func(t *testing.T) Env { return Env{Driver: d} })
	left, err := d.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestNoDriverIsNoSuccess(t *testing.T) {
	for _, r := range rows() {
		require.Error(t, r.run(t.Context(), Env{}), r.name)
	}
}

func TestRulesAreInTheContract(t *testing.T) {
	source, err := os.ReadFile("../driver.go")
	require.NoError(t, err)
	contract := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), " ")), " ")
	names := map[string]bool{}
	for _, r := range rows() {
		require.Contains(t, contract, strings.Join(strings.Fields(r.rule), " "), r.name)
		require.False(t, names[r.name], "two rows are named %q", r.name)
		names[r.name] = true
	}
}

func TestSuiteFindsBrokenDrivers(t *testing.T) {
	all, found := map[string]row{}, map[string]bool{}
	for _, r := range rows() {
		all[r.name] = r
	}
	for _, f := range faults() {
		t.Run(f.fault, func(t *testing.T) {
			for _, name := range f.rows {
				r, ok := all[name]
				require.True(t, ok, "no row is named %q", name)
				found[name] = true
				d, env := fake(t)
				b := whole(d)
				f.spoil(b, d)
				env.Driver, env.Patience = b, 100*time.Millisecond
				require.Error(t, r.run(t.Context(), env), "row %q does not find it", name)
			}
		})
	}
	for name := range all {
		require.True(t, found[name], "no broken driver shows that the row %q finds anything", name)
	}
}
