package volumetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// ExporterEnv is an exporter, and a way to be its initiator.
type ExporterEnv struct {
	Exporter volume.Exporter // required
	Path     string          // required: a file or device to export, of at least 1 MiB
	Patience time.Duration   // the longest that a call may take; 0: 10 s

	// Login logs in and returns a write to the volume's first block, which is an error once the session has ended. Required.
	Login func(t volume.Target, initiator, user, secret string) (write func() error, err error)
}

// TestExporter runs the suite. Each row calls open, which may return the same exporter each time.
func TestExporter(t *testing.T, open func(t *testing.T) ExporterEnv) {
	for _, r := range exporterRows() {
		t.Run(r.name, func(t *testing.T) {
			if err := r.run(t.Context(), open(t)); err != nil {
				t.Errorf("contract: %q\n%v", r.rule, err)
			}
		})
	}
}

// exporterRow checks one sentence of the contract of [volume.Exporter].
type exporterRow struct {
	name  string
	rule  string // as it is in volume/exporter.go
	check func(ctx context.Context, e ExporterEnv, first volume.Export) error
}

func (r exporterRow) run(ctx context.Context, e ExporterEnv) error {
	if e.Exporter == nil || e.Login == nil || e.Path == "" {
		return errors.New("ExporterEnv is not complete")
	}
	if e.Patience == 0 {
		e.Patience = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, 5*e.Patience)
	defer cancel()
	first := volume.Export{VolumeID: uuid.NewString(), Epoch: 3, Path: e.Path, Initiator: "iqn.2026-01.example:one", User: "one",
		Secret: "a secret of the first"}
	err := r.check(ctx, e, first)
	return errors.Join(err, e.Exporter.Unexport(ctx, first.VolumeID, 1000))
}

// login logs in as an export says.
func (e ExporterEnv) login(t volume.Target, as volume.Export) (func() error, error) {
	return e.Login(t, as.Initiator, as.User, as.Secret)
}

// exported makes an export and returns a session of it that works.
func (e ExporterEnv) exported(ctx context.Context, x volume.Export) (t volume.Target, write func() error, err error) {
	if t, err = e.Exporter.Export(ctx, x); err != nil {
		return t, nil, fmt.Errorf("exporting: %w", err)
	}
	if write, err = e.login(t, x); err != nil {
		return t, nil, fmt.Errorf("login: %w", err)
	}
	return t, write, write()
}

// next is the attachment after another.
func next(x volume.Export) volume.Export {
	x.Epoch++
	x.Initiator, x.User, x.Secret = "iqn.2026-01.example:two", "two", "a secret of the second"
	return x
}

