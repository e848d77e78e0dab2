package computetest

import (
	"bytes"
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// maxConsole is more than the guests of a suite write, in bytes.
const maxConsole = 1 << 20

func consoleRows() []row {
	return []row{
		{
			name: "console",
			rule: "Console returns the last max bytes that the machine wrote to its first serial port",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.ready(ctx)
				if err != nil {
					return err
				}
				if err := e.Driver.Stop(ctx, m.ID, 0); err != nil {
					return err // so that it writes no more
				}
				whole, err := e.Driver.Console(ctx, m.ID, maxConsole)
				if err != nil {
					return err
				}
				for _, max := range []int{1, 7, len(whole), len(whole) + 1} {
					if max < 1 {
						continue
					}
					tail, err := e.Driver.Console(ctx, m.ID, max)
					if err != nil {
						return err
					}
					if want := whole[len(whole)-min(max, len(whole)):]; !bytes.Equal(tail, want) {
						return fmt.Errorf("the last %d bytes are %q, want %q", max, tail, want)
					}
				}
				return nil
			},
		},
		{
			name: "console across restarts",
			rule: "across restarts of the domain and of this process",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.ready(ctx)
				if err != nil {
					return err
				}
				return all(
					func() error { return e.Driver.Stop(ctx, m.ID, 0) },
					func() error { return e.Driver.Start(ctx, m.ID) },
					func() error { return e.booted(ctx, m.ID, 2) },
				)
			},
		},
		{
			name: "console before anything was written",
			rule: "and nothing (not an error) if it has written nothing yet",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.machine()
				if err != nil {
					return err
				}
				m.ConsoleLog = ""
				if err := e.Driver.Create(ctx, m); err != nil {
					return err
				}
				text, err := e.Driver.Console(ctx, m.ID, maxConsole)
				if err == nil && len(text) > 0 {
					err = fmt.Errorf("the console of a machine without a log is %q", text)
				}
				if err != nil {
					return err
				}
				m, err = e.running(ctx)
				if err == nil {
					_, err = e.Driver.Console(ctx, m.ID, maxConsole)
				}
				return err
			},
		},
		{
			name: "console of nothing",
			rule: "A max below 1 is InvalidArgument.",
			check: func(ctx context.Context, e *bench) error {
				m, err := e.running(ctx)
				if err != nil {
					return err
				}
				for _, max := range []int{0, -1} {
					_, err := e.Driver.Console(ctx, m.ID, max)
					if err := class("Console", err, errdefs.ErrInvalidArgument); err != nil {
						return err
					}
				}
				return nil
			},
		},
	}
}

// booted waits until the guest of id has booted the n-th time since its console log was new.
func (e *bench) booted(ctx context.Context, id string, n int) error {
	if e.Banner == "" {
		return nil
	}
	return e.wait(ctx, func() error {
		text, err := e.Driver.Console(ctx, id, maxConsole)
		if err != nil {
			return fmt.Errorf("reading the console: %w", err)
		}
		if got := bytes.Count(text, []byte(e.Banner)); got < n {
			return fmt.Errorf("the banner came %d times, want %d; the console ends with %q", got, n, text[max(0, len(text)-300):])
		}
		return nil
	})
}
