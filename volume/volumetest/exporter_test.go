package volumetest

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

func fakeExporter() (*fakevolume.Exporter, ExporterEnv) {
	x := fakevolume.NewExporter()
	return x, ExporterEnv{Exporter: x, Path: "/volume", Login: func(t volume.Target, initiator, user, secret string) (func() error, error) {
		s, err := x.Login(t, initiator, user, secret)
		if err != nil {
			return nil, err
		}
		return s.Write, nil
	}}
}

func TestFakeExporter(t *testing.T) {
	TestExporter(t, func(*testing.T) ExporterEnv { _, env := fakeExporter(); return env })
}

// brokenExporter is the fake with a method in its place.
type brokenExporter struct {
	*fakevolume.Exporter
	export   func(ctx context.Context, e volume.Export) (volume.Target, error)
	unexport func(ctx context.Context, id string, epoch uint64) error
	resized  func(ctx context.Context, id string) error
	exports  func(ctx context.Context) ([]volume.Exported, error)
	hold     func(ctx context.Context, id string) (func(), error)
}

func (b brokenExporter) Export(ctx context.Context, e volume.Export) (volume.Target, error) {
	if b.export != nil {
		return b.export(ctx, e)
	}
	return b.Exporter.Export(ctx, e)
}

func (b brokenExporter) Unexport(ctx context.Context, id string, epoch uint64) error {
	if b.unexport != nil {
		return b.unexport(ctx, id, epoch)
	}
	return b.Exporter.Unexport(ctx, id, epoch)
}

func (b brokenExporter) Resized(ctx context.Context, id string) error {
	if b.resized != nil {
		return b.resized(ctx, id)
	}
	return b.Exporter.Resized(ctx, id)
}

func (b brokenExporter) Hold(ctx context.Context, id string) (func(), error) {
	if b.hold != nil {
		return b.hold(ctx, id)
	}
	return b.Exporter.Hold(ctx, id)
}

func (b brokenExporter) Exports(ctx context.Context) ([]volume.Exported, error) {
	if b.exports != nil {
		return b.exports(ctx)
	}
	return b.Exporter.Exports(ctx)
}

func TestSuiteFindsBrokenExporters(t *testing.T) {
	rows := map[string]exporterRow{}
	for _, r := range exporterRows() {
		rows[r.name] = r
	}
	for name, c := range map[string]struct {
		row   string
		spoil func(b *brokenExporter, env *ExporterEnv)
	}{
		"it exports nothing": {"export", func(b *brokenExporter, _ *ExporterEnv) {
			b.export = func(context.Context, volume.Export) (volume.Target, error) {
				return volume.Target{Portal: "x", IQN: "y"}, nil
			}
		}},
		"it takes any secret": {"export", func(b *brokenExporter, env *ExporterEnv) {
			env.Login = func(volume.Target, string, string, string) (func() error, error) {
				return func() error { return nil }, nil
			}
		}},
		"sessions outlive their epoch": {"a newer epoch", func(b *brokenExporter, env *ExporterEnv) {
			inner := env.Login
			env.Login = func(t volume.Target, i, u, s string) (func() error, error) {
				_, err := inner(t, i, u, s)
				return func() error { return nil }, err
			}
		}},
		"it goes back to older epochs": {"export again", func(b *brokenExporter, _ *ExporterEnv) {
			b.export = func(ctx context.Context, e volume.Export) (volume.Target, error) {
				at, err := b.Exporter.Export(ctx, e)
				if err != nil {
					return at, nil
				}
				return at, nil
			}
		}},
		"a machine that moves is shut out": {"a machine moves", func(b *brokenExporter, _ *ExporterEnv) {
			b.export = func(ctx context.Context, e volume.Export) (volume.Target, error) {
				e.Also = ""
				return b.Exporter.Export(ctx, e)
			}
		}},
		"both stay in": {"a machine moves", func(b *brokenExporter, env *ExporterEnv) {
			seen := map[uint64]string{}
			b.export = func(ctx context.Context, e volume.Export) (volume.Target, error) {
				if e.Also != "" {
					seen[e.Epoch] = e.Also
				}
				e.Also = seen[e.Epoch]
				return b.Exporter.Export(ctx, e)
			}
		}},
		"it keeps what is unexported": {"unexport", func(b *brokenExporter, _ *ExporterEnv) {
			b.unexport = func(context.Context, string, uint64) error { return nil }
		}},
		"it unexports any epoch": {"unexport again", func(b *brokenExporter, _ *ExporterEnv) {
			b.unexport = func(ctx context.Context, id string, _ uint64) error { return b.Exporter.Unexport(ctx, id, 1000) }
		}},
		"it resizes only what it has": {"resized", func(b *brokenExporter, _ *ExporterEnv) {
			b.resized = func(context.Context, string) error { return os.ErrNotExist }
		}},
		"it holds nothing": {"hold", func(b *brokenExporter, _ *ExporterEnv) {
			b.hold = func(context.Context, string) (func(), error) { return func() {}, nil }
		}},
		"it holds only what it has": {"hold what is not there", func(b *brokenExporter, _ *ExporterEnv) {
			b.hold = func(context.Context, string) (func(), error) { return nil, os.ErrNotExist }
		}},
		"it forgets": {"exports", func(b *brokenExporter, _ *ExporterEnv) {
			b.exports = func(context.Context) ([]volume.Exported, error) { return nil, nil }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			x, env := fakeExporter()
			b := &brokenExporter{Exporter: x}
			env.Exporter = b
			c.spoil(b, &env)
			require.Error(t, rows[c.row].run(t.Context(), env))
		})
	}
}

func TestRulesOfExportersAreInTheContract(t *testing.T) {
	source, err := os.ReadFile("../exporter.go")
	require.NoError(t, err)
	contract := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), " ")), " ")
	for _, r := range exporterRows() {
		require.Contains(t, contract, strings.Join(strings.Fields(r.rule), " "), r.name)
		require.Error(t, r.run(t.Context(), ExporterEnv{}), "no exporter is no success")
	}
}