func exporterRows() []exporterRow {
	refused := func(what string, err error) error {
		if err == nil {
			return fmt.Errorf("%s got in", what)
		}
		return nil
	}
	return []exporterRow{
		{
			name: "export",
			rule: "Export makes a volume available to one initiator and returns where, when that can log in.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				t, _, err := e.exported(ctx, x)
				if err != nil {
					return err
				}
				if t.Portal == "" || t.IQN == "" {
					return fmt.Errorf("it is nowhere: %+v", t)
				}
				for what, other := range map[string]volume.Export{
					"another initiator": {Initiator: "iqn.2026-01.example:eve", User: x.User, Secret: x.Secret},
					"another user":      {Initiator: x.Initiator, User: "eve", Secret: x.Secret},
					"another secret":    {Initiator: x.Initiator, User: x.User, Secret: "a secret of nobody"},
				} {
					if _, err := e.login(t, other); err == nil {
						return refused(what, err)
					}
				}
				return nil
			},
		},
		{
			name: "a newer epoch",
			rule: "When it returns, no session of an older epoch of the volume touches it any more.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				t, write, err := e.exported(ctx, x)
				if err != nil {
					return err
				}
				again, newer, err := e.exported(ctx, next(x))
				if err != nil {
					return err
				}
				if write() == nil {
					return errors.New("a session of the older epoch writes")
				}
				for _, at := range []volume.Target{t, again} {
					if _, err := e.login(at, x); err == nil {
						return refused("the initiator of the older epoch", err)
					}
				}
				return newer()
			},
		},
		{
			name: "export again",
			rule: "The same export again is success; one with an epoch older than the newest that there is is FailedPrecondition.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				t, write, err := e.exported(ctx, next(x))
				if err != nil {
					return err
				}
				again, err := e.Exporter.Export(ctx, next(x))
				if err != nil || again != t {
					return fmt.Errorf("exported again at %+v, before at %+v: %w", again, t, err)
				}
				if _, err := e.Exporter.Export(ctx, x); !errdefs.IsFailedPrecondition(err) {
					return is("Export of an older epoch", err, errdefs.ErrFailedPrecondition)
				}
				return write()
			},
		},
		{
			name: "a machine moves",
			rule: "With another Initiator or Also in the same epoch, who is one of the two still goes on, and the sessions of who is none any more have ended.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				for _, stays := range []bool{true, false} {
					x.Epoch++
					t, source, err := e.exported(ctx, x)
					if err != nil {
						return err
					}
					there := x
					there.Initiator = "iqn.2026-01.example:two"
					if _, err := e.login(t, there); err == nil {
						return refused("another initiator, before it may", err)
					}
					both, ends := x, x
					both.Also = there.Initiator
					if !stays {
						ends = there
					}
					if again, err := e.Exporter.Export(ctx, both); err != nil || again != t {
						return fmt.Errorf("for two at %+v, before at %+v: %w", again, t, err)
					}
					destination, err := e.login(t, there)
					if err != nil {
						return fmt.Errorf("login of the second: %w", err)
					}
					if err := errors.Join(source(), destination()); err != nil {
						return fmt.Errorf("both are in: %w", err)
					}
					if _, err := e.Exporter.Export(ctx, ends); err != nil {
						return fmt.Errorf("for one again: %w", err)
					}
					on, off, out := source, destination, there
					if !stays {
						on, off, out = destination, source, x
					}
					if err := on(); err != nil {
						return fmt.Errorf("the session of who is in still: %w", err)
					}
					if off() == nil {
						return errors.New("a session of who is out writes")
					}
					if _, err := e.login(t, out); err == nil {
						return refused("who is out", err)
					}
				}
				return nil
			},
		},
		{
			name: "unexport",
			rule: "Unexport ends a volume's export and every session of it; when it returns, nothing of them touches the volume any more",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				t, write, err := e.exported(ctx, x)
				if err != nil {
					return err
				}
				if err := e.Exporter.Unexport(ctx, x.VolumeID, x.Epoch); err != nil {
					return err
				}
				if write() == nil {
					return errors.New("a session of it writes")
				}
				_, err = e.login(t, x)
				return refused("its initiator", err)
			},
		},
		{
			name: "unexport again",
			rule: "One that is not there is success. An epoch older than that of the export is FailedPrecondition.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				if err := e.Exporter.Unexport(ctx, x.VolumeID, x.Epoch); err != nil {
					return err
				}
				_, write, err := e.exported(ctx, next(x))
				if err != nil {
					return err
				}
				if err := e.Exporter.Unexport(ctx, x.VolumeID, x.Epoch); !errdefs.IsFailedPrecondition(err) {
					return is("Unexport of an older epoch", err, errdefs.ErrFailedPrecondition)
				}
				if err := write(); err != nil {
					return err
				}
				return errors.Join(e.Exporter.Unexport(ctx, x.VolumeID, x.Epoch+1), e.Exporter.Unexport(ctx, x.VolumeID, x.Epoch+1))
			},
		},
		{
			name: "resized",
			rule: "One that is not exported is success.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				if err := e.Exporter.Resized(ctx, x.VolumeID); err != nil {
					return err
				}
				_, write, err := e.exported(ctx, x)
				if err != nil {
					return err
				}
				return errors.Join(e.Exporter.Resized(ctx, x.VolumeID), write())
			},
		},
		{
			name: "hold",
			rule: "Hold has what writes to a volume wait, and returns when no write is under way; all go on when release is called.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				_, write, err := e.exported(ctx, x)
				if err != nil {
					return err
				}
				for range 2 {
					release, err := e.Exporter.Hold(ctx, x.VolumeID)
					if err != nil {
						return err
					}
					written := make(chan error, 1)
					go func() { written <- write() }()
					select {
					case err := <-written:
						release()
						return fmt.Errorf("something was written to a volume that is held: %w", err)
					case <-time.After(200 * time.Millisecond): // one that does not wait has written by then
					}
					release()
					if err := <-written; err != nil {
						return err
					}
				}
				return write()
			},
		},
		{
			name: "hold what is not there",
			rule: "One that is not exported is success.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				release, err := e.Exporter.Hold(ctx, x.VolumeID)
				if err == nil {
					release()
				}
				return err
			},
		},
		{
			name: "exports",
			rule: "Exports returns what there is, in no order.",
			check: func(ctx context.Context, e ExporterEnv, x volume.Export) error {
				has := func(want ...volume.Exported) error {
					all, err := e.Exporter.Exports(ctx)
					all = slices.DeleteFunc(all, func(x volume.Exported) bool { return x.VolumeID != want[0].VolumeID })
					if err != nil || !slices.Equal(all, want[1:]) {
						return fmt.Errorf("it has %+v, want %+v: %w", all, want[1:], err)
					}
					return nil
				}
				id := volume.Exported{VolumeID: x.VolumeID}
				return steps(
					func() error { return has(id) },
					func() error { _, err := e.Exporter.Export(ctx, x); return err },
					func() error { return has(id, volume.Exported{VolumeID: x.VolumeID, Epoch: x.Epoch}) },
					func() error { _, err := e.Exporter.Export(ctx, next(x)); return err },
					func() error { return has(id, volume.Exported{VolumeID: x.VolumeID, Epoch: x.Epoch + 1}) },
					func() error { return e.Exporter.Unexport(ctx, x.VolumeID, x.Epoch+1) },
					func() error { return has(id) },
				)
			},
		},
	}
}
