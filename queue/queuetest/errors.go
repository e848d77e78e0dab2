package queuetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func errorRows() []row {
	return []row{
		{
			name:  "a lost network",
			rule:  "A bus with a network behind it that has no connection, or loses it while a call waits, says so with an error of class Unavailable",
			needs: func(e Env) bool { return e.Sever != nil },
			check: func(ctx context.Context, e *rig) error {
				begun := make(chan struct{})
				if _, err := serve(e.far(), e.topic("cut"), func(context.Context, queue.Message) ([]byte, error) {
					close(begun)
					<-e.gate
					return nil, nil
				}); err != nil {
					return err
				}
				var waited error
				ended := async(func() { _, waited = e.call(ctx, e.topic("cut"), "") })
				if err := e.wait("the handler begins", begun); err != nil {
					return err
				}
				e.Sever()
				if err := e.wait("the call that waits ends", ended); err != nil {
					return err
				}
				if !errdefs.IsUnavailable(waited) {
					return fmt.Errorf("a call that lost its network ended with %w, not Unavailable", waited)
				}
				if _, err := e.call(ctx, e.topic("cut"), ""); !errdefs.IsUnavailable(err) {
					return fmt.Errorf("a call without a network ended with %w, not Unavailable", err)
				}
				return nil
			},
		},
		{
			name:  "a user who may not",
			rule:  "one that the network does not allow to send or serve, with PermissionDenied",
			needs: func(e Env) bool { return e.Barred != nil },
			check: func(ctx context.Context, e *rig) error {
				seen := &tally{}
				if _, err := serve(e.far(), e.topic("barred"), seen.handle); err != nil {
					return err
				}
				bus := e.Barred()
				e.Buses = append([]queue.Bus{bus}, e.Buses...) // to be closed
				m := queue.Message{Topic: e.topic("barred"), Body: []byte("barred")}
				_, err := e.callFrom(ctx, bus, m.Topic, "barred")
				if err := is("Call", err, errdefs.ErrPermissionDenied); err != nil {
					return err
				}
				called, err := e.callAsync(ctx, bus, m)
				if err := errors.Join(err, is("CallAsync", called.err, errdefs.ErrPermissionDenied)); err != nil {
					return err
				}
				for _, err := range []error{bus.Cast(ctx, m), bus.Fanout(ctx, m)} { // a bus need not know what becomes of them
					if err != nil && !errdefs.IsPermissionDenied(err) {
						return fmt.Errorf("a cast or fanout: got error %w, want none or %q", err, errdefs.ErrPermissionDenied)
					}
				}
				_, err = bus.Serve(m.Topic, seen.handle)
				if err := is("Serve", err, errdefs.ErrPermissionDenied); err != nil {
					return err
				}
				e.quiet()
				if answer, err := e.callFrom(ctx, e.far(), m.Topic, "free"); err != nil || answer != "free" {
					return fmt.Errorf("Call() of a user who may = %q, %v", answer, err)
				}
				return errors.Join(seen.each(1, "free"), seen.each(0, "barred"))
			},
		},
		{
			name: "a handler's error",
			rule: "An error that a handler returns comes out of the caller's Call with the same class of package errdefs and the same text, as a [*Failure]",
			check: func(ctx context.Context, e *rig) error {
				classes := []error{errdefs.ErrUnknown, errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists,
					errdefs.ErrPermissionDenied, errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition, errdefs.ErrConflict,
					errdefs.ErrNotModified, errdefs.ErrAborted, errdefs.ErrOutOfRange, errdefs.ErrNotImplemented, errdefs.ErrInternal,
					errdefs.ErrUnavailable, errdefs.ErrDataLoss, errdefs.ErrUnauthenticated}
				if _, err := serve(e.far(), e.topic("fail"), func(_ context.Context, m queue.Message) ([]byte, error) {
					return []byte("answer"), fmt.Errorf("wörds \"\\\n for class %d: %w", m.Body[0], classes[m.Body[0]])
				}); err != nil {
					return err
				}
				for n, class := range classes {
					want := fmt.Errorf("wörds \"\\\n for class %d: %w", n, class)
					answer, err := e.call(ctx, e.topic("fail"), string([]byte{byte(n)}))
					if failure := new(queue.Failure); !errors.As(err, &failure) {
						return fmt.Errorf("the handler's error came out as %T: %v", err, err)
					}
					if !errors.Is(err, class) || err.Error() != want.Error() || answer != "" {
						return fmt.Errorf("the error %q of class %q came out as %q of class %q, with the answer %q",
							want, class, err, errdefs.Resolve(err), answer)
					}
					d, err := e.callAsync(ctx, e.near(), queue.Message{Topic: e.topic("fail"), Body: []byte{byte(n)}})
					if err != nil {
						return err
					}
					if len(d.answer) != 0 || !errors.Is(d.err, class) || d.err.Error() != want.Error() {
						return fmt.Errorf("the error %q came out of CallAsync as %v", want, d.err)
					}
				}
				return nil
			},
		},
		{
			name: "nothing else of an error travels",
			rule: "so a caller can ask errdefs.IsNotFound(err) but not compare it with a variable",
			check: func(ctx context.Context, e *rig) error {
				mine := fmt.Errorf("mine: %w", errdefs.ErrNotFound)
				if _, err := serve(e.far(), e.topic("mine"), func(context.Context, queue.Message) ([]byte, error) { return nil, mine }); err != nil {
					return err
				}
				if _, err := e.call(ctx, e.topic("mine"), ""); errors.Is(err, mine) || !errdefs.IsNotFound(err) {
					return fmt.Errorf("the error came out as %#v", err)
				}
				return nil
			},
		},
		{
			name: "a handler's context error",
			rule: "A handler's context error is its own and not the caller's: errdefs.IsCanceled(f) is true then, but errors.Is(f, context.Canceled) is not.",
			check: func(ctx context.Context, e *rig) error {
				if _, err := serve(e.far(), e.topic("ctx"), func(_ context.Context, m queue.Message) ([]byte, error) {
					if string(m.Body) == "canceled" {
						return nil, context.Canceled
					}
					return nil, fmt.Errorf("too slow: %w", context.DeadlineExceeded)
				}); err != nil {
					return err
				}
				if _, err := e.call(ctx, e.topic("ctx"), "canceled"); errors.Is(err, context.Canceled) || !errdefs.IsCanceled(err) {
					return fmt.Errorf("context.Canceled came out as %#v", err)
				}
				if _, err := e.call(ctx, e.topic("ctx"), ""); errors.Is(err, context.DeadlineExceeded) || !errdefs.IsDeadlineExceeded(err) {
					return fmt.Errorf("context.DeadlineExceeded came out as %#v", err)
				}
				return nil
			},
		},
		{
			name: "a handler that panics",
			rule: "A handler that panics, or ends its goroutine, is answered with Internal; the server goes on.",
			check: func(ctx context.Context, e *rig) error {
				return e.survives(ctx, func() { panic("a handler of the suite panics, as it should") })
			},
		},
		{
			name: "a handler that ends its goroutine",
			rule: "A handler that panics, or ends its goroutine, is answered with Internal; the server goes on.",
			check: func(ctx context.Context, e *rig) error {
				return e.survives(ctx, runtime.Goexit)
			},
		},
		{
			name: "a body over the limit",
			rule: "InvalidArgument for a topic or body outside the limits",
			check: func(ctx context.Context, e *rig) error {
				if _, err := serve(e.far(), e.topic("big"), (&tally{}).handle); err != nil {
					return err
				}
				for _, try := range sends(e.near(), e.topic("big"), make([]byte, queue.MaxBody+1)) {
					if err := is(try.method, try.send(ctx), errdefs.ErrInvalidArgument); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "a ctx that has ended",
			rule: "or the error of the caller's ctx, unwrapped",
			check: func(ctx context.Context, e *rig) error {
				seen := &tally{}
				if _, err := serve(e.far(), e.topic("ended"), seen.handle); err != nil {
					return err
				}
				ended, cancel := context.WithCancel(ctx)
				cancel()
				for _, try := range sends(e.near(), e.topic("ended"), nil) {
					if err := try.send(ended); err != context.Canceled {
						return fmt.Errorf("%s: got error %v, want %v", try.method, err, context.Canceled)
					}
				}
				late, cancel := context.WithTimeout(ctx, -1)
				defer cancel()
				for _, try := range sends(e.near(), e.topic("ended"), nil) {
					if err := try.send(late); err != context.DeadlineExceeded {
						return fmt.Errorf("%s: got error %v, want %v", try.method, err, context.DeadlineExceeded)
					}
				}
				return nil
			},
		},
	}
}

// survives checks a server whose handlers end badly, more of them than it has workers.
func (e *rig) survives(ctx context.Context, end func()) error {
	topic := e.topic("bad")
	if _, err := serve(e.far(), topic, func(_ context.Context, m queue.Message) ([]byte, error) {
		if string(m.Body) == "bad" {
			end()
		}
		return m.Body, nil
	}); err != nil {
		return err
	}
	for n := range 2*e.Workers + 2 {
		if _, err := e.call(ctx, topic, "bad"); !errdefs.IsInternal(err) {
			return fmt.Errorf("Call() %d: got error %v, want one of class %q", n+1, err, errdefs.ErrInternal)
		}
		if err := e.cast(ctx, topic, "bad"); err != nil {
			return err
		}
		if answer, err := e.call(ctx, topic, "good"); err != nil || answer != "good" {
			return fmt.Errorf("a call after that = %q, %v", answer, err)
		}
	}
	return nil
}
