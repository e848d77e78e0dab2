package computetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

func listRows() []row {
	return []row{
		{
			name: "describe",
			rule: "Describe tells what the host has and what runs it.",
			check: func(ctx context.Context, e *bench) error {
				i, err := e.Driver.Describe(ctx)
				if err == nil && (i.Hypervisor == "" || i.Version == "" || i.Arch == "" || i.VCPUs < 1 || i.MemoryMiB < 1) {
					err = fmt.Errorf("the host is %+v", i)
				}
				return err
			},
		},
		{
			name: "list keeps machines apart",
			rule: "It carries the machine's id and epoch, so that what runs can be compared with what the store says.",
			check: func(ctx context.Context, e *bench) error {
				var machines []compute.Machine
				for n := range uint64(3) {
					m, err := e.machine()
					if err != nil {
						return err
					}
					m.Name, m.Epoch = "<same & 'name'>", m.Epoch+n<<33
					if err := e.Driver.Create(ctx, m); err != nil {
						return err
					}
					machines = append(machines, m)
				}
				for _, m := range machines {
					if d, err := e.domain(ctx, m.ID); err != nil || d.Epoch != m.Epoch || !d.Ours {
						return fmt.Errorf("machine of epoch %d: List says %+v (error %v)", m.Epoch, d, err)
					}
				}
				return nil
			},
		},
		{
			name:  "list names foreign domains",
			rule:  "List returns every domain of the hypervisor, also those that this library did not make (with Ours false), in no order.",
			needs: func(e Env) bool { return e.Foreign != nil },
			check: func(ctx context.Context, e *bench) error {
				id, remove, err := e.foreign()
				if err != nil {
					return err
				}
				defer remove()
				return e.isForeign(ctx, id)
			},
		},
		{
			name: "an unknown id",
			rule: "an unknown id is NotFound (unless the method says otherwise)",
			check: func(ctx context.Context, e *bench) error {
				return e.unknown(ctx, absent)
			},
		},
		{
			name:  "a foreign id",
			rule:  "A domain that this library did not make is unknown to all methods but Create, Destroy, List and Events: the others say NotFound.",
			needs: func(e Env) bool { return e.Foreign != nil },
			check: func(ctx context.Context, e *bench) error {
				id, remove, err := e.foreign()
				if err != nil {
					return err
				}
				defer remove()
				return errors.Join(e.unknown(ctx, id), e.isForeign(ctx, id))
			},
		},
	}
}

// unknown checks that the methods that know only domains of ours don't know id.
func (e *bench) unknown(ctx context.Context, id string) (err error) {
	for name, call := range e.callsFor(ctx, id) {
		err = errors.Join(err, class(name, call(), errdefs.ErrNotFound))
	}
	return err
}

func (e *bench) callsFor(ctx context.Context, id string) map[string]func() error {
	return map[string]func() error{
		"Start":       func() error { return e.Driver.Start(ctx, id) },
		"Stop":        func() error { return e.Driver.Stop(ctx, id, 0) },
		"gentle Stop": func() error { return e.Driver.Stop(ctx, id, time.Second) },
		"soft Reboot": func() error { return e.Driver.Reboot(ctx, id, false) },
		"hard Reboot": func() error { return e.Driver.Reboot(ctx, id, true) },
		"Pause":       func() error { return e.Driver.Pause(ctx, id) },
		"Resume":      func() error { return e.Driver.Resume(ctx, id) },
		"Console":     func() error { _, err := e.Driver.Console(ctx, id, 1); return err },
	}
}

func contextRows() []row {
	return []row{
		{
			name: "a context that ended",
			rule: "Every method returns soon after its context ends, with the context's error unwrapped",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				late, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
				defer cancel()
				calls := e.callsFor(late, m.ID)
				calls["Create"] = func() error { return e.Driver.Create(late, m) }
				calls["Destroy"] = func() error { return e.Driver.Destroy(late, m.ID, m.Epoch) }
				calls["Describe"] = func() error { _, err := e.Driver.Describe(late); return err }
				calls["List"] = func() error { _, err := e.Driver.List(late); return err }
				for name, call := range calls {
					if err := call(); err != context.DeadlineExceeded {
						return fmt.Errorf("%s: got error %v, want exactly %v", name, err, context.DeadlineExceeded)
					}
				}
				return e.is(ctx, m.ID, compute.PowerRunning)
			},
		},
		{
			name: "a context that ends during a stop",
			rule: "the work may then have happened or not, and repeating the call settles it",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err == nil && e.Deaf != nil {
					err = e.Deaf(m.ID)
				}
				if err != nil {
					return err
				}
				short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
				start := time.Now()
				err = e.Driver.Stop(short, m.ID, 10*e.Patience)
				if err != nil && err != context.DeadlineExceeded {
					return fmt.Errorf("from Stop: got error %v, want exactly %v", err, context.DeadlineExceeded)
				}
				if took := time.Since(start); took > e.Patience {
					return fmt.Errorf("it took too long: Stop returned %v after its start, its context ended after 100 ms", took)
				}
				return all(
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.is(ctx, m.ID, compute.PowerShutoff) },
				)
			},
		},
		{
			name: "a context that ends during a create",
			rule: "the work may then have happened or not, and repeating the call settles it",
			check: func(ctx context.Context, e *bench) error {
				for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond} {
					m, err := e.machine()
					if err != nil {
						return err
					}
					short, cancel := context.WithTimeout(ctx, after)
					err = e.Driver.Create(short, m)
					cancel()
					if err != nil && err != context.DeadlineExceeded {
						return fmt.Errorf("from Create: got error %v, want exactly %v", err, context.DeadlineExceeded)
					}
					if err := all(
						func() error { return e.Driver.Create(ctx, m) },
						func() error { return e.is(ctx, m.ID, compute.PowerRunning) },
						func() error { return e.Driver.Destroy(ctx, m.ID, m.Epoch) },
						func() error { return e.is(ctx, m.ID, compute.PowerUnknown) },
					); err != nil {
						return fmt.Errorf("after a Create of %v: %w", after, err)
					}
				}
				return nil
			},
		},
		{
			name: "a destroy of what is just being created",
			rule: "the work may then have happened or not, and repeating the call settles it",
			check: func(ctx context.Context, e *bench) error {
				for _, after := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond} {
					m, err := e.machine()
					if err != nil {
						return err
					}
					short, cancel := context.WithTimeout(ctx, after)
					err = e.Driver.Create(short, m)
					cancel()
					if err != nil && err != context.DeadlineExceeded {
						return fmt.Errorf("from Create: got error %v, want exactly %v", err, context.DeadlineExceeded)
					}
					if err := all(
						func() error { return e.Driver.Destroy(ctx, m.ID, m.Epoch) },
						func() error { return e.is(ctx, m.ID, compute.PowerUnknown) },
					); err != nil {
						return fmt.Errorf("after a Create of %v: %w", after, err)
					}
				}
				return nil
			},
		},
	}
}
