package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/containerd/errdefs"
)

// Failure is a handler's error as it travels: its class and its text. A bus sends it in place of the answer and returns
// it to the caller.
type Failure struct {
	Class string `json:"class"` // one of errdefs' names, as in "not found"; anything else is read as "unknown"
	Text  string `json:"text"`  // of the error
	Stack string `json:"-"`     // where a handler panicked, for the log on its own side; it does not travel
}

// Error returns the text.
func (f *Failure) Error() string { return f.Text }

// Unwrap returns the class, so that errdefs.IsNotFound(f) and its like say of f what they said of the handler's error. A
// handler's context error is its own and not the caller's: errdefs.IsCanceled(f) is true then, but
// errors.Is(f, context.Canceled) is not.
func (f *Failure) Unwrap() error {
	if class, ok := classes[f.Class]; ok {
		return class
	}
	return errdefs.ErrUnknown
}

// FailureOf returns err as it travels. A text over 4 KiB is cut.
func FailureOf(err error) *Failure {
	f := &Failure{Class: errdefs.Resolve(err).Error(), Text: err.Error()}
	if len(f.Text) > maxText {
		f.Text = strings.ToValidUTF8(f.Text[:maxText], "") + " …"
	}
	return f
}

const maxText = 4 << 10

// classes is constant: what each class is called in a message.
var classes = func() map[string]error {
	all := map[string]error{
		context.Canceled.Error():         canceled{},
		context.DeadlineExceeded.Error(): expired{},
	}
	for _, class := range []error{
		errdefs.ErrUnknown, errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists,
		errdefs.ErrPermissionDenied, errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition, errdefs.ErrConflict,
		errdefs.ErrNotModified, errdefs.ErrAborted, errdefs.ErrOutOfRange, errdefs.ErrNotImplemented, errdefs.ErrInternal,
		errdefs.ErrUnavailable, errdefs.ErrDataLoss, errdefs.ErrUnauthenticated,
	} {
		all[class.Error()] = class
	}
	return all
}()

// The classes of context errors on the other side of the bus. errdefs knows them by their methods.
type (
	canceled struct{}
	expired  struct{}
)

func (canceled) Error() string    { return context.Canceled.Error() }
func (canceled) Cancelled()       {}
func (expired) Error() string     { return context.DeadlineExceeded.Error() }
func (expired) DeadlineExceeded() {}

// Invoke runs h for a bus: a panic, the end of its goroutine (runtime.Goexit) and an answer over [MaxBody] become
// failures. If the goroutine ends, Invoke does not return; report runs in every case, exactly once and last.
func Invoke(ctx context.Context, h Handler, m Message, report func(answer []byte, f *Failure)) {
	var answer []byte
	var err error
	returned := false
	defer func() {
		var f *Failure
		switch p := recover(); {
		case p != nil:
			f = internal("queue: a handler of %s panicked: %v", m.Topic, p)
			f.Stack = string(debug.Stack())
		case !returned:
			f = internal("queue: a handler of %s ended its goroutine", m.Topic)
		case err != nil:
			f = FailureOf(err)
		case len(answer) > MaxBody:
			f = internal("queue: a handler of %s answered %d bytes, at most %d are possible", m.Topic, len(answer), MaxBody)
		}
		if f != nil {
			answer = nil
		}
		report(answer, f)
	}()
	answer, err = h(ctx, m)
	returned = true
}

func internal(format string, args ...any) *Failure {
	return FailureOf(fmt.Errorf(format+": %w", append(args, errdefs.ErrInternal)...))
}
